"""JAX's variables and gradients: what they hold, and how values are assigned."""

import collections
import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental.sparse import JAXSparse

from keras_rmsprop._execution import _interrupts, _plain
from keras_rmsprop._execution._plain import assign
from keras_rmsprop._private import in_stateless_scope

Gradients = Sequence[jax.Array | None]


def read(variable: keras.Variable) -> jax.Array:
    """Return the variable's current value, the traced one inside a stateless scope."""
    return variable.value


def write(pairs: Iterable[tuple[Any, jax.Array]]) -> None:
    """Assign each value to its variable; outside a stateless scope all of them or none."""
    pairs = list(pairs)
    if in_stateless_scope():
        for variable, value in pairs:
            assign(variable, value)
    elif all(is_plain(variable) for variable, _ in pairs):
        values = [_as_held(variable, value) for variable, value in pairs]
        store([variable for variable, _ in pairs], values, at_once=True)
    else:
        _plain.write_whole(pairs, read, assign)


def snapshot(variables: Iterable[Any]) -> list[jax.Array]:
    """Return what variables hold, of one moment between two steps, whichever thread asks.

    It is one call in C, as is the one in which a step stores its results. Not for a stateless
    scope, which holds values of its own.
    """
    return list(map(_VALUE, variables))


def copy(value: jax.Array) -> jax.Array:
    """Return an array of its own, so that donating one buffer does not take the other."""
    return value.copy()


def shape_of(gradient: Any) -> tuple[int, ...]:
    """Return the gradient's shape; it may be a list or a number."""
    return tuple(gradient.shape) if hasattr(gradient, "shape") else np.shape(gradient)


def dense(gradient: Any, variable: keras.Variable) -> jax.Array:
    """Return the gradient, whatever Keras takes for one, as one value per weight."""
    if isinstance(gradient, jax.Array):
        return gradient
    if isinstance(gradient, JAXSparse):
        # Adds up what is given for one place more than once.
        return gradient.todense()
    # Lists and numbers have no dtype of their own.
    dtype = None if hasattr(gradient, "dtype") else variable.dtype
    return keras.ops.convert_to_tensor(gradient, dtype)


_VALUE = operator.attrgetter("_value")
IS_DELETED = operator.methodcaller("is_deleted")


def is_deleted(value: Any) -> bool:
    """Whether an array's buffer has been given away; a tracer has none."""
    return not isinstance(value, jax.core.Tracer) and value.is_deleted()


def is_plain(variable: Any) -> bool:
    """Whether assigning to a variable is to set an attribute, with no Python in between."""
    setter: object = type(variable).__setattr__
    return setter is object.__setattr__ and variable._layout is None


def store(owners: Sequence[Any], values: Sequence[jax.Array], at_once: bool) -> None:
    """Give each variable its array.

    Args:
        owners: the variables.
        values: an array for each, as it will hold it.
        at_once: whether the variables are plain. Then it is one call in C, in which Python
            handles no signal and lets no other thread run.
    """
    if at_once:
        collections.deque(map(setattr, owners, itertools.repeat("_value"), values), maxlen=0)
    else:
        with _interrupts.deferred():
            for owner, value in zip(owners, values, strict=True):
                owner._direct_assign(value)


def _as_held(variable: Any, value: Any) -> jax.Array:
    """The value as `assign` would hold it.

    Raises: ValueError if it has another shape than the variable.
    """
    array: jax.Array = variable._convert_to_tensor(value, dtype=variable._dtype)
    if array.shape != tuple(variable.shape):
        raise ValueError(
            f"{variable.path} has shape {tuple(variable.shape)}, the value to be assigned "
            f"{array.shape}."
        )
    return array
