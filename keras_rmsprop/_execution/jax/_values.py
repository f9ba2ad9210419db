"""Read, convert and assign JAX variables and gradients."""

import collections
import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental.sparse import JAXSparse

from keras_rmsprop._execution import _interrupts, _op_by_op
from keras_rmsprop._execution._op_by_op import assign
from keras_rmsprop._private import in_stateless_scope

Gradients = Sequence[jax.Array | None]


def are_ready(gradients: Sequence[Any], shapes: list[tuple[int, ...]]) -> bool:
    """Whether all gradients are arrays, not tracers, of these shapes."""
    return all(map(_is_array, set(map(type, gradients)))) and (
        list(map(_get_shape, gradients)) == shapes
    )


def _is_array(type_: type) -> bool:
    """Whether this is the type of arrays with values."""
    return issubclass(type_, jax.Array) and not issubclass(type_, jax.core.Tracer)


def read(variable: keras.Variable) -> jax.Array:
    """Return the variable's current value; inside a stateless scope, the scope's."""
    return variable.value


def is_traced(variable: keras.Variable) -> bool:
    """Whether a function is being traced in which the variable has no value yet."""
    return isinstance(read(variable), jax.core.Tracer)


def write(pairs: Iterable[tuple[Any, jax.Array]]) -> None:
    """Assign each value to its variable; outside a stateless scope, all of them or none."""
    pairs = list(pairs)
    if in_stateless_scope():
        for variable, value in pairs:
            assign(variable, value)
    elif all(is_plain(variable) for variable, _ in pairs):
        values = [_converted(variable, value) for variable, value in pairs]
        store([variable for variable, _ in pairs], values, at_once=True)
    else:
        _op_by_op.write_all_or_nothing(pairs, read, assign)


def snapshot(variables: Iterable[Any]) -> list[jax.Array]:
    """Return the variables' arrays, all from between the same two steps, from any thread.

    This is a single C call, as is storing a step's results. Not for stateless scopes, which hold
    their own values.
    """
    return list(map(stored, variables))


def copy(value: jax.Array) -> jax.Array:
    """Return a copy with its own buffer, so that donating one does not delete the other."""
    return value.copy()


def shape_of(gradient: Any) -> tuple[int, ...]:
    """Return the gradient's shape; it may be a list or a number."""
    return tuple(gradient.shape) if hasattr(gradient, "shape") else np.shape(gradient)


def dense(gradient: Any, variable: keras.Variable) -> jax.Array:
    """Return any gradient that Keras accepts as a dense array."""
    if isinstance(gradient, jax.Array):
        return gradient
    if isinstance(gradient, JAXSparse):
        # Sums repeated indices.
        return gradient.todense()
    # Lists and numbers have no dtype of their own.
    dtype = None if hasattr(gradient, "dtype") else variable.dtype
    return keras.ops.convert_to_tensor(gradient, dtype)


# The array that a variable holds. Its property `value` would first look for a scope.
stored = operator.attrgetter("_value")
_get_shape = operator.attrgetter("shape")
IS_DELETED = operator.methodcaller("is_deleted")


def is_deleted(value: Any) -> bool:
    """Whether an array has been deleted or donated; never for a tracer."""
    return not isinstance(value, jax.core.Tracer) and value.is_deleted()


def is_plain(variable: Any) -> bool:
    """Whether assigning to a variable just sets an attribute, without running Python code."""
    setter: object = type(variable).__setattr__
    return setter is object.__setattr__ and variable._layout is None


def store(owners: Sequence[Any], values: Sequence[jax.Array], at_once: bool) -> None:
    """Store an array in each variable.

    Args:
        owners: the variables.
        values: their arrays, already converted.
        at_once: whether all variables are plain (see `is_plain`). They are then stored in a
            single C call, during which Python handles no signals and runs no other thread.
    """
    if at_once:
        # Dropping the last reference to an array would let other threads run in between.
        replaced = snapshot(owners)
        collections.deque(map(setattr, owners, itertools.repeat("_value"), values), maxlen=0)
        del replaced
    else:
        with _interrupts.deferred():
            for owner, value in zip(owners, values, strict=True):
                owner._direct_assign(value)


def _converted(variable: Any, value: Any) -> jax.Array:
    """Convert the value as `assign` would.

    Raises: ValueError if its shape is not the variable's.
    """
    array: jax.Array = variable._convert_to_tensor(value, dtype=variable._dtype)
    if array.shape != tuple(variable.shape):
        raise ValueError(
            f"{variable.path} has shape {tuple(variable.shape)}, the value to be assigned "
            f"{array.shape}."
        )
    return array
