"""The contenders on each backend.

Each backend's module has

    MODES                     the ways to run a step: "eager", "graph", "xla", "jit", "compiled"
    builders(mode, problem)   for each contender's name a function that creates it
    bare(problem)             likewise for what an eager step runs, called without the optimizer
    wait(variables)           returns when these have the values of all steps so far
    device()                  the name of the device that the contenders run on
    forget_peak(), peak()     reset and return the peak of the host's memory in bytes
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

import keras_rmsprop
from benchmarks.problems import CHECKED_STEPS, EPSILON, LEARNING_RATE, Problem
from benchmarks.results import OURS
from yardsticks import peers

# Arguments of the reference for contenders whose rule differs from ours.
CONVENTIONS: dict[str, dict[str, bool]] = {
    "tf_keras legacy": {"epsilon_inside_sqrt": False},
    "torch": {"epsilon_inside_sqrt": False},
    "torch foreach": {"epsilon_inside_sqrt": False},
    "torch compiled": {"epsilon_inside_sqrt": False},
}

# The two contenders that exist on every backend.
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    OURS: keras_rmsprop.RMSprop,
    "keras": keras.optimizers.RMSprop,
}


def for_backend(backend: str) -> ModuleType:
    """Return the module of the backend, which must be the active one."""
    return importlib.import_module(f"benchmarks.contenders.{backend}")


def optimizer_of(name: str, **options: Any) -> Any:
    """Create one of `OPTIMIZERS` with the common hyperparameters."""
    return OPTIMIZERS[name](learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON, **options)


def built(name: str, problem: Problem) -> peers.OnKeras:
    """Create one of `OPTIMIZERS`, built on variables with the problem's initial weights."""
    peer = peers.OnKeras(optimizer_of(name, **problem.options), problem.start)
    peer.optimizer.build(peer.variables)
    return peer


def compiled(problem: Problem) -> tuple[peers.OnKeras, list[Any]]:
    """Create ours at the start, but with what a step needs prepared, and a batch of gradients."""
    peer = built(OURS, problem)
    batch, state = peer.tensors(problem.gradients), peer.optimizer.state_dict()
    for _ in range(CHECKED_STEPS):
        # The first one runs op by op, the second compiles.
        peer.step(batch)
    peer.optimizer.load_state_dict(state)
    for variable, start in zip(peer.variables, problem.start, strict=True):
        variable.assign(start)
    return peer, batch
