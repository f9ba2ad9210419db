"""Sparse gradients of embedding tables: check and sum the rows of a `tf.IndexedSlices`.

TensorFlow returns the gradient of a gather as rows and their ids; an id that occurs twice in the
batch occurs twice there. The gradient is the sum over equal ids, so anything nonlinear in it, such
as its square or norm, must be computed after summing.

The sums are taken in float32 or wider: in bfloat16 a sum of ones stops at 256.

An id outside the table is an error, and nothing changes. In a user's XLA-compiled function, which
cannot raise, such rows are dropped.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_rmsprop._execution.tensorflow._private import is_graph_inside_xla
from keras_rmsprop._math import _step


class Rows(NamedTuple):
    """The rows of a table that have a gradient."""

    # (n,), the ids in their original dtype, in [0, number of rows], where the upper end marks a
    # row that the variable does not have. None for all rows.
    ids: tf.Tensor | None
    # (n, ...), the full gradient of each row, float32 or wider.
    gradient: tf.Tensor
    # (n,), which rows count in sums over all rows, in the gradient's dtype: 1 at the first
    # occurrence of an id, 0 at repeats. None if no id repeats.
    row_mask: tf.Tensor | None


# Looked up once: attribute access on the lazily loaded `tf` module is slow.
_IndexedSlices = tf.IndexedSlices


def is_sparse(gradient: Any) -> bool:
    """Whether the gradient holds rows and their ids rather than one value per weight."""
    return isinstance(gradient, _IndexedSlices)


def is_inside_xla() -> bool:
    """Whether the code being traced is part of a graph that XLA compiles."""
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    return is_graph_inside_xla(graph)


def shape_of_rows(slices: tf.IndexedSlices) -> tuple[int | None, ...]:
    """Return the shape of the dense gradient, with None where it is not known."""
    rows = slices.dense_shape
    if rows is not None:
        # A tuple if a user built it.
        rows = tf.get_static_value(rows) if tf.is_tensor(rows) else rows
    count = None if rows is None else rows[0]
    return (None if count is None else int(count), *np.shape(slices.values)[1:])


def checked_rows(
    slices: tf.IndexedSlices, variable: keras.Variable | tf.Variable
) -> tuple[tf.IndexedSlices, tf.Operation | None]:
    """Check that all ids are rows of the variable, as far as the execution mode allows.

    Args:
        slices: rows and their ids, as tensors or convertible to them.
        variable: the table.

    Returns: the slices as tensors, and in a graph the operation that fails if an id is out of
        range; writes must depend on it.
    Raises: ValueError if an id is out of range, when executing eagerly.
    """
    values, ids = tf.convert_to_tensor(slices.values), tf.convert_to_tensor(slices.indices)
    count = variable.shape[0]
    words = (
        f"The gradient of {getattr(variable, 'path', variable.name)!r} is given as rows, and there "
        f"are ids outside [0, {count}), the rows of the variable"
    )
    if tf.executing_eagerly():
        array = ids.numpy()
        if array.size and (array.min() < 0 or array.max() >= count):
            outside = array[(array < 0) | (array >= count)]
            raise ValueError(f"{words}: {outside[:5].tolist()}. Nothing has changed.")
        return tf.IndexedSlices(values, ids), None
    if is_inside_xla():
        return tf.IndexedSlices(values, ids), None
    check = tf.raw_ops.Assert(condition=tf.reduce_all(_is_row(ids, count)), data=[words, ids])
    with tf.control_dependencies([check]):
        return tf.IndexedSlices(values, tf.identity(ids)), check


def _is_row(ids: tf.Tensor, count: int) -> tf.Tensor:
    return tf.logical_and(ids >= 0, ids < tf.cast(count, ids.dtype))


def densify(slices: tf.IndexedSlices, shape: tf.TensorShape) -> tf.Tensor:
    """Sum the rows of equal ids and set all other rows to zero.

    Args:
        slices: rows of shape (n, *shape[1:]) and their ids, each in [0, shape[0]).
        shape: the shape of the variable.

    Returns: a tensor of `shape`, float32 or wider.
    """
    return tf.math.unsorted_segment_sum(_step.widen(slices.values), slices.indices, shape[0])


def sum_rows(slices: tf.IndexedSlices, count: int, static_shapes: bool) -> Rows:
    """Sum the rows of equal ids.

    Args:
        slices: rows of shape (n, ...) and their ids, which may repeat; n may be 0.
        count: how many rows the variable has.
        static_shapes: whether the result must have n rows whatever the ids, as XLA requires. The
            rows are then sorted by id, and each occurrence of an id holds the full sum, so that
            the order of writes does not matter. Rows that the variable does not have get the id
            `count`, which XLA does not write, a zero gradient and a mask of 0.

    Returns: one row per distinct id, or n rows.
    """
    ids, values = slices.indices, _step.widen(slices.values)
    if not static_shapes:
        ids, positions = tf.unique(ids)
        return Rows(ids, tf.math.unsorted_segment_sum(values, positions, tf.size(ids)), None)
    is_row = _is_row(ids, count)
    ids = tf.where(is_row, ids, tf.cast(count, ids.dtype))
    values = tf.where(_broadcast_rows(is_row, values), values, tf.zeros_like(values))
    order = tf.argsort(ids)
    ids = tf.gather(ids, order)
    first = tf.concat([tf.ones_like(ids[:1], tf.bool), ids[1:] != ids[:-1]], axis=0)
    positions = tf.cumsum(tf.cast(first, tf.int32)) - 1
    sums = tf.math.unsorted_segment_sum(tf.gather(values, order), positions, tf.size(ids))
    counts = tf.logical_and(first, _is_row(ids, count))
    return Rows(ids, tf.gather(sums, positions), tf.cast(counts, values.dtype))


def _broadcast_rows(flags: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Reshape one flag per row to broadcast against `values`."""
    return tf.reshape(flags, (-1,) + (1,) * (len(values.shape) - 1))
