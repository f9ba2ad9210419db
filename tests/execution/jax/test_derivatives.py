"""Test that a step can be differentiated with respect to all of its inputs.

Only JAX's functional form is differentiable: `stateless_apply` returns the state after a step as a
function of the state before it, the gradient and the weight.
"""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

import jax
import jax.numpy as jnp

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipnorm": {"clipnorm": 1.0},
    "global_clipnorm": {"global_clipnorm": 1.0},
    "clipvalue": {"clipvalue": 1.0},
    "a large clipnorm": {"clipnorm": 1e30},
    "centered": {"centered": True},
    "momentum": {"momentum": 0.5, "nesterov": True},
    "no epsilon": {"epsilon": 0.0},
    "epsilon too small to count": {"epsilon": 1e-40},
    "epsilon outside": {"epsilon": 1e-3, "epsilon_inside_sqrt": False},
    "no epsilon outside": {"epsilon": 0.0, "epsilon_inside_sqrt": False},
    "bias correction": {"bias_correction": True, "epsilon": 1e-3},
    "average": {"use_ema": True},
    "accumulation": {"gradient_accumulation_steps": 2},
    "skipping": {"skip_nonfinite": True, "clipnorm": 1.0},
}
WEIGHTS = [np.array([1.0, -2.0]), np.array([[0.5, 0.25]])]
GRADIENTS = {
    "zero": [np.zeros(2), np.zeros((1, 2))],
    "one zero": [np.zeros(2), np.array([[3.0, -4.0]])],
    "one element zero": [np.array([0.0, 2.0]), np.array([[0.0, -0.5]])],
    "short": [np.array([0.1, 0.2]), np.array([[0.3, -0.4]])],
    "long": [np.array([3.0, 4.0]), np.array([[5.0, -12.0]])],
}


def step_of(**options: Any) -> tuple[Any, list[Any]]:
    """A step as a function of (gradients, weights, slots in floats), and those slots."""
    optimizer = keras_rmsprop.RMSprop(0.1, **options)
    optimizer.build([keras.Variable(w, dtype="float64") for w in WEIGHTS])
    state = [v.value for v in optimizer.variables]
    is_float = [x.dtype.kind == "f" for x in state]

    def step(gradients: Any, weights: Any, slots: Any) -> Any:
        given = iter(slots)
        whole = [next(given) if f else x for f, x in zip(is_float, state, strict=True)]
        after, left = optimizer.stateless_apply(whole, gradients, weights)
        return after, [x for f, x in zip(is_float, left, strict=True) if f]

    return step, [x for f, x in zip(is_float, state, strict=True) if f]


def sum_of(arrays: Any) -> Any:
    """The sum of all elements."""
    return sum(jnp.sum(x) for x in jax.tree.leaves(arrays))


@pytest.mark.parametrize("options", OPTIONS)
def test_no_derivative_of_a_step_is_nan(float64, options):
    step, slots = step_of(**OPTIONS[options])

    @jax.jit
    def derivatives(*inputs: Any) -> Any:
        """The derivatives of the sum of all results, in forward and in reverse mode."""
        ones = jax.tree.map(jnp.ones_like, inputs)
        _, forwards = jax.jvp(lambda *i: sum_of(step(*i)), inputs, ones)
        return forwards, jax.grad(lambda i: sum_of(step(*i)))(inputs)

    for name, gradients in GRADIENTS.items():
        forwards, backwards = derivatives(gradients, WEIGHTS, slots)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(backwards)), name
        np.testing.assert_allclose(forwards, sum_of(backwards), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("gradients", ["zero", "one element zero"])
@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_a_limit_that_is_not_reached_does_not_change_the_derivative(float64, clip, gradients):
    def derivative(**options: Any) -> Any:
        step, slots = step_of(**options)
        inputs = (GRADIENTS[gradients], WEIGHTS, slots)
        return jax.grad(lambda inputs: sum_of(step(*inputs)))(inputs)

    got, want = derivative(**{clip: 10.0}), derivative()
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_keras_has_the_same_derivative_where_it_has_one(float64, clip):
    def derivative(cls: Any) -> Any:
        optimizer = cls(0.1, **{clip: 1.0})
        optimizer.build([keras.Variable(w, dtype="float64") for w in WEIGHTS])
        state = [v.value for v in optimizer.variables]
        return jax.grad(lambda g: sum_of(optimizer.stateless_apply(state, g, WEIGHTS)[0]))(
            GRADIENTS["long"]
        )

    mine, theirs = (derivative(cls) for cls in (keras_rmsprop.RMSprop, keras.optimizers.RMSprop))
    for got, want in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)
