"""The engine of the torch backend."""

from typing import Literal

import torch

from keras_rmsprop._execution._interface import (
    do_not_convert,
    is_sparse,
    is_traced,
    outside_trace,
    shape_of,
    swapping_strategy,
)
from keras_rmsprop._execution.torch._engine import how_steps_run, run
from keras_rmsprop._execution.torch._values import (
    are_ready,
    copy,
    dense,
    install,
    read,
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
TRACED_VARIABLES: Literal["captured", "passed", None] = None
is_capturing_python = torch.compiler.is_compiling
