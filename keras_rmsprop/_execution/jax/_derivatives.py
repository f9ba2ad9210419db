"""Give the rule a square root that is differentiable at zero."""

import jax
import keras
from jax import numpy as jnp

from keras_rmsprop._math import _rule

_differentiable_sqrt = jax.custom_jvp(keras.ops.sqrt)


@_differentiable_sqrt.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y = _differentiable_sqrt(*primals)
    at_zero = y == 0.0
    safe = jnp.where(at_zero, jnp.ones_like(y), y)
    return y, jnp.where(at_zero, jnp.zeros_like(y), tangents[0] / (2.0 * safe))


def _sqrt(x: jax.Array) -> jax.Array:
    """Compute the square root, with 0 as its derivative at 0."""
    # Outside a trace nothing is differentiated, and `custom_jvp` costs as much as the root.
    is_traced = isinstance(x, jax.core.Tracer)
    root: jax.Array = _differentiable_sqrt(x) if is_traced else keras.ops.sqrt(x)
    return root


def install() -> None:
    """Make the rule use this square root."""
    _rule.sqrt = _sqrt
