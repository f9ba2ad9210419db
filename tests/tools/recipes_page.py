"""Write the table of `docs/recipes.md` from the data: `python -m tests.tools.recipes_page`."""

from pathlib import Path

from keras_rmsprop.recipes import _text
from keras_rmsprop.recipes._table import RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BEGIN, END = "<!-- table: begin -->\n", "\n<!-- table: end -->"


def parts() -> tuple[str, str, str]:
    """Return the page before the table, the table, and the page after it."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    return before, table, after


def table() -> str:
    """Return the table as it should be."""
    return _text.markdown(RECIPES.values())


def main() -> None:
    """Replace the table."""
    before, _, after = parts()
    PAGE.write_text(before + BEGIN + table() + END + after, "utf-8")


if __name__ == "__main__":
    main()
