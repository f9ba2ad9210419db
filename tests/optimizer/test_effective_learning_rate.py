"""Test what `effective_learning_rate` returns, and for which variables."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from tests.tools.two_weights import ones_like, two_weights


def test_the_effective_learning_rate_of_an_unbuilt_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"before the optimizer is built\. Make a step"):
        RMSprop().effective_learning_rate(two_weights()[0])


def test_the_effective_learning_rate_of_an_unknown_variable_is_refused() -> None:
    optimizer = RMSprop()
    optimizer.build(two_weights())
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.effective_learning_rate(keras.Variable(0.0))


@pytest.mark.parametrize("inside", [True, False])
def test_the_effective_learning_rate_is_the_step_of_a_unit_gradient(inside: bool) -> None:
    optimizer = RMSprop(0.1, rho=0.75, epsilon=0.25, epsilon_inside_sqrt=inside)
    variables = two_weights()
    optimizer.apply([2.0 * gradient for gradient in ones_like(variables)], variables)
    rate = optimizer.effective_learning_rate(variables[0])
    # s = (1 - rho) * 2**2 = 1
    expected = 0.1 / np.sqrt(1.25) if inside else 0.1 / 1.25
    np.testing.assert_allclose(ops.convert_to_numpy(rate), np.full((2, 3), expected), rtol=1e-6)
