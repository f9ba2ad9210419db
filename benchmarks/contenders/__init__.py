"""Who can make the steps of a problem on the active backend.

Each backend's module has

    MODES                     how a step can be run there: "eager", "graph", "xla", "jit"
    builders(mode, problem)   for each contender's name a function that makes it
    device()                  the device that the contenders run on, in words
    forget_peak(), peak()     the bytes taken on the host at most, since they were last forgotten
"""

import importlib
from collections.abc import Callable
from typing import Protocol

from benchmarks.measure import Contender
from benchmarks.problems import Problem

Builders = dict[str, Callable[[], Contender]]

# Contenders whose rule differs from ours as configured: arguments of the reference.
CONVENTIONS: dict[str, dict[str, bool]] = {
    "tf_keras legacy": {"epsilon_inside_sqrt": False},
    "torch": {"epsilon_inside_sqrt": False},
    "torch foreach": {"epsilon_inside_sqrt": False},
    "torch compiled": {"epsilon_inside_sqrt": False},
}


class Backend(Protocol):
    """What a backend's module offers."""

    MODES: tuple[str, ...]

    def builders(self, mode: str, problem: Problem) -> Builders:
        """Return for each contender's name a function that makes it."""

    def device(self) -> str:
        """Name the device that the contenders run on."""

    def forget_peak(self) -> None:
        """Start a new peak at the bytes in use now."""

    def peak(self) -> int:
        """Return the most bytes that were in use on the host."""


def on(backend: str) -> Backend:
    """Return the module of a backend, the active one."""
    return importlib.import_module(f"benchmarks.contenders.{backend}")
