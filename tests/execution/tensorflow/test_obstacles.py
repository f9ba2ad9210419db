"""Test what keeps a step on TensorFlow from being compiled, and how it is run then."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Situation, Training

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from keras_rmsprop._execution.tensorflow import _programs
from tests.tools.steps_tensorflow import WithOwnUpdate, compiled_steps, trajectories


def test_nothing_is_compiled_if_functions_run_eagerly(float64):
    tf.config.run_functions_eagerly(True)
    try:
        training = Training({})
        for t in range(3):
            training.step(t)
    finally:
        tf.config.run_functions_eagerly(False)
    assert not compiled_steps(training.optimizer)


def test_nothing_is_compiled_under_op_determinism(float64):
    tf.config.experimental.enable_op_determinism()
    try:
        training = Training({})
        for t in range(3):
            training.step(t)
    finally:
        disable_op_determinism()
    assert not compiled_steps(training.optimizer)


@pytest.fixture
def without_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the placement check find no compiler, as on a device without one."""
    monkeypatch.setattr(_programs, "has_xla", lambda _: False)


def test_a_step_that_cannot_be_compiled_runs_op_by_op_and_logs_once(float64, without_xla, caplog):
    caplog.set_level(logging.DEBUG, "keras_rmsprop")
    compiled, op_by_op = trajectories(Situation(lambda: {"learning_rate": twins.changing_rate()}))
    # If the callable were called twice in a step, its rates would run ahead.
    models.assert_identical(compiled[-1], op_by_op[-1])
    [record] = caplog.records
    assert record.levelno == logging.DEBUG
    assert "no XLA compiler for" in record.getMessage()


def test_jit_compile_true_raises_each_time_without_a_compiler(without_xla):
    training = Training({"jit_compile": True})
    training.optimizer.build(training.variables)
    before = training.state()
    for t in range(2):
        with pytest.raises(ValueError, match="there is no XLA compiler for"):
            training.step(t)
    models.assert_identical(training.state(), before)


@contextlib.contextmanager
def run_eagerly() -> Iterator[None]:
    """Make TensorFlow's functions run eagerly."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@contextlib.contextmanager
def determinism() -> Iterator[None]:
    """Make TensorFlow's operations deterministic."""
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        disable_op_determinism()


class Halved(keras.constraints.Constraint):
    """A user's constraint."""

    def __call__(self, w: Any) -> Any:
        """Halve the weight."""
        return 0.5 * w


def with_a_constraint(training: Training) -> None:
    training.variables[1].constraint = Halved()


def nothing(_: Training) -> None:
    pass


# A change of a training, a context, a class, and the reason why its step cannot be compiled.
OBSTACLES: dict[str, tuple[Any, Any, Any, str]] = {
    "update_step": (nothing, contextlib.nullcontext, WithOwnUpdate, "an `update_step` of its own"),
    "constraint": (with_a_constraint, contextlib.nullcontext, None, "the constraint Halved"),
    "eager functions": (nothing, run_eagerly, None, "run_functions_eagerly"),
    "determinism": (nothing, determinism, None, "op determinism is on"),
}


@pytest.mark.parametrize("in_function", [False, True], ids="in_function={}".format)
@pytest.mark.parametrize("name", OBSTACLES)
def test_jit_compile_true_raises_with_the_reason(name, in_function):
    change, setting, make, reason = OBSTACLES[name]
    make = make or keras_rmsprop.RMSprop
    training = Training({"jit_compile": True}, make=make)
    change(training)
    training.optimizer.build(training.variables)
    before = training.state()
    step = tf.function(training.apply, autograph=False) if in_function else training.apply
    gradients = [tf.ones(shape, tf.float64) for shape in twins.SHAPES]
    with setting():
        with pytest.raises(ValueError, match=f"jit_compile=True.*{reason}"):
            step(gradients)
        models.assert_identical(training.state(), before)
        training.optimizer.jit_compile = "auto"
        step(gradients)
    assert training.optimizer.iterations.numpy() == 1


def test_jit_compile_true_is_refused_under_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        weight = keras.Variable([1.0, 2.0])
        optimizer = keras_rmsprop.RMSprop(0.1, jit_compile=True)
        optimizer.build([weight])
    steps = [
        lambda: optimizer.apply([tf.ones(2)], [weight]),
        lambda: strategy.run(lambda: optimizer.apply([tf.ones(2)], [weight])),
        lambda: strategy.run(tf.function(lambda: optimizer.apply([tf.ones(2)], [weight]))),
    ]
    for step in steps:
        with pytest.raises(ValueError, match=r"jit_compile=True.*distribution strategy"):
            step()
    np.testing.assert_array_equal(weight.numpy(), [1.0, 2.0])
    assert optimizer.iterations.numpy() == 0


def test_a_failure_of_the_compiler_falls_back_to_op_by_op_execution(float64, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise tf.errors.InvalidArgumentError(None, None, "beyond XLA")

    monkeypatch.setattr(_programs._Program, "_call", fail)
    caplog.set_level(logging.DEBUG, "keras_rmsprop")
    compiled, op_by_op = trajectories(Situation())
    models.assert_identical(compiled[-1], op_by_op[-1])
    assert len(caplog.records) == 1
