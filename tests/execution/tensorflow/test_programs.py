"""Test when an eager step on TensorFlow is one compiled call, and which share a program."""

import gc
import logging
import weakref
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop._math import _rule
from tests.conftest import BACKEND
from tests.tools import twins
from tests.tools.twins import Training

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf

from keras_rmsprop._execution import _compilation
from keras_rmsprop._execution.tensorflow import _programs
from tests.tools.steps_tensorflow import MODES, compiled_steps


@pytest.mark.parametrize("mode", ["auto", True], ids="jit_compile={}".format)
def test_nothing_is_traced_after_the_second_step(mode, monkeypatch):
    traces = twins.count_traces(monkeypatch)
    training = Training({"jit_compile": mode, "momentum": 0.5, "clipnorm": 1.0})
    training.step(0)
    training.step(1)
    assert len(traces) == (2 if mode == "auto" else 1)
    optimizer = training.optimizer
    for t in range(2, 6):
        optimizer.learning_rate = 0.1 / t
        optimizer.rho = 1.0 - 0.1 / t
        optimizer.clipnorm = 1.0 / t
        training.step(t)
    assert len(traces) <= 2


def test_tensors_of_one_shape_share_the_trace_of_their_update(monkeypatch):
    shapes = []
    original = _rule.update

    def counted(form, step, parameter, gradient):
        shapes.append(tuple(gradient.shape))
        return original(form, step, parameter, gradient)

    monkeypatch.setattr(_rule, "update", counted)
    variables = [keras.Variable(np.ones(shape, "float32")) for shape in [(3, 2), (4,)] * 5]
    optimizer = keras_rmsprop.RMSprop(jit_compile=True)
    optimizer.apply([keras.ops.ones(v.shape) for v in variables], variables)
    assert sorted(shapes) == [(3, 2), (4,)]


def test_a_rate_that_changes_by_itself_is_traced_once(monkeypatch):
    traces = twins.count_traces(monkeypatch)
    rates = [twins.changing_rate(), twins.rate_schedule()]
    trainings = [Training({"learning_rate": rate}) for rate in rates]
    for t in range(6):
        for training in trainings:
            training.step(t)
    assert len(traces) == 4


def test_a_step_runs_op_by_op_only_if_it_is_the_first():
    training = Training({})
    training.step(0)
    assert not compiled_steps(training.optimizer)
    training.step(1)
    assert len(compiled_steps(training.optimizer)) == 1
    resumed = Training({})
    resumed.optimizer.build(resumed.variables)
    resumed.optimizer._iterations.assign(7)
    resumed.step(0)
    assert len(compiled_steps(resumed.optimizer)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 1.0, "momentum": 0.5, "weight_decay": 0.1},
        {"use_ema": True, "ema_momentum": 0.7, "bias_correction": True},
        {"skip_nonfinite": True, "centered": True},
        {"gradient_accumulation_steps": 2},
    ],
    ids=str,
)
def test_after_the_counter_is_reset_the_next_step_equals_op_by_op_to_the_bit(options, monkeypatch):
    compiled, op_by_op = (
        Training({**options, "jit_compile": mode}, ("float32", "bfloat16")) for mode in MODES
    )
    for t in range(4):
        compiled.step(t)
    op_by_op.optimizer.build(op_by_op.variables)
    compiled.optimizer._iterations.assign(0)
    for mine, theirs in zip(
        [*op_by_op.variables, *op_by_op.optimizer.variables],
        [*compiled.variables, *compiled.optimizer.variables],
        strict=True,
    ):
        mine.assign(theirs.value)
    traces = twins.count_traces(monkeypatch)
    first = options.get("gradient_accumulation_steps", 1)
    for t in range(first):
        compiled.step(t)
    assert len(traces) == first
    for t in range(first):
        op_by_op.step(t)
    assert all(map(np.array_equal, compiled.state(), op_by_op.state()))
    compiled.step(first)
    assert len(traces) == 2 * first  # the existing compiled step is used again


def test_all_calls_of_the_first_accumulated_step_run_op_by_op():
    training = Training({"gradient_accumulation_steps": 2})
    for t in range(2):
        training.step(t)
    assert not compiled_steps(training.optimizer)
    training.step(2)
    assert compiled_steps(training.optimizer)


def test_jit_compile_true_compiles_the_first_step_and_false_none():
    compiled, op_by_op = (Training({"jit_compile": mode}) for mode in (True, False))
    compiled.step(0)
    assert compiled_steps(compiled.optimizer)
    for t in range(3):
        op_by_op.step(t)
    assert not compiled_steps(op_by_op.optimizer)


def test_an_unreferenced_optimizer_is_freed_although_its_program_stays():
    def train() -> list[weakref.ref[Any]]:
        training = Training({"clipnorm": 1.0, "jit_compile": True})
        for t in range(3):
            training.step(t)
        function = tf.function(training.apply, autograph=False)
        function([tf.ones(shape, tf.float64) for shape in twins.SHAPES])
        inputs = _programs._program_inputs[training.optimizer._roster]
        held = [training.optimizer, training.variables[0], training.variables[0].value, inputs]
        return [weakref.ref(x) for x in held]

    references = train()
    gc.collect()
    assert [reference() for reference in references] == [None] * 4
    assert len(_programs._programs) == 1


def test_all_optimizers_of_the_same_shapes_and_options_share_one_program(float64, monkeypatch):
    traces = twins.count_traces(monkeypatch)
    rates = [0.1, 0.2, 0.3, 0.4]
    trainings = [Training({"learning_rate": rate, "rho": 1.0 - rate}) for rate in rates]
    for training in trainings:
        for t in range(3):
            training.step(t)
    # The first step of each is made op by op.
    assert len(traces) == len(rates) + 1
    for rate, training in zip(rates, trainings, strict=True):
        alone = Training({"learning_rate": rate, "rho": 1.0 - rate, "jit_compile": False})
        for t in range(3):
            alone.step(t)
        for mine, theirs in zip(training.state(), alone.state(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-13)


@pytest.mark.parametrize(
    "other",
    [
        {"momentum": 0.5},
        {"clipnorm": 1.0},
        {"nesterov": True, "momentum": 0.5},
        {"use_ema": True},
        {"learning_rate": twins.rate_schedule()},
        {"weight_decay": 0.1},
    ],
    ids=lambda options: " ".join(options),
)
def test_optimizers_of_other_options_do_not_share_a_program(float64, other):
    first = Training({})
    for t in range(2):
        first.step(t)
    second, op_by_op = (Training({**other, "jit_compile": mode}) for mode in MODES)
    for t in range(3):
        second.step(t)
        op_by_op.step(t)
    for mine, theirs in zip(second.state(), op_by_op.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_a_constraint_of_other_numbers_needs_another_program(float64):
    ends = []
    for limit in (0.5, 0.25):
        training = Training({"jit_compile": True})
        training.variables[1].constraint = keras.constraints.MaxNorm(limit, axis=None)
        training.step(0)
        ends.append(np.linalg.norm(training.variables[1].numpy()))
    np.testing.assert_allclose(ends, [0.5, 0.25], rtol=1e-6)
    assert len(_programs._programs) == 2


@pytest.mark.parametrize("limit", [0.0, 60.0])
def test_a_long_compilation_is_logged_with_its_time(limit, monkeypatch, caplog):
    monkeypatch.setattr(_compilation, "LONG_COMPILATION", limit)
    caplog.set_level(logging.INFO, "keras_rmsprop")
    training = Training({})
    for t in range(4):
        training.step(t)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (limit == 0.0)
    assert all("compiled its step in" in message for message in messages)


def test_an_optimizer_keeps_a_bounded_number_of_compiled_steps(monkeypatch):
    monkeypatch.setattr(_programs, "CAPACITY", 2)
    training = Training({})
    training.step(0)
    for dtype in ("float16", "float32", "float64"):
        training.apply([tf.ones(shape, dtype) for shape in twins.SHAPES])
        assert len(compiled_steps(training.optimizer)) <= 2
        assert len(_programs._programs) <= 2


def test_compiled_steps_are_not_saved_in_a_checkpoint(tmp_path):
    training = Training({})
    for t in range(2):
        training.step(t)
    checkpoint = tf.train.Checkpoint(optimizer=training.optimizer)
    with_step = {name for name, _ in tf.train.list_variables(checkpoint.save(tmp_path / "a"))}
    other = Training({"jit_compile": False})
    for t in range(2):
        other.step(t)
    checkpoint = tf.train.Checkpoint(optimizer=other.optimizer)
    without = {name for name, _ in tf.train.list_variables(checkpoint.save(tmp_path / "b"))}
    assert with_step == without
