"""The engine of the JAX backend."""

from keras_rmsprop._execution._interface import (
    do_not_convert,
    is_capturing_python,
    is_rows,
    outside_trace,
    swapping_strategy,
)
from keras_rmsprop._execution.jax import _derivatives
from keras_rmsprop._execution.jax._engine import run
from keras_rmsprop._execution.jax._values import copy, dense, read, shape_of, write

__all__ = [
    "GIVES_ROWS",
    "STEPS_IN_GRAPHS",
    "copy",
    "dense",
    "do_not_convert",
    "is_capturing_python",
    "is_rows",
    "outside_trace",
    "read",
    "run",
    "shape_of",
    "swapping_strategy",
    "write",
]

GIVES_ROWS = False
STEPS_IN_GRAPHS = False

_derivatives.install()
