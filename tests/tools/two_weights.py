"""A matrix and a scalar, their gradients and values, and options that need every slot."""

from typing import Any

import keras
import numpy as np
from keras import ops

EVERYTHING = {
    "momentum": 0.9,
    "centered": True,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
}


def two_weights(dtype: str = "float32") -> list[keras.Variable]:
    """A matrix and a scalar."""
    return [
        keras.Variable(np.arange(1.0, 7.0).reshape(2, 3), dtype=dtype, name="matrix"),
        keras.Variable(0.5, dtype=dtype, name="scalar"),
    ]


def ones_like(variables: list[keras.Variable]) -> list[Any]:
    """A gradient of ones for each variable."""
    return [ops.ones(variable.shape, variable.dtype) for variable in variables]


def values_of(variables: list[keras.Variable]) -> list[np.ndarray]:
    """The variables' values, copied."""
    return [np.array(variable.numpy()) for variable in variables]
