"""Read, convert and assign TensorFlow variables and gradients."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rmsprop._execution import _op_by_op
from keras_rmsprop._execution.tensorflow._private import (
    EagerTensor,
    dtype_number_of_eager,
    read_variable_op,
    shape_of_eager,
)
from keras_rmsprop._execution.tensorflow._rows import (
    checked_rows,
    densify,
    is_sparse,
    shape_of_rows,
)
from keras_rmsprop._execution.tensorflow._table_access import gather_rows, scatter_rows
from keras_rmsprop._math import _rounding
from keras_rmsprop._private import in_stateless_scope

Gradients = Sequence[tf.Tensor | tf.IndexedSlices | None]

# Variables with their new values, or with new values for some of their rows.
Pairs = list[tuple[Any, tf.Tensor | tf.IndexedSlices]]


def are_ready(gradients: Sequence[Any], shapes: list[tuple[int, ...]]) -> bool:
    """Whether all gradients are dense eager tensors of floating dtype and of these shapes."""
    return (
        are_eager(gradients)
        and list(map(shape_of_eager, gradients)) == shapes
        and all(map(_is_floating, set(map(dtype_number_of_eager, gradients))))
    )


def are_eager(gradients: Sequence[Any]) -> bool:
    """Whether all gradients are dense eager tensors."""
    return set(map(type, gradients)) == {EagerTensor}


@functools.cache
def _is_floating(dtype_number: int) -> bool:
    return bool(tf.as_dtype(dtype_number).is_floating)


def read(variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the variable's current value; in a replica, the value of its own copy."""
    return tf.convert_to_tensor(variable)


def install() -> None:
    """Make the rounding of slots use TensorFlow's conversion."""
    _rounding.bitcast = tf.bitcast


def is_traced(_: Any) -> bool:
    """Whether a graph is being built, in which variables have no values yet."""
    return not tf.executing_eagerly()


def write(pairs: Iterable[tuple[Any, tf.Tensor | tf.IndexedSlices]]) -> None:
    """Assign each value, or the given rows, to its variable.

    When executing eagerly, all or none of them are assigned.
    """
    if not tf.executing_eagerly() or in_stateless_scope():
        for variable, value in pairs:
            amount = None if in_stateless_scope() else _subtracted(variable, value)
            if amount is None:
                assign(variable, value)
            else:
                tf_variable(variable).assign_sub(amount)
        return
    targets = [(_Target.of(variable, value), value) for variable, value in pairs]
    _op_by_op.write_all_or_nothing(
        targets, _Target.read, lambda target, value: assign(target[0], value)
    )


def _subtracted(variable: Any, value: tf.Tensor | tf.IndexedSlices) -> tf.Tensor | None:
    """If a graph's value is `variable - x`, return x, otherwise None.

    `assign_sub` then replaces three operations by one, with bitwise the same result. In a graph of
    small tensors each operation costs more than its arithmetic.
    """
    if is_sparse(value) or value.op.type != "Sub" or value.consumers():
        return None
    if is_distributed(variable):
        return None
    minuend = value.op.inputs[0].op
    graph = value.graph
    if minuend.type != "ReadVariableOp" or not hasattr(graph, "capture"):
        return None
    handle = graph.capture(tf_variable(variable).handle)
    return value.op.inputs[1] if minuend.inputs[0].op is handle.op else None


class _Target(NamedTuple):
    """The target of an assignment."""

    variable: Any
    # The rows to overwrite; None for all.
    ids: tf.Tensor | None

    @classmethod
    def of(cls, variable: Any, value: tf.Tensor | tf.IndexedSlices) -> "_Target":
        return cls(variable, value.indices if is_sparse(value) else None)

    def read(self) -> tf.Tensor | tf.IndexedSlices:
        """Return the current value; a tensor does not change when the variable does."""
        variable = tf_variable(self.variable)
        if self.ids is not None:
            return tf.IndexedSlices(gather_rows(variable, self.ids), self.ids)
        if is_distributed(variable):
            return variable.read_value()
        return read_variable_op(variable.handle, variable.dtype)


def copy(value: tf.Tensor) -> tf.Tensor:
    """Return the value; TensorFlow's tensors are immutable."""
    return value


def shape_of(gradient: Any) -> tuple[int | None, ...]:
    """Return the gradient's shape, with None for unknown dimensions."""
    if isinstance(gradient, EagerTensor):
        return shape_of_eager(gradient)
    if is_sparse(gradient):
        return shape_of_rows(gradient)
    if not hasattr(gradient, "shape"):
        # Keras accepts lists and numbers as well.
        gradient = tf.convert_to_tensor(gradient)
    return tuple(gradient.shape)


def dense(gradient: Any, variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the gradient as a dense tensor, with rows of equal ids summed."""
    if isinstance(gradient, EagerTensor):
        return gradient
    if is_sparse(gradient):
        gradient, check = checked_rows(gradient, variable)
        with tf.control_dependencies([] if check is None else [check]):
            return densify(gradient, variable.shape)
    if not isinstance(gradient, tf.Tensor):
        # Keras accepts NumPy arrays, lists and numbers as well.
        has_dtype = hasattr(gradient, "dtype")
        gradient = tf.convert_to_tensor(gradient, None if has_dtype else variable.dtype)
        return gradient if gradient.dtype.is_floating else tf.cast(gradient, variable.dtype)
    if gradient.shape.is_fully_defined():
        return gradient
    # Otherwise a smaller gradient would broadcast, or XLA would refuse the unknown shape.
    return tf.ensure_shape(gradient, variable.shape)


def tf_variable(variable: keras.Variable | tf.Variable) -> tf.Variable:
    """Return the TensorFlow variable of a Keras variable."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def assign(variable: keras.Variable | tf.Variable, value: tf.Tensor | tf.IndexedSlices) -> None:
    """Assign a value, or rows in place; equal ids must have equal rows."""
    if is_sparse(value):
        scatter_rows(tf_variable(variable), value)
    else:
        variable.assign(value)


def is_distributed(variable: keras.Variable | tf.Variable) -> bool:
    """Whether the variable has a copy in each replica of a distribution strategy."""
    return isinstance(tf_variable(variable), tf.distribute.DistributedValues)
