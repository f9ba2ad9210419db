"""The two contenders that every backend has: ours and Keras's own, through one interface."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_rmsprop
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.results import OURS

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    OURS: keras_rmsprop.RMSprop,
    "keras": keras.optimizers.RMSprop,
}


class Built(NamedTuple):
    """An optimizer with the variables it was built for."""

    optimizer: Any
    variables: list[keras.Variable]

    def weights(self) -> list[Any]:
        """The variables' values as NumPy arrays."""
        return [np.asarray(keras.ops.convert_to_numpy(v)) for v in self.variables]


def build(name: str, problem: Problem) -> Built:
    """Make variables at the problem's start and an optimizer with its slots."""
    variables = [keras.Variable(w, dtype="float32") for w in problem.start]
    optimizer = OPTIMIZERS[name](
        learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON, **problem.options
    )
    optimizer.build(variables)
    return Built(optimizer, variables)
