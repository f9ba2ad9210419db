"""Test `recipes`: what `keras_rmsprop.recipes` says, printed."""

import pytest

from keras_rmsprop import recipes
from tests.tools import commands


def test_without_a_name_all_are_listed():
    lines: list[str] = []
    recipes.list(lines.append)
    assert commands.succeeds("recipes") == f"{lines[0]}\n"


@pytest.mark.parametrize("name", ["mnasnet", "a2c_sb3"])
def test_with_a_name_all_about_it_is_printed(name):
    assert commands.succeeds("recipes", name) == f"{recipes.about(name)}\n"


def test_an_unknown_name_is_refused_with_similar_ones():
    assert "'mnasnet'" in commands.fails("recipes", "mnasnett")
