"""The engine of the JAX backend."""

from typing import Literal

from keras_rmsprop._execution._interface import (
    do_not_convert,
    is_capturing_python,
    is_sparse,
    outside_trace,
    swapping_strategy,
)
from keras_rmsprop._execution.jax._derivatives import install
from keras_rmsprop._execution.jax._engine import how_steps_run, run
from keras_rmsprop._execution.jax._values import (
    are_ready,
    copy,
    dense,
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

SPARSE_GRADIENTS = False
TRACED_VARIABLES: Literal["captured", "passed", None] = "passed"
