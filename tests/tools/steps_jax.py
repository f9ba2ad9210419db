"""Helpers of the tests of steps on JAX."""

from collections.abc import Callable
from typing import Any

import pytest

import keras_rmsprop
from keras_rmsprop._execution.jax import _double_buffer, _programs
from tests.tools.twins import Training


def patch_compiled_step(monkeypatch: pytest.MonkeyPatch, step: Callable[..., Any]) -> None:
    """Replace the compiled step by a function."""
    monkeypatch.setattr(_double_buffer, "compilations", _programs.compiled_step._cache_size)
    monkeypatch.setattr(_double_buffer, "compiled_step", step)


def arrays(training: Training) -> list[Any]:
    """The current arrays of weights, slots and counter."""
    return [v.value for v in [*training.variables, *training.optimizer.variables]]


class HalvedSteps(keras_rmsprop.RMSprop):
    """A subclass with an `update_step` of its own."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make half a step."""
        super().update_step(gradient, variable, learning_rate / 2)


SLOTS = {"centered": True, "momentum": 0.5, "gradient_accumulation_steps": 2, "use_ema": True}
