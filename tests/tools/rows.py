"""Helpers of the tests of rows."""

import functools

import numpy as np
import pytest
from keras import ops

from tests.conftest import BACKEND

needs_sparse_gradients = pytest.mark.skipif(
    BACKEND != "tensorflow", reason=f"gradients are dense on the {BACKEND} backend"
)


def _compiled(function, **options):
    import tensorflow as tf

    return tf.function(function, autograph=False, **options)


# How a function of tensors is run.
COMPILED = {
    "eager": lambda function: function,
    "graph": _compiled,
    "xla": functools.partial(_compiled, jit_compile=True),
}


def tensor(values, dtype="float64"):
    return ops.convert_to_tensor(np.asarray(values, dtype))


# How a step is run: the wrapper of the call, and the optimizer's own `jit_compile`.
MODES = {
    "eager": ("eager", "auto"),
    "eager, op by op": ("eager", False),
    "eager, compiled": ("eager", True),
    "graph": ("graph", "auto"),
    "xla": ("xla", "auto"),
}
