"""Test that the page on the recipes is true: its table is that of the data, its examples run."""

import re

import pytest

from keras_rmsprop import recipes
from tests.tools import recipes_page


def blocks(language: str) -> list[str]:
    text = recipes_page.PAGE.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_table_is_that_of_the_data() -> None:
    _, table, _ = recipes_page.parts()
    assert table == recipes_page.table(), "run `python -m tests.tools.recipes_page`"


def test_every_recipe_has_a_row_with_its_numbers() -> None:
    _, table, _ = recipes_page.parts()
    rows = [re.findall(r"`(\w+)`", line.split(" | ")[0]) for line in table.splitlines()[2:]]
    assert rows == [[name] for name in recipes.names()]
    (row,) = [line for line in table.splitlines() if "`efficientnet`" in line]
    assert "0.016 x batch / 256, warm-up of 5 epochs from 0, x 0.97 every 2.4 epochs" in row
    assert "0.9, 0.9, 0.001" in row
    assert "`batch_size`, `steps_per_epoch`" in row


@pytest.mark.parametrize("number", range(2))
def test_the_examples_print_what_the_page_shows(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(blocks("python")[number], {})
    assert capsys.readouterr().out == blocks("text")[number]
