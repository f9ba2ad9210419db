"""Describe a configuration by its equations.

The equations are valid Python, one assignment per line: the tests execute the text and compare it
with `keras_rmsprop.reference`. `_latex` typesets the same lines.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import backend

from keras_rmsprop._settings import _validation
from keras_rmsprop._settings._groups import OF_A_GROUP, SettingsByPattern

# An equation and its explanation; one of the two may be empty.
Line = tuple[str, str]

# The cells of a table, row by row, with the headings first.
Rows = list[list[str]]

_WIDTH = 44


class Block(NamedTuple):
    """Equations that are carried out together, under a heading that may be empty."""

    heading: str
    lines: tuple[Line, ...]


def equations(
    config: Mapping[str, Any], learning_rate: Any, *, constrained: bool = False
) -> list[Block]:
    """Write out a step of the optimizer with its numbers, leaving out inactive parts.

    `t` counts steps from 1, `calls` the calls before this one.

    Args:
        config: the hyperparameters by name.
        learning_rate: a number, a scalar array or variable, a schedule or a callable.
        constrained: whether any variable has a constraint.
    """
    steps = config["gradient_accumulation_steps"]
    whole, completing, end = "In step t = 1, 2, ..., with gradient g of the weight w:", "", ""
    if steps is not None:
        whole = f"In each call, with gradient g of the weight w; t = calls // {steps} + 1:"
        completing, end = f"In every call number {steps} * t:", "At the end of each call:"
    blocks = [
        Block("At the start:", tuple(_start(config))),
        Block(whole, tuple(_gradient(config))),
        Block(completing, tuple(_step(config, _rate(learning_rate)))),
    ]
    last = tuple(_after(config, constrained))
    return [*blocks, Block(end, last)] if last else blocks


def describe(config: Mapping[str, Any], learning_rate: Any, *, constrained: bool = False) -> str:
    """Return the equations as lines of text.

    Args:
        config: the hyperparameters by name, and `name`.
        learning_rate: as for `equations`.
        constrained: whether any variable has a constraint.
    """
    return as_text(config["name"], equations(config, learning_rate, constrained=constrained))


def as_text(name: str, blocks: Sequence[Block]) -> str:
    """Return the equations of the optimizer of this name as lines of text."""
    text = [f"{name}: RMSprop"]
    for heading, lines in blocks:
        text += [heading] if heading else []
        text += [f"    {equation:<{_WIDTH}}  {meaning}".rstrip() for equation, meaning in lines]
    return "\n".join(text)


def _start(config: Mapping[str, Any]) -> Iterator[Line]:
    about = "variance of the gradient" if config["centered"] else "mean of squared gradients"
    yield f"s = {_text(config['initial_square_average'])}", f"square average: running {about}"
    if config["centered"]:
        yield "m = 0", "gradient average: running mean of gradients"
    if config["momentum"] > 0.0:
        yield "b = 0", "momentum buffer"
    if config["state_dtype"] is not None:
        slots = "s" + ", m" * config["centered"] + ", b" * (config["momentum"] > 0.0)
        yield "", f"{slots} rounded to {config['state_dtype']} at random after each step"
    if config["gradient_accumulation_steps"] is not None:
        yield "total = 0", "accumulator"
    if config["use_ema"]:
        yield "a = 0", "moving average of the weight"


def _gradient(config: Mapping[str, Any]) -> Iterator[Line]:
    """Yield what happens to the gradient of each call."""
    if config["loss_scale_factor"] is not None:
        yield f"g = g / {_text(config['loss_scale_factor'])}", "undo the scaling of the loss"
    if config["skip_nonfinite"]:
        yield "", "if g, or g**2, is not finite for any weight, the call ends here"
    if config["gradient_accumulation_steps"] is not None:
        yield "total = total + g", "accumulate"


def _step(config: Mapping[str, Any], learning_rate: Line) -> Iterator[Line]:
    """Yield the lines from the step's gradient to the new weight."""
    steps = config["gradient_accumulation_steps"]
    if steps is not None:
        yield f"g = total / {steps}", "mean of the accumulated gradients"
        yield "total = 0", ""
    if config["clipvalue"] is not None:
        limit = _text(config["clipvalue"])
        yield f"g = clip(g, -{limit}, {limit})", "clip each element"
    if config["clipnorm"] is not None:
        yield f"g = g * min(1, {_text(config['clipnorm'])} / norm(g))", "clip each gradient"
    if config["global_clipnorm"] is not None:
        limit = _text(config["global_clipnorm"])
        yield f"g = g * min(1, {limit} / norm(all_g))", "clip all gradients together"
    if config["transform"] is not None:
        yield f"g = {_name(config['transform'])}(g, w)", "transform"
    if config["maximize"]:
        yield "g = -g", "ascend"
    if config["l2"] > 0.0:
        yield f"g = g + {_text(config['l2'])} * w", "L2 penalty"
    yield learning_rate
    if config["weight_decay"]:
        decay = _text(config["weight_decay"])
        yield f"w = w - lr * {decay} * w", "decoupled decay, where not excluded"
    yield from _averages(config)
    yield from _update_lines(config)


def _rate(learning_rate: Any) -> Line:
    if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        try:
            arguments = learning_rate.get_config()
        except Exception:
            # It has none, or it cannot be saved.
            arguments = {}
        return "lr = schedule(calls)", _call(type(learning_rate).__name__, arguments)
    if callable(learning_rate):
        return (
            "lr = rate()",
            f"{getattr(learning_rate, '__name__', 'a callable')}, called each time",
        )
    digits = 7 if is_narrow(learning_rate) else 15
    return f"lr = {float(learning_rate):.{digits}g}", "learning rate"


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write an object of a config as a call, also if there are such objects in it."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping) and {"class_name", "config"} <= set(value):
            return _call(str(value["class_name"]), value["config"] or {})
        return repr(value)

    given = (f"{key}={text(x)}" for key, x in arguments.items() if x is not None)
    return f"{name}({', '.join(given)})"


def is_narrow(number: Any) -> bool:
    """Whether a scalar, such as that of a variable, is narrower than a Python float."""
    has_dtype = isinstance(number, keras.Variable | np.generic | np.ndarray)
    return has_dtype and backend.standardize_dtype(number.dtype) != "float64"


def _averages(config: Mapping[str, Any]) -> Iterator[Line]:
    rho = config["rho"]
    keep, k = _text(rho), _text(1.0 - rho)
    if config["bias_correction"]:
        yield (
            f"k = (1 - {keep}) / (1 - {keep}**t)",
            "weight of the new value, corrected for the start",
        )
        keep, k = "(1 - k)", "k"
    if config["centered"]:
        yield "d = g - m", ""
        yield f"m = m + {k} * d", ""
        yield f"s = {keep} * (s + {k} * d**2)", ""
    else:
        yield f"s = {keep} * s + {k} * g**2", ""


def _update_lines(config: Mapping[str, Any]) -> Iterator[Line]:
    epsilon, momentum = _text(config["epsilon"]), _text(config["momentum"])
    inside = config["epsilon_inside_sqrt"]
    yield f"r = sqrt(s + {epsilon})" if inside else f"r = sqrt(s) + {epsilon}", ""
    at_zero = "u is 0 where g and r are 0" if config["epsilon"] == 0.0 else ""
    if config["momentum"] == 0.0:
        yield "u = g / r", at_zero
        yield "w = w - lr * u", ""
        return
    yield ("u = lr * g / r" if config["lr_in_momentum"] else "u = g / r"), at_zero
    yield f"b = {momentum} * b + u", ""
    ahead = f"({momentum} * b + u)" if config["nesterov"] else "b"
    meaning = "look ahead along the buffer (Nesterov)" if config["nesterov"] else ""
    yield f"w = w - {ahead}" if config["lr_in_momentum"] else f"w = w - lr * {ahead}", meaning


def _after(config: Mapping[str, Any], constrained: bool) -> Iterator[Line]:
    """Yield what follows the update."""
    if config["use_ema"]:
        momentum = config["ema_momentum"]
        average = f"{_text(momentum)} * a + {_text(1.0 - momentum)} * w"
        yield f"a = {average} if t > 1 else w", "moving average of the weights"
        frequency = config["ema_overwrite_frequency"]
        if frequency is not None:
            yield f"w = a if t % {frequency} == 0 else w", "overwrite them with it"
    if constrained:
        yield "w = constraint(w)", "of the variables that have one"


def groups_table(
    config: Mapping[str, Any],
    groups: SettingsByPattern,
    variables: Sequence[tuple[str, str | None, bool]],
) -> Rows:
    """Return the settings of each variable, as the rows of a table.

    Args:
        config: the hyperparameters of the optimizer by name.
        groups: for each pattern, the settings of its variables.
        variables: for each built variable, its path, its pattern or None, and whether it is
            excluded from weight decay.

    Returns: a column for each setting that some group has for itself.
    """
    names = [name for name in OF_A_GROUP if any(name in own for own in groups.values())]
    if any(excluded for _, _, excluded in variables) and "weight_decay" not in names:
        names.append("weight_decay")
    default = {**config, "learning_rate": 1.0}
    rows = [["variables", "group", *("lr times" if n == "learning_rate" else n for n in names)]]
    if not variables:
        rows = [
            rows[0][1:],
            *([repr(p), *_settings({**default, **groups[p]}, names)] for p in groups),
        ]
        rows.append(["all others", *_settings(default, names)])
    for path, pattern, excluded in variables:
        own = {**default, **(groups[pattern] if pattern is not None else {})}
        if excluded and own["weight_decay"]:
            own["weight_decay"] = "excluded"
        rows.append([path, "" if pattern is None else repr(pattern), *_settings(own, names)])
    return rows


def table_as_text(heading: str, rows: Rows) -> str:
    """Return a table as lines of text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([heading, *(f"    {line}" for line in lines)])


def table_as_markdown(rows: Rows) -> str:
    """Return a table in Markdown; cells with its special characters, such as paths, as code."""
    head, *body = rows
    # In a table, "|" ends a cell even in code.
    marked = [[in_markdown(cell).replace("|", r"\|") for cell in row] for row in body]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *marked])


def in_markdown(text: str) -> str:
    """Return text that Markdown shows as it is: as code if it has special characters."""
    return as_code(text) if _MARKUP.search(text) or not text.isprintable() else text


_MARKUP = re.compile(r"[*_`|<>\[\]\\#~&$]")


def as_code(text: str) -> str:
    """Return text as code in Markdown, where nothing in it is special."""
    # Code is of one line, and ends where as many backticks come as it began with.
    line = "".join(c if c.isprintable() else " " for c in text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line[:1] == "`" or line[-1:] == "`" or not line.strip() else ""
    return f"{fence}{space}{line}{space}{fence}"


def _settings(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    values = [settings[name] for name in names]
    return [
        _name(v) if callable(v) else _text(v) if isinstance(v, float) else str(v) for v in values
    ]


def _name(function: Any) -> str:
    """Return the name of a transform."""
    return str(getattr(function, "__name__", None) or _validation.name_of_transform(function))


def _text(number: float) -> str:
    """Format a number without rounding noise, so that 1 - 0.9 reads 0.1."""
    return f"{number:.15g}"
