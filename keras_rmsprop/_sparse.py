"""Gradients of embedding rows: how does a `tf.IndexedSlices` become a right answer?

TensorFlow gives the gradient of a gather as rows and their ids, and an id that occurs twice in
the batch occurs twice there. The gradient is the sum over equal ids; anything that is not
linear in it, such as its square or its norm, is wrong before the sum is taken.

The sums are taken in float32 or wider: in bfloat16 a sum of ones stops at 256.
"""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rmsprop import _step


class Rows(NamedTuple):
    """The rows of a table that have a gradient."""

    # (n,), the ids as they came in dtype; in [0, number of rows).
    ids: tf.Tensor
    # (n, ...), the whole gradient of each of these rows, float32 or wider.
    gradient: tf.Tensor
    # (n,), 1 where an id occurs for the first time and 0 where it repeats, in the gradient's
    # dtype: what a row counts in a sum over all. None if no id repeats.
    share: tf.Tensor | None


def is_sparse(gradient: Any) -> bool:
    """Whether the gradient holds rows and their ids rather than one value per weight."""
    return isinstance(gradient, tf.IndexedSlices)


def densify(slices: tf.IndexedSlices, shape: tf.TensorShape) -> tf.Tensor:
    """Sum the rows of equal ids and set all other rows to zero.

    Args:
        slices: rows of shape (n, *shape[1:]) and their ids, each in [0, shape[0]).
        shape: the shape of the variable.

    Returns: a tensor of `shape`, float32 or wider.
    """
    return tf.math.unsorted_segment_sum(_step.widen(slices.values), slices.indices, shape[0])


def sum_rows(slices: tf.IndexedSlices, static_shapes: bool) -> Rows:
    """Sum the rows of equal ids.

    Args:
        slices: rows of shape (n, ...) and their ids, which may repeat; n may be 0.
        static_shapes: whether the result must have n rows whatever the ids, as XLA asks. The
            rows then come in the order of their ids, and each occurrence of an id holds the
            whole sum, so that in whatever order they are written the result is the same.

    Returns: one row for each distinct id, or n rows.
    """
    ids, values = slices.indices, _step.widen(slices.values)
    if not static_shapes:
        ids, positions = tf.unique(ids)
        return Rows(ids, tf.math.unsorted_segment_sum(values, positions, tf.size(ids)), None)
    order = tf.argsort(ids)
    ids = tf.gather(ids, order)
    first = tf.concat([tf.ones_like(ids[:1], tf.bool), ids[1:] != ids[:-1]], axis=0)
    positions = tf.cumsum(tf.cast(first, tf.int32)) - 1
    sums = tf.math.unsorted_segment_sum(tf.gather(values, order), positions, ids.shape[0])
    return Rows(ids, tf.gather(sums, positions), tf.cast(first, values.dtype))


def gather(variable: keras.Variable | tf.Variable, ids: tf.Tensor) -> tf.Tensor:
    """Read rows of a table without reading the table."""
    return tf.gather(_tf_variable(variable), ids)


def scatter(variable: keras.Variable | tf.Variable, ids: tf.Tensor, rows: tf.Tensor) -> None:
    """Write rows of a table in place; equal ids must have equal rows."""
    _tf_variable(variable).scatter_update(tf.IndexedSlices(rows, ids))


def _tf_variable(variable: keras.Variable | tf.Variable) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable
