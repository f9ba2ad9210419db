"""The recipes as a table."""

from collections.abc import Iterable, Sequence

from keras_rmsprop.recipes._rates import number, number_or_unknown
from keras_rmsprop.recipes._recipe import Recipe


def overview(recipes: Iterable[Recipe]) -> str:
    """Return a table of the recipes, to be read on a screen."""
    rows = [["recipe", "convention", "rho", "momentum", "epsilon", "learning rate"]]
    rows += [
        [
            recipe.name,
            recipe.convention + "*" * recipe.centered,
            *_numbers(recipe),
            recipe.rate_text,
        ]
        for recipe in recipes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", "* centered    ? not published; recipes.get asks for it"])


def markdown(recipes: Iterable[Recipe]) -> str:
    """Return a table of the recipes in Markdown, for the documentation."""
    head = ["recipe", "convention", "learning rate", "rho, momentum, epsilon", "weight decay"]
    head += ["average, clipping", "batch", "to be given"]
    rows = [_row(recipe) for recipe in recipes]
    return "\n".join(_line(cells) for cells in (head, ["---"] * len(head), *rows))


def _row(recipe: Recipe) -> list[str]:
    others = [f"average {recipe.average}"] if recipe.average is not None else []
    others += [str(recipe.clip)] if recipe.clip is not None else []
    return [
        f"`{recipe.name}`",
        recipe.convention + (", centered" if recipe.centered else ""),
        recipe.rate_text.replace("batch_size", "batch"),
        ", ".join(_numbers(recipe)),
        "" if recipe.weight_decay is None else str(recipe.weight_decay),
        ", ".join(others),
        "" if recipe.batch_size is None else number(recipe.batch_size),
        ", ".join(f"`{name}`" for name in (*recipe.needs, *recipe.unpublished)),
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _numbers(recipe: Recipe) -> list[str]:
    return [number_or_unknown(x) for x in (recipe.rho, recipe.momentum, recipe.epsilon)]
