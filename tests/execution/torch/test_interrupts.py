"""Test that a failed or interrupted step on torch leaves the state before or after it."""

import itertools
import signal
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Training

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from tests.tools.steps_torch import HalfOfIt


def a_training(options: dict[str, Any], **setting: Any) -> Training:
    """A training that has made three steps."""
    training = Training({"momentum": 0.5, **options}, **setting)
    for t in range(3):
        training.step(t)
    return training


class Failing:
    """A callable that raises once `fails` is set."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.fails = False

    def __call__(self, *_: Any) -> Any:
        """Return the value, or raise."""
        if self.fails:
            raise RuntimeError("as planned")
        return self.value


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
@pytest.mark.parametrize(
    "what", ["rate", "constraint", "axis", "device", "complex", "update_step", "expanded"]
)
def test_a_step_that_fails_changes_nothing(float64, mode, what):
    rate, constraint = Failing(0.1), Failing(torch.full((2, 3), 0.5, dtype=torch.float64))
    make = HalfOfIt if what == "update_step" else keras_rmsprop.RMSprop
    options = {"jit_compile": mode, "use_ema": True, "gradient_accumulation_steps": None}
    training = a_training({**options, "learning_rate": rate}, make=make)
    gradients = [torch.ones(shape, dtype=torch.float64) for shape in twins.SHAPES]
    matrix = training.variables[1]
    match what:
        case "rate":
            rate.fails = True
        case "constraint":
            matrix.constraint = constraint
            training.apply(gradients)
            constraint.fails = True
        case "axis":
            matrix.constraint = keras.constraints.UnitNorm(axis=7)
        case "device":
            gradients[1] = gradients[1].to("meta")
        case "complex":
            gradients[1] = gradients[1] * 1j
        case "update_step":
            training.optimizer.fails = True
        case "expanded":
            matrix.value.data = torch.ones(1, 3, dtype=torch.float64).expand(2, 3)
    before = training.state()
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        training.apply(gradients)
    models.assert_identical(training.state(), before)


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
def test_an_interrupt_leaves_the_state_before_or_after_a_step(no_collection, mode):
    def train() -> Iterator[tuple[Training, list[torch.Tensor]]]:
        training = Training({"momentum": 0.5, "jit_compile": mode, "use_ema": True})
        gradients = [torch.ones(s, dtype=torch.float64) for s in twins.SHAPES]
        while True:
            training.apply(gradients)
            yield training, gradients

    wanted = {int(t.optimizer._iterations): t.state() for t, _ in itertools.islice(train(), 400)}
    training, gradients = next(train())
    events = 0

    def trace(frame: Any, event: str, _: Any) -> Any:
        # A signal is handled between two Python operations. Python drops what is raised while it
        # closes a generator.
        nonlocal events
        if event == "line" and frame.f_code.co_name != "<genexpr>":
            events -= 1
            if events == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    interrupted = 0
    previous = sys.gettrace()
    for start in range(5, 305, 7):
        events = start
        try:
            sys.settrace(trace)
            training.apply(gradients)
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(previous)
        models.assert_identical(training.state(), wanted[int(training.optimizer._iterations)])
    assert interrupted > 30


def test_a_constraint_that_no_longer_fits_raises_and_changes_nothing():
    variables = [keras.Variable(np.ones((4, 3), "float32")) for _ in range(2)]
    variables[1].constraint = keras.constraints.MaxNorm(1.0, axis=0)
    optimizer = keras_rmsprop.RMSprop(0.1)
    for _ in range(3):
        optimizer.apply([torch.ones(4, 3)] * 2, variables)
    variables[1].constraint.axis = 7
    before = models.values([*variables, *optimizer.variables])
    with pytest.raises(IndexError):
        optimizer.apply([torch.ones(4, 3)] * 2, variables)
    models.assert_identical(models.values([*variables, *optimizer.variables]), before)
    variables[1].constraint.axis = 0
    optimizer.apply([torch.ones(4, 3)] * 2, variables)
