"""Test when a step on JAX is one compiled call, and which steps share a program."""

import logging
import re
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop._math import _rule
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Training

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

import jax
import jax.numpy as jnp

from keras_rmsprop._execution import _compilation
from keras_rmsprop._execution.jax import _programs
from tests.tools.steps_jax import SLOTS, patch_compiled_step


@pytest.mark.parametrize("mode", ["auto", True], ids="jit_compile={}".format)
def test_nothing_is_traced_after_the_second_step(mode, nothing_compiled_yet, monkeypatch):
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


def test_tensors_of_one_shape_share_the_trace_of_their_update(nothing_compiled_yet, monkeypatch):
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


def test_a_rate_that_changes_by_itself_is_traced_once(nothing_compiled_yet, monkeypatch):
    traces = twins.count_traces(monkeypatch)
    training = Training({"learning_rate": twins.changing_rate()})
    for t in range(6):
        training.step(t)
    assert len(traces) == 2


def test_optimizers_of_equal_options_share_one_compiled_step(nothing_compiled_yet, monkeypatch):
    traces = twins.count_traces(monkeypatch)
    for limit in (0.5, 0.5, 0.25):
        training = Training({"jit_compile": True, "learning_rate": limit})
        training.variables[1].constraint = keras.constraints.MaxNorm(limit)
        for t in range(2):
            training.step(t)
    assert len(traces) == 2
    assert _programs.compiled_step._cache_size() == 2


def test_a_step_runs_op_by_op_only_if_it_is_the_first(compiled_calls):
    training = Training({})
    training.step(0)
    assert not compiled_calls
    training.step(1)
    assert len(compiled_calls) == 1
    training.optimizer._iterations.assign(0)
    training.step(2)
    assert len(compiled_calls) == 1
    resumed = Training({})
    resumed.optimizer.build(resumed.variables)
    resumed.optimizer._iterations.assign(7)
    resumed.step(0)
    assert len(compiled_calls) == 2


def test_all_calls_of_the_first_accumulated_step_run_op_by_op(compiled_calls):
    training = Training({"gradient_accumulation_steps": 2})
    for t in range(2):
        training.step(t)
    assert not compiled_calls
    training.step(2)
    assert compiled_calls


def test_jit_compile_true_compiles_the_first_step_and_false_none(compiled_calls):
    op_by_op, compiled = (Training({"jit_compile": mode}) for mode in (False, True))
    for t in range(3):
        op_by_op.step(t)
    assert not compiled_calls
    compiled.step(0)
    assert compiled_calls


def test_nothing_is_compiled_if_jit_is_disabled(compiled_calls):
    training = Training({})
    with jax.disable_jit():
        for t in range(2):
            training.step(t)
    assert not compiled_calls


def test_steps_under_a_distribution_of_keras_run_op_by_op(compiled_calls):
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        training = Training({})
        for t in range(2):
            training.step(t)
    finally:
        keras.distribution.set_distribution(None)
    assert not compiled_calls


def test_a_constraint_that_is_changed_later_does_not_affect_other_optimizers():
    def length_of_columns(constraint: Any, rows: int) -> float:
        variable = keras.Variable(np.full((rows, 4), 3.0, "float32"))
        variable.constraint = constraint
        optimizer = keras_rmsprop.RMSprop(0.01)
        for _ in range(4):
            optimizer.apply([-jnp.ones((rows, 4))], [variable])
        return float(np.linalg.norm(np.asarray(variable.value)[:, 0]))

    changed = keras.constraints.MaxNorm(2.0)
    length_of_columns(changed, 3)
    changed.max_value = 5.0
    assert length_of_columns(keras.constraints.MaxNorm(2.0), 6) <= 2.0 + 1e-6


def test_a_compiled_step_does_not_wait_for_the_device(compiled_calls, monkeypatch):
    training = Training({"clipnorm": 1.0, **SLOTS})
    for t in range(4):
        training.step(t)
    gradients = [jnp.ones(shape) for shape in twins.SHAPES]

    def read_by_host(_: Any) -> Any:
        raise AssertionError("an array was read by the host")

    with monkeypatch.context() as patch:
        patch.setattr(type(gradients[0]), "_value", property(read_by_host))
        with pytest.raises(AssertionError, match="read by the host"):
            int(training.optimizer._iterations.value)
        for _ in range(3):
            training.apply(gradients)
    assert len(compiled_calls) == 5


def test_a_fallback_calls_a_callable_rate_once(float64, monkeypatch, caplog):
    def fail(*_: Any) -> None:
        raise ValueError("beyond XLA")

    patch_compiled_step(monkeypatch, fail)
    caplog.set_level(logging.DEBUG, "keras_rmsprop")
    situation = twins.Situation(lambda: {"learning_rate": twins.changing_rate()})
    got, want = (list(twins.train(situation, mode)) for mode in ("auto", False))
    models.assert_identical(got[-1], want[-1])
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.004}, {"momentum": 0.9}, {"centered": True}],
    ids=["plain", "decay", "momentum", "centered"],
)
def test_a_jitted_step_compiles_to_no_more_kernels_than_that_of_keras(options):
    def kernels(optimizer: keras.optimizers.Optimizer) -> int:
        variables = [keras.Variable(np.ones(shape, "float32")) for shape in ((8, 4), (4,), (4, 2))]
        optimizer.build(variables)
        weights = [v.value for v in variables]
        state = [v.value for v in optimizer.variables]
        step = jax.jit(optimizer.stateless_apply).lower(state, weights, weights).compile()
        entry = step.as_text().partition("ENTRY")[2]
        return len(re.findall(r" (?:fusion|reduce|call|custom-call|copy|while)\(", entry))

    ours, theirs = (
        kernels(cls(0.01, **options)) for cls in (keras_rmsprop.RMSprop, keras.optimizers.RMSprop)
    )
    assert 0 < ours <= theirs


def test_a_long_compilation_is_logged_with_its_time(monkeypatch, caplog, nothing_compiled_yet):
    monkeypatch.setattr(_compilation, "LONG_COMPILATION", 0.0)
    caplog.set_level(logging.INFO, "keras_rmsprop")
    training = Training({"name": "mine"})
    for t in range(4):
        training.step(t)
    (record,) = caplog.records
    assert re.fullmatch(r"mine: compiling its step took \d+\.\d s\.", record.getMessage())
    assert record.levelno == logging.INFO


def test_deleted_weights_raise_and_do_not_run_op_by_op(caplog):
    caplog.set_level(logging.DEBUG, "keras_rmsprop")
    training = Training({})
    for t in range(3):
        training.step(t)
    training.variables[1].value.delete()
    with pytest.raises((ValueError, RuntimeError), match="deleted"):
        training.step(3)
    assert "op by op" not in caplog.text
