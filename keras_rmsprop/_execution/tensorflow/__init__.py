"""The engine of the TensorFlow backend."""

import tensorflow as tf

from keras_rmsprop._execution import _interface
from keras_rmsprop._execution.tensorflow._averages import swapping_strategy
from keras_rmsprop._execution.tensorflow._engine import run
from keras_rmsprop._execution.tensorflow._rows import is_sparse as is_rows
from keras_rmsprop._execution.tensorflow._values import (
    copy,
    dense,
    is_traced,
    read,
    shape_of,
    write,
)

__all__ = [
    "GIVES_ROWS",
    "STEPS_IN_GRAPHS",
    "as_written",
    "copy",
    "dense",
    "is_recorded",
    "is_rows",
    "is_traced",
    "outside_trace",
    "read",
    "run",
    "shape_of",
    "swapping_strategy",
    "write",
]

GIVES_ROWS = True
STEPS_IN_GRAPHS = True
is_recorded = _interface.is_recorded
# AutoGraph would spend seconds on rewriting the whole package at the first trace, for nothing: the
# code never branches on a tensor.
as_written = tf.autograph.experimental.do_not_convert
outside_trace = tf.init_scope
