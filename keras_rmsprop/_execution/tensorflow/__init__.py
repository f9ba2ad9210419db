"""The engine of the TensorFlow backend."""

from typing import Literal

import tensorflow as tf

from keras_rmsprop._execution import _interface
from keras_rmsprop._execution.tensorflow._averages import swapping_strategy
from keras_rmsprop._execution.tensorflow._engine import how_steps_run, run
from keras_rmsprop._execution.tensorflow._private import do_not_convert
from keras_rmsprop._execution.tensorflow._rows import is_sparse
from keras_rmsprop._execution.tensorflow._values import (
    are_ready,
    copy,
    dense,
    install,
    is_traced,
    read,
    shape_of,
    write,
)

__all__ = [
    "SPARSE_GRADIENTS",
    "TRACED_VARIABLES",
    "are_ready",
    "copy",
    "dense",
    "do_not_convert",
    "how_steps_run",
    "install",
    "is_capturing_python",
    "is_sparse",
    "is_traced",
    "outside_trace",
    "read",
    "run",
    "shape_of",
    "swapping_strategy",
    "write",
]

SPARSE_GRADIENTS = True
TRACED_VARIABLES: Literal["captured", "passed", None] = "captured"
is_capturing_python = _interface.is_capturing_python
outside_trace = tf.init_scope
