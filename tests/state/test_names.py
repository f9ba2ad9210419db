"""Test that `state_dict` returns all state by name, and what `load_state_dict` accepts."""

import numpy as np
import pytest

import keras_rmsprop
from tests.tools import models
from tests.tools.states import (
    CALLS,
    EVERYTHING,
    SHAPE,
    assert_same_state,
    built,
    step,
    trained,
    weights,
)


def test_a_state_dict_holds_arrays_by_name_and_is_a_snapshot():
    variables = weights("a", "b")
    optimizer = trained(variables, momentum=0.5, skip_nonfinite=True)
    state = optimizer.state_dict()
    assert set(state) == {
        "iteration",
        "learning_rate",
        "skipped_steps",
        *(f"{name}/{kind}" for name in "ab" for kind in ("square_average", "momentum")),
    }
    assert all(type(value) is np.ndarray for value in state.values())
    before = {name: value.copy() for name, value in state.items()}
    step(optimizer, variables, range(CALLS, CALLS + 2))
    models.assert_identical(state.values(), before.values())


def test_a_state_dict_loads_by_name_into_another_order():
    old = trained(weights("a", "b"), **EVERYTHING)
    new = built(weights("b", "a"), **EVERYTHING)
    new.load_state_dict(old.state_dict())
    for name, value in old.state_dict().items():
        np.testing.assert_array_equal(new.state_dict()[name], value)


def test_a_state_dict_of_lists_and_numbers_is_accepted():
    optimizer = built(weights("a", shape=(2,)))
    optimizer.load_state_dict(
        {"iteration": 3, "learning_rate": 0.5, "a/square_average": [1.0, 2.0]}
    )
    assert int(optimizer.iterations) == 3
    np.testing.assert_array_equal(optimizer.state_dict()["a/square_average"], [1.0, 2.0])


def test_a_strict_state_dict_names_what_is_missing_and_what_is_unknown():
    optimizer = trained(weights("a"), momentum=0.5)
    before = optimizer.state_dict()
    state = dict(before, surplus=np.zeros(2))
    del state["a/momentum"]
    with pytest.raises(ValueError, match=r"Missing: \['a/momentum'\]. Unknown: \['surplus'\]"):
        optimizer.load_state_dict(state)
    assert_same_state(optimizer, before)


def test_a_state_dict_that_is_not_strict_loads_what_matches():
    optimizer = trained(weights("a"), momentum=0.5)
    state = optimizer.state_dict()
    with pytest.warns(UserWarning, match="afresh: iteration, learning_rate, a/momentum"):
        optimizer.load_state_dict({"a/square_average": state["a/square_average"]}, strict=False)
    assert optimizer.load_report.restored == ("a/square_average",)
    assert set(optimizer.load_report.initialized) == {"iteration", "learning_rate", "a/momentum"}
    assert int(optimizer.iterations) == 0
    assert not np.any(optimizer.state_dict()["a/momentum"])


def test_a_centered_state_dict_is_converted_for_an_optimizer_that_is_not_centered():
    variables = weights("a")
    old = trained(variables, centered=True).state_dict()
    new = built(variables)
    new.load_state_dict(old, strict=False)
    want = old["a/square_average"] + old["a/gradient_average"] ** 2
    np.testing.assert_array_equal(new.state_dict()["a/square_average"], want)


def test_a_state_dict_needs_a_built_optimizer():
    with pytest.raises(ValueError, match="must be built first"):
        keras_rmsprop.RMSprop().load_state_dict({})


WRONG = {
    "a shape": (np.zeros((3, 4)), r"shape \(3, 4\).*shape \(4, 3\)"),
    "text": (np.full(SHAPE, "x"), "holds no numbers"),
    "objects": (np.full(SHAPE, object()), "holds no numbers"),
}


@pytest.mark.parametrize(("value", "message"), WRONG.values(), ids=WRONG)
def test_a_state_dict_with_a_wrong_entry_is_refused_completely(value, message):
    optimizer = trained(weights("a"), momentum=0.5)
    before = optimizer.state_dict()
    state = {name: array + 1 for name, array in before.items()} | {"a/momentum": value}
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert_same_state(optimizer, before)
