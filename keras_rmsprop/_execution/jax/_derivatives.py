"""Make the rule differentiable: its square root at zero, and the rounding of slots."""

from typing import Any

import jax
import keras
from jax import numpy as jnp

from keras_rmsprop._math import _rounding, _rule

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


# The derivative of the mean over the random numbers, which is the number that is rounded.
_differentiable_rounding = jax.custom_jvp(_rounding.to_bfloat16)


@_differentiable_rounding.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    return _differentiable_rounding(*primals), tangents[0].astype(jnp.bfloat16)


def _bitcast(tensor: jax.Array, dtype: str) -> jax.Array:
    return jax.lax.bitcast_convert_type(tensor, jnp.dtype(dtype))


def install() -> None:
    """Make the rule use these functions."""
    _rule.sqrt = _sqrt
    _rounding.bitcast = _bitcast
    _rounding.rounded = _differentiable_rounding
