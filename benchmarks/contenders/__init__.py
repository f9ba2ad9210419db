"""Who can make the steps of a problem on the active backend.

Each backend's module has

    MODES                     how a step can be run there: "eager", "graph", "xla", "jit"
    builders(mode, problem)   for each contender's name a function that makes it
    device()                  the device that the contenders run on, in words
    forget_peak(), peak()     the bytes taken on the host at most, since they were last forgotten
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

import keras_rmsprop
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.results import OURS
from yardsticks import peers

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


def optimizer_of(name: str, **options: Any) -> Any:
    """Make one of `OPTIMIZERS` with the numbers that all contenders have."""
    return OPTIMIZERS[name](learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON, **options)


def built(name: str, problem: Problem) -> peers.OnKeras:
    """Make one of `OPTIMIZERS` with its slots, and variables at the problem's start."""
    peer = peers.OnKeras(optimizer_of(name, **problem.options), problem.start)
    peer.optimizer.build(peer.variables)
    return peer
