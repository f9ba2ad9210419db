"""Test that an interrupted step on JAX is made completely or not at all."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.twins import Training

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

from tests.tools.steps_jax import SLOTS, HalvedSteps, arrays


class Stopped(BaseException):
    """A stand-in for KeyboardInterrupt, which can occur between any two operations."""


def stop_at(line: int, function: Callable[[], None]) -> bool:
    """Call a function and raise at the `line`-th line that it runs in the package or in Keras.

    Returns: whether it ran that many lines.
    """
    left = [line]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_globals.get("__name__", "").startswith(("keras_rmsprop", "keras.src")):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                raise Stopped
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Stopped:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize(
    ("options", "each"),
    [
        (SLOTS, 1),
        ({"skip_nonfinite": True, "clipnorm": 1.0}, 1),
        ({**SLOTS, "jit_compile": False}, 23),
        ({"jit_compile": False, "make": HalvedSteps}, 7),
    ],
    ids=["compiled", "compiled, skipping", "op by op", "a subclass's update_step"],
)
def test_a_step_that_is_stopped_anywhere_is_made_completely_or_not_at_all(options, each):
    options = dict(options)
    make = options.pop("make", keras_rmsprop.RMSprop)
    training, other = Training(options, make=make), Training(options, make=make)
    for each_one in (training, other):
        for t in range(5):
            each_one.step(t)
    before = training.state()
    owners = [*training.variables, *training.optimizer.variables]
    held = arrays(training)
    other.step(5)
    after = other.state()
    made = 0
    for line in itertools.count(1, each):
        if not stop_at(line, lambda: training.step(5)):
            break
        state = training.state()
        is_made = bool(np.any(state[0] != before[0]))
        models.assert_identical(state, after if is_made else before)
        made += is_made
        if is_made:
            for owner, array in zip(owners, held, strict=True):
                owner.assign(array)
    assert line > 10 * each
    models.assert_identical(training.state(), after)
    assert made > 0 or options.get("jit_compile") is False


def test_interrupts_at_random_moments_leave_whole_steps():
    training, other = Training(SLOTS), Training(SLOTS)
    states = {}
    for t in range(160):
        other.step(t)
        states[t + 1] = other.state()
    for t in range(3):
        training.step(t)
    rng = np.random.default_rng(0)
    interrupts = 0
    calls = training.optimizer._iterations
    while int(calls.value) < 150:
        timer = threading.Timer(rng.uniform(0.0, 0.004), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            for t in range(int(calls.value), 160):
                training.step(t)
            timer.join()
            time.sleep(0.1)
        except KeyboardInterrupt:
            interrupts += 1
        models.assert_identical(training.state(), states[int(calls.value)])
    assert interrupts > 5


class Watched(keras.Variable):
    """A variable that runs Python code when an attribute is set, as those of Flax do."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Send an interrupt in the middle of a step's assignments, once."""
        super().__setattr__(name, value)
        if name == "_value" and getattr(self, "armed", False):
            self.armed = False
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.001)


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
def test_an_interrupt_waits_while_assignments_run_python_code(mode):
    training, other = (Training({"momentum": 0.5, "jit_compile": mode}) for _ in range(2))
    training.variables = [Watched(np.array(v), dtype=v.dtype) for v in training.variables]
    for each in (training, other):
        for t in range(3):
            each.step(t)
    training.variables[0].armed = True
    with pytest.raises(KeyboardInterrupt):
        training.step(3)
    other.step(3)
    models.assert_identical(training.state(), other.state())


def test_an_error_of_a_callable_rate_changes_nothing():
    rates = iter([0.1, 0.1, 0.1])
    training = Training({"learning_rate": lambda: next(rates)})
    for t in range(3):
        training.step(t)
    before = training.state()
    for jit_compile in ("auto", False):
        training.optimizer.jit_compile = jit_compile
        with pytest.raises(StopIteration):
            training.step(3)
        models.assert_identical(training.state(), before)
