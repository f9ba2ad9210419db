"""Gradients of embedding rows: how does a `tf.IndexedSlices` become a right answer?

TensorFlow gives the gradient of a gather as rows and their ids, and an id that occurs twice in
the batch occurs twice there. The gradient is the sum over equal ids; anything that is not
linear in it, such as its square or its norm, is wrong before the sum is taken.
"""

from typing import Any

import tensorflow as tf


def is_sparse(gradient: Any) -> bool:
    """Whether the gradient holds rows and their ids rather than one value per weight."""
    return isinstance(gradient, tf.IndexedSlices)


def densify(slices: tf.IndexedSlices, shape: tf.TensorShape) -> tf.Tensor:
    """Sum the rows of equal ids and set all other rows to zero.

    Args:
        slices: rows of shape (n, *shape[1:]) and their ids, each in [0, shape[0]).
        shape: the shape of the variable.

    Returns: a tensor of `shape` and the rows' dtype.
    """
    return tf.math.unsorted_segment_sum(slices.values, slices.indices, shape[0])
