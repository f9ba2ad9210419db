"""Test that an interrupted step on TensorFlow is made completely or not at all."""

import contextlib
import signal
import sys
from typing import Any

import keras
import numpy as np
import pytest

from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.twins import Training

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

from keras_rmsprop._execution.tensorflow import _programs, _values
from tests.tools.steps_tensorflow import WithOwnUpdate, compiled_steps


def test_an_interrupted_compilation_is_repeated_at_the_next_step(monkeypatch):
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    training = Training({})
    training.step(0)
    before = training.state()
    for name in ("__init__", "_call"):
        with monkeypatch.context() as patch:
            patch.setattr(_programs._Program, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                training.step(1)
        assert not _programs._programs
        models.assert_identical(training.state(), before)
    training.step(1)
    assert len(compiled_steps(training.optimizer)) == 1


class Interrupted:
    """A training whose next step is interrupted by SIGINT at a chosen line of Python.

    It is a line of Keras or of this package. TensorFlow's own Python code is also run from C++,
    where an exception has ended the process with a segmentation fault.
    """

    def __init__(self, **setting: Any) -> None:
        self.training = Training(**setting)
        self.training.optimizer.build(self.training.variables)

    def lines_of(self, t: int) -> int:
        """Make step `t` and return how many lines it runs."""
        return self._step(t, None)

    def step(self, t: int, line: int) -> None:
        """Begin step `t` and interrupt it at the given line."""
        with contextlib.suppress(KeyboardInterrupt):
            self._step(t, line)

    def _step(self, t: int, line: int | None) -> int:
        passed = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal passed
            if "/tensorflow/python/" in frame.f_code.co_filename:
                return None
            if event == "line":
                passed += 1
                if passed == line:
                    signal.raise_signal(signal.SIGINT)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            self.training.step(t)
        finally:
            sys.settrace(before)
        return passed


INTERRUPTED: dict[str, dict[str, Any]] = {
    "compiled": {"options": {"jit_compile": True, "momentum": 0.5}},
    "op by op": {"options": {"jit_compile": False, "momentum": 0.5}},
    "own update_step": {"options": {"momentum": 0.5}, "make": WithOwnUpdate},
    "keras": {"options": {"momentum": 0.5}, "make": keras.optimizers.RMSprop},
}


@pytest.mark.parametrize("how", INTERRUPTED)
def test_an_interrupted_step_is_made_completely_or_not_at_all(no_collection, how):
    setting = INTERRUPTED[how]

    def after(steps: int) -> list[Any]:
        training = Interrupted(**setting).training
        for t in range(steps):
            training.step(t)
        return training.state()

    before, made = after(2), after(3)
    probe = Interrupted(**setting)
    for t in range(2):
        probe.training.step(t)
    lines = probe.lines_of(2)
    half = 0
    # Keras's own class shows that interrupts occur in the middle of steps. One that does is enough,
    # but which lines write differs from process to process.
    points = [np.linspace(1, lines, count, dtype=int) for count in (40, 400)]
    for line in np.concatenate(points) if how == "keras" else np.unique(points[0]):
        if how == "keras" and half:
            break
        interrupted = Interrupted(**setting)
        for t in range(2):
            interrupted.training.step(t)
        interrupted.step(2, line)
        state = interrupted.training.state()
        half += not any(all(map(np.array_equal, state, whole)) for whole in (before, made))
    assert half > 0 if how == "keras" else half == 0


def test_a_failed_write_undoes_an_eager_step(monkeypatch):
    training = Training({"jit_compile": False, "momentum": 0.5})
    training.step(0)
    before = training.state()
    write, left = _values.assign, [3]

    def fails_once(variable: Any, value: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        write(variable, value)

    monkeypatch.setattr(_values, "assign", fails_once)
    with pytest.raises(MemoryError):
        training.step(1)
    assert left[0] < 0
    models.assert_identical(training.state(), before)
