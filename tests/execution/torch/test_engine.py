"""Test when a step on torch runs in place, and which gradients it accepts."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Situation, Training

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from tests.tools.steps_torch import EVERYTHING, HalfOfIt

SLOTS: dict[str, Any] = {"centered": True, "momentum": 0.5, "clipnorm": 1.0}


@pytest.mark.parametrize("mode", ["auto", True], ids="jit_compile={}".format)
def test_jit_compile_auto_and_true_run_no_step_op_by_op(monkeypatch, mode):
    traces = twins.count_traces(monkeypatch)
    training = Training({**EVERYTHING, "jit_compile": mode})
    for t in range(3):
        training.step(t)
    # With True a step is traced once, to compile it.
    assert len(traces) == (mode is True)


def test_jit_compile_false_runs_every_step_op_by_op(monkeypatch):
    traces = twins.count_traces(monkeypatch)
    training = Training({"jit_compile": False})
    for t in range(3):
        training.step(t)
    assert len(traces) == 3


def test_torch_compile_makes_one_graph_for_all_steps(float64):
    got, want = Training(SLOTS), Training({**SLOTS, "jit_compile": False})
    gradients = [torch.ones(shape, dtype=torch.float64) for shape in twins.SHAPES]
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    got.optimizer.build(got.variables)
    step = torch.compile(got.apply, backend=backend)
    for _ in range(6):
        step(gradients)
        want.apply(gradients)
    assert len(graphs) == 1
    for mine, theirs in zip(got.state(), want.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_a_report_says_that_compiled_steps_are_not_sampled():
    weight = keras.Variable([1.0, 2.0], name="w")
    optimizer = keras_rmsprop.RMSprop(diagnostics=keras_rmsprop.Diagnostics(every=3))
    optimizer.build([weight])

    def apply() -> None:
        optimizer.apply([torch.ones(2)])

    step = torch.compile(apply, backend="eager")
    for made in range(1, 5):
        step()
        report = optimizer.diagnostics()
        assert report.iterations == made
        assert report.total.sampled == 0
        assert (report.reason is None) == (made < 3)
    assert "`torch.compile` never are" in str(optimizer.explain())
    for _ in range(3):
        apply()
    assert optimizer.diagnostics().reason is None
    assert optimizer.diagnostics().total.step == 7


def test_sparse_gradients_become_dense(float64):
    def begin(training: Training) -> None:
        training.feed = lambda g: training.apply([g[0], g[1].to_sparse()])

    want = list(twins.train(Situation(), jit_compile=False))
    twins.assert_same_trajectory(list(twins.train(Situation(begin=begin), "auto")), want)


@pytest.mark.parametrize("make", [keras.optimizers.RMSprop, keras_rmsprop.RMSprop])
def test_inference_mode_works_as_with_keras(make):
    gradient = torch.ones(3)
    with torch.inference_mode():
        inside = keras.Variable(np.ones(3, np.float32))
        first = make(0.1)
        for _ in range(3):
            first.apply([gradient], [inside])
    assert float(inside.value[0]) < 0.5
    state = models.values([inside, *first.variables])
    with pytest.raises(RuntimeError, match=r"(?i)inference"):
        first.apply([gradient], [inside])
    if make is keras_rmsprop.RMSprop:
        models.assert_identical(models.values([inside, *first.variables]), state)
    outside, second = keras.Variable(np.ones(3, np.float32)), make(0.1)
    second.build([outside])
    with torch.inference_mode():
        second.apply([gradient], [outside])
    second.apply([gradient], [outside])
    assert int(second.iterations.value) == 2


class Squeezed(keras.constraints.Constraint):
    """A user's constraint."""

    def __call__(self, w: Any) -> Any:
        """Shrink the weight."""
        return w * 0.9


@pytest.mark.parametrize("what", ["constraint", "update_step"])
def test_jit_compile_true_refuses_what_runs_op_by_op(what):
    make = HalfOfIt if what == "update_step" else keras_rmsprop.RMSprop
    training = Training({"jit_compile": True}, make=make)
    if what == "constraint":
        training.variables[1].constraint = Squeezed()
    training.optimizer.build(training.variables)
    before = training.state()
    with pytest.raises(ValueError, match=r"`jit_compile=True`.*(Squeezed|HalfOfIt)"):
        training.step(0)
    models.assert_identical(training.state(), before)


GRADIENTS: dict[str, Any] = {
    "a list": lambda: [1.0, 2.0, 3.0],
    "NumPy": lambda: np.array([1.0, 2.0, 3.0]),
    "integers": lambda: torch.tensor([1, 2, 3]),
    "half precision": lambda: torch.tensor([1.0, 2.0, 3.0]).half(),
    "uncoalesced": lambda: torch.sparse_coo_tensor(
        [[0, 1, 2, 1]], [1.0, 1.0, 3.0, 1.0], (3,), check_invariants=True
    ),
    "expanded": lambda: torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 2)[:, 1],
    "a parameter": lambda: torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0])),
}


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_gradient_is_accepted_in_any_form(kind, mode):
    def moved(gradient: Any) -> np.ndarray:
        variable = keras.Variable(np.ones(3, np.float32))
        optimizer = keras_rmsprop.RMSprop(0.1, centered=True, clipnorm=1.0, jit_compile=mode)
        for _ in range(2):
            optimizer.apply([gradient()], [variable])
        return models.values([variable])[0]

    want = moved(lambda: torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(moved(GRADIENTS[kind]), want)
