"""Who can make the steps of a problem on the active backend.

Each backend's module has

    MODES                     how a step can be run there: "eager", "graph", "xla", "jit"
    builders(mode, problem)   for each contender's name a function that makes it
    device()                  the device that the contenders run on, in words
    forget_peak(), peak()     the bytes taken on the host at most, since they were last forgotten
"""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_rmsprop
from benchmarks.measure import Array, Contender
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.results import OURS

Builders = dict[str, Callable[[], Contender]]

# Contenders whose rule differs from ours as configured: arguments of the reference.
CONVENTIONS: dict[str, dict[str, bool]] = {
    "tf_keras legacy": {"epsilon_inside_sqrt": False},
    "torch": {"epsilon_inside_sqrt": False},
    "torch foreach": {"epsilon_inside_sqrt": False},
    "torch compiled": {"epsilon_inside_sqrt": False},
}

# The two that every backend has.
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    OURS: keras_rmsprop.RMSprop,
    "keras": keras.optimizers.RMSprop,
}


def on(backend: str) -> ModuleType:
    """Return the module of a backend, the active one."""
    return importlib.import_module(f"benchmarks.contenders.{backend}")


class Built(NamedTuple):
    """A Keras optimizer with the variables it was built for."""

    optimizer: Any
    variables: list[keras.Variable]

    def weights(self) -> list[Any]:
        """The variables' values as NumPy arrays."""
        return [np.asarray(keras.ops.convert_to_numpy(v)) for v in self.variables]


def build(name: str, problem: Problem) -> Built:
    """Make variables at the problem's start and an optimizer with its slots."""
    variables = [keras.Variable(w, dtype="float32") for w in problem.start]
    optimizer = optimizer_of(name, **problem.options)
    optimizer.build(variables)
    return Built(optimizer, variables)


def optimizer_of(name: str, **options: Any) -> Any:
    """Make one of `OPTIMIZERS` with the numbers that all contenders have."""
    return OPTIMIZERS[name](learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON, **options)


def tensors(arrays: Sequence[Array]) -> list[Any]:
    """Put arrays where the active backend has its tensors."""
    return [keras.ops.convert_to_tensor(array) for array in arrays]
