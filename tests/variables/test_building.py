"""Test which slots `build` creates, in which order and dtype."""

import re
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop
from tests.conftest import BACKEND
from tests.tools.two_weights import EVERYTHING, ones_like, two_weights


@pytest.mark.parametrize(
    ("arguments", "slots"),
    [
        ({}, ["square_average"]),
        ({"momentum": 0.9}, ["square_average", "momentum"]),
        ({"centered": True}, ["square_average", "gradient_average"]),
        ({"use_ema": True}, ["average", "square_average"]),
        ({"gradient_accumulation_steps": 2}, ["gradient_accumulator", "square_average"]),
        (
            EVERYTHING,
            ["average", "gradient_accumulator", "square_average", "momentum", "gradient_average"],
        ),
    ],
    ids=["plain", "momentum", "centered", "ema", "accumulation", "everything"],
)
def test_build_creates_the_slots_of_the_options_and_no_others(
    arguments: dict[str, Any], slots: list[str]
) -> None:
    optimizer = RMSprop(**arguments)
    optimizer.build(two_weights())
    assert [variable.name for variable in optimizer.variables] == [
        "iteration",
        "learning_rate",
        *(f"{weight}_{slot}" for slot in slots for weight in ("matrix", "scalar")),
    ]


@pytest.mark.parametrize("option", [*EVERYTHING, None])
def test_the_variables_match_those_of_keras_in_order(option: str | None) -> None:
    arguments = {option: EVERYTHING[option]} if option else EVERYTHING
    ours, theirs = RMSprop(**arguments), keras.optimizers.RMSprop(**arguments)
    variables = two_weights()
    ours.build(variables)
    theirs.build(variables)
    words = {"velocity": "square_average", "average_gradient": "gradient_average"}
    pattern = re.compile("velocity|average_gradient")
    translated = [pattern.sub(lambda m: words[m[0]], v.name) for v in theirs.variables]
    assert [v.name for v in ours.variables] == translated
    assert [v.shape for v in ours.variables] == [v.shape for v in theirs.variables]
    assert [v.dtype for v in ours.variables] == [v.dtype for v in theirs.variables]


def test_a_schedule_needs_no_variable() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    assert [v.name for v in RMSprop(learning_rate=schedule).variables] == ["iteration"]


def test_the_slots_carry_the_optimizers_name() -> None:
    optimizer = RMSprop(name="mine")
    optimizer.build(two_weights())
    assert {variable.path.split("/")[0] for variable in optimizer.variables} == {"mine"}


@pytest.mark.parametrize(
    ("dtype", "slots"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_a_slot_has_the_weights_dtype_but_never_less_than_float32(dtype: str, slots: str) -> None:
    optimizer = RMSprop(**EVERYTHING)
    optimizer.build(two_weights(dtype))
    assert {variable.dtype for variable in optimizer.variables[2:]} == {slots}


def test_slots_start_at_zero_and_the_square_average_at_its_initial_value() -> None:
    optimizer = RMSprop(initial_square_average=0.25, **EVERYTHING)
    optimizer.build(two_weights())
    for variable in optimizer.variables[2:]:
        start = 0.25 if "square_average" in variable.name else 0.0
        np.testing.assert_array_equal(variable.numpy(), np.full(variable.shape, start))


def test_a_float64_start_is_not_rounded_to_float32() -> None:
    optimizer = RMSprop(initial_square_average=0.1)
    optimizer.build(two_weights("float64"))
    assert optimizer.variables[-1].numpy() == 0.1


def test_building_twice_keeps_the_slots() -> None:
    optimizer = RMSprop()
    variables = two_weights()
    optimizer.build(variables)
    before = optimizer.variables
    optimizer.build(variables)
    assert all(a is b for a, b in zip(before, optimizer.variables, strict=True))


def test_the_first_call_builds() -> None:
    optimizer, variables = RMSprop(), two_weights()
    optimizer.apply(ones_like(variables), variables)
    assert optimizer.built
    assert int(optimizer.iterations) == 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.Variable is TensorFlow's")
def test_raw_tf_variables_can_be_trained() -> None:
    import tensorflow as tf

    optimizer, weight = RMSprop(0.1, epsilon=0.0), tf.Variable([1.0, 2.0], name="raw")
    optimizer.apply([tf.constant([3.0, -4.0])], [weight])
    np.testing.assert_allclose(weight.numpy(), [0.683772, 2.316228], rtol=1e-6)
    assert optimizer.variables[-1].name == "raw_0_square_average"
