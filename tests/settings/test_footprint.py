"""Test what is said of the memory that the state takes."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop
from keras_rmsprop._settings import _footprint
from tests.tools.models import WithPath
from yardsticks.agreement import rmsprop

SLOTS = ("square_average", "gradient_average", "momentum", "accumulator", "average")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"centered": True, "momentum": 0.9},
    {"gradient_accumulation_steps": 2, "use_ema": True},
    {"momentum": 0.9, "use_ema": True, "skip_nonfinite": True},
]


def state_in(optimizer: Any) -> str:
    """What a description says of the state."""
    printed: list[str] = []
    optimizer.describe(print_fn=printed.append)
    (line,) = [line for line in printed[0].splitlines() if line.startswith("State: ")]
    return line.removeprefix("State: ")


def test_the_state_of_a_built_optimizer_is_listed_by_kind() -> None:
    optimizer = rmsprop(momentum=0.9)
    optimizer.build([keras.Variable(np.zeros(shape, "float32")) for shape in [(256, 64), (512,)]])
    assert state_in(optimizer) == (
        "132.0 KiB in 4 arrays, 8 bytes per parameter: square_average 66.0 KiB (2 float32), "
        "momentum 66.0 KiB (2 float32); and 2 scalars."
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_bytes_are_those_of_the_arrays(options: dict[str, Any]) -> None:
    optimizer = rmsprop(**options)
    optimizer.build([WithPath("a", np.ones((3, 5), "float32")), WithPath("b")])
    arrays = [x for name, x in optimizer.state_dict().items() if name.endswith(SLOTS)]
    size = sum(x.nbytes for x in arrays)
    said = f"{size} bytes in {len(arrays)} arrays, {size / 16:.3g} bytes per parameter: "
    assert state_in(optimizer).startswith(said)
    scalars = 3 if "skip_nonfinite" in options else 2
    assert state_in(optimizer).endswith(f"; and {scalars} scalars.")


@pytest.mark.parametrize(
    "options", [*OPTIONS, {"state_dtype": "bfloat16", "momentum": 0.5}], ids=str
)
def test_what_is_said_before_the_build_comes_true(options: dict[str, Any]) -> None:
    optimizer = rmsprop(**options)
    before = state_in(optimizer)
    optimizer.build([keras.Variable(np.zeros(7, "float32"))])
    per_parameter = state_in(optimizer).partition(" bytes per parameter")[0].rpartition(", ")[2]
    assert before.startswith(f"none before the build; then {per_parameter} bytes per float32 ")


def test_before_the_build_the_kinds_are_named() -> None:
    assert state_in(rmsprop(centered=True, use_ema=True)) == (
        "none before the build; then 12 bytes per float32 parameter "
        "(square_average, gradient_average, average)."
    )


def test_groups_may_need_different_amounts() -> None:
    optimizer = rmsprop(groups={"a": {"momentum": 0.9}})
    assert "then 4 to 8 bytes per float32 parameter (square_average, momentum)" in state_in(
        optimizer
    )
    optimizer.build([WithPath("a", np.ones(3, "float32")), WithPath("b", np.ones(5, "float32"))])
    assert state_in(optimizer).startswith(
        "44 bytes in 3 arrays, 5.5 bytes per parameter: square_average 32 bytes (2 float32), "
        "momentum 12 bytes (1 float32); and "
    )


def test_half_precision_weights_have_wider_slots() -> None:
    optimizer = rmsprop()
    optimizer.build([keras.Variable(np.zeros(8), dtype="float16")])
    assert "4 bytes per parameter: square_average 32 bytes (1 float32)" in state_in(optimizer)


def test_slots_in_bfloat16_take_two_bytes() -> None:
    optimizer = rmsprop(state_dtype="bfloat16")
    optimizer.build([keras.Variable(np.zeros(8, "float32"))])
    assert "2 bytes per parameter: square_average 16 bytes (1 bfloat16)" in state_in(optimizer)


def test_variables_of_a_subclass_are_counted_by_its_name() -> None:
    class Counting(RMSprop):
        def build(self, variables: Any) -> None:
            super().build(variables)
            self.seen = self.add_variable((4,), dtype="float32", name="seen")

    optimizer = Counting()
    optimizer.build([keras.Variable(np.zeros(8, "float32"))])
    assert "variables of Counting 16 bytes (1 float32); and 2 scalars" in state_in(optimizer)


def test_an_optimizer_of_nothing_holds_scalars() -> None:
    assert _footprint.footprint([], 0, 2).in_words() == "none, and 2 scalars."


@pytest.mark.parametrize(
    ("size", "words"),
    [(1023, "1023 bytes"), (1024, "1.0 KiB"), (12 * 2**20, "12.0 MiB"), (3 * 2**39, "1.5 TiB")],
)
def test_sizes_are_in_readable_units(size: int, words: str) -> None:
    held = _footprint.footprint([("momentum", (size,), "int8")], 0, 1)
    assert held.summary() == f"{words} in 1 array"
