"""The engine of the JAX backend."""

from keras_rmsprop._execution._interface import (
    as_written,
    is_recorded,
    is_rows,
    outside_trace,
    swapping_strategy,
)
from keras_rmsprop._execution.jax import _derivatives
from keras_rmsprop._execution.jax._engine import run
from keras_rmsprop._execution.jax._values import copy, dense, is_traced, read, shape_of, write

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

GIVES_ROWS = False
STEPS_IN_GRAPHS = False

_derivatives.install()
