"""Test which calls of `apply` are refused, and that a refused call changes nothing."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from tests.tools.two_weights import EVERYTHING, ones_like, two_weights, values_of

Call = Callable[[RMSprop, list[keras.Variable]], None]


def wrong_shape(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3)), ops.ones((3,))], variables)


def transposed(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((3, 2)), ops.ones(())], variables)


def too_few(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3))], variables)


def too_few_without_variables(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3))])


def twice(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([ops.ones((2, 3))] * 2, [variables[0]] * 2)


def unknown(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    stranger = keras.Variable(0.0, name="stranger")
    optimizer.apply([ops.ones((2, 3)), ops.ones(())], [variables[0], stranger])


def no_gradients(optimizer: RMSprop, variables: list[keras.Variable]) -> None:
    optimizer.apply([None, None], variables)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (wrong_shape, r"gradient of 'scalar' has shape \(3,\), but the variable has shape \(\)"),
        (transposed, r"gradient of 'matrix' has shape \(3, 2\), but the variable .*\(2, 3\)"),
        (too_few, "received 1 gradients for 2 variables"),
        (too_few_without_variables, "received 1 gradients for 2 variables"),
        (twice, "'matrix' occurs more than once .* Add its gradients up"),
        (unknown, "Unknown variable: .*stranger"),
        (no_gradients, "No gradients provided for any variable"),
    ],
)
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_refused_call_changes_nothing(call: Call, message: str, options: dict[str, Any]) -> None:
    optimizer, variables = RMSprop(0.1, weight_decay=0.1, **options), two_weights()
    for _ in range(3):
        optimizer.apply(ones_like(variables), variables)
    before = values_of([*variables, *optimizer.variables])
    with pytest.raises(ValueError, match=message):
        call(optimizer, variables)
    after = values_of([*variables, *optimizer.variables])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("call", [too_few, twice, no_gradients])
def test_a_refused_first_call_does_not_build(call: Call) -> None:
    optimizer = RMSprop()
    with pytest.raises(ValueError, match="gradient"):
        call(optimizer, two_weights())
    assert not optimizer.built


def test_gradients_without_variables_before_build_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"not built\. Pass the variables, or call `optimizer.bui"):
        RMSprop().apply([ops.ones(())])


@pytest.mark.parametrize("count", [0, 2])
def test_an_empty_list_of_gradients_makes_no_step(count: int) -> None:
    optimizer, variables = RMSprop(), two_weights()
    optimizer.build(variables[:count])
    optimizer.apply([], [])
    optimizer.apply([])
    assert int(optimizer.iterations) == 0


def test_a_missing_gradient_warns_and_leaves_its_weight_and_slots() -> None:
    optimizer, variables = RMSprop(0.1), two_weights()
    optimizer.build(variables)
    with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['scalar'\]"):
        optimizer.apply([ops.ones((2, 3)), None], variables)
    assert variables[1].numpy() == 0.5
    assert optimizer.variables[-1].numpy() == 0.0
    assert np.all(optimizer.variables[-2].numpy() > 0.0)
    assert int(optimizer.iterations) == 1


def test_the_order_of_the_variables_in_a_call_does_not_matter() -> None:
    results = []
    for order in (1, -1):
        optimizer, variables = RMSprop(0.1), two_weights()
        optimizer.build(variables)
        gradients = [3.0 * gradient for gradient in ones_like(variables)]
        for _ in range(2):
            optimizer.apply(gradients[::order], variables[::order])
        results.append(values_of([*variables, *optimizer.variables]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_apply_gradients_accepts_pairs_and_returns_the_number_of_calls() -> None:
    optimizer, variables = RMSprop(), two_weights()
    calls = optimizer.apply_gradients(zip(ones_like(variables), variables, strict=True))
    assert int(calls) == 1
