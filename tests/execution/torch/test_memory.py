"""Test that a step on torch runs in the variables' own memory and keeps gradients as they are."""

import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import twins
from tests.tools.twins import Situation, Training

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from tests.tools.steps_torch import EVERYTHING, trajectories


@pytest.mark.parametrize(
    "options",
    [{}, {"maximize": True, "l2": 0.1}, {"clipvalue": 0.1}, {"clipnorm": 0.1}, EVERYTHING],
    ids=["plain", "maximize and l2", "clipvalue", "clipnorm", "everything"],
)
def test_gradients_are_not_modified(options):
    training = Training(options)
    gradients = [torch.full(shape, 0.7, dtype=torch.float64) for shape in twins.SHAPES]
    before = [g.clone() for g in gradients]
    for _ in range(4):
        training.apply(gradients)
    for gradient, value in zip(gradients, before, strict=True):
        assert torch.equal(gradient, value)


def test_the_step_runs_in_the_variables_own_memory():
    training = Training(EVERYTHING)
    training.optimizer.build(training.variables)
    owners = [*training.variables, *training.optimizer.variables]
    before = [v.value.data_ptr() for v in owners]
    for t in range(3):
        training.step(t)
    assert [v.value.data_ptr() for v in owners] == before


def test_gradients_with_a_graph_leave_no_graph_behind():
    training = Training(EVERYTHING)
    leaf = torch.ones((), dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        training.apply([leaf * torch.ones(shape) for shape in twins.SHAPES])
    owners = [*training.variables, *training.optimizer.variables]
    assert all(v.value.grad_fn is None for v in owners)


def test_an_unreferenced_optimizer_is_freed():
    def train() -> list[weakref.ref[Any]]:
        training = Training(EVERYTHING)
        for t in range(3):
            training.step(t)
        slot = training.optimizer._square_averages[1].value
        return [weakref.ref(x) for x in (training.optimizer, training.variables[0], slot)]

    references = train()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


@pytest.mark.parametrize("name", ["_square_averages", "_momentums", "weight", "a view", "a part"])
def test_a_gradient_may_share_the_memory_that_is_written_to(float64, name):
    def begin(training: Training) -> None:
        matrix = training.variables[1]
        if name == "a part":
            # A part of one memory for all weights, as in a flattened model.
            whole = torch.arange(12, dtype=torch.float64)
            matrix.value.data = whole[6:].view(2, 3)

        def feed(gradients: list[torch.Tensor]) -> None:
            match name:
                case "weight":
                    gradient = matrix.value
                case "a view":
                    gradient = matrix.value[1].expand(2, 3)
                case "a part":
                    gradient = matrix.value.data.as_strided((2, 3), (3, 1), 4)
                case _:
                    gradient = getattr(training.optimizer, name)[1].value
            training.apply([gradients[0], gradient])

        training.feed = feed

    options = {**EVERYTHING, "gradient_accumulation_steps": None, "clipvalue": None}
    options |= {"loss_scale_factor": None, "use_ema": False, "ema_overwrite_frequency": None}
    options |= {"maximize": False, "initial_square_average": 0.5}
    twins.assert_same_trajectory(*trajectories(Situation(lambda: options, begin=begin)))


@pytest.mark.parametrize("mode", ["auto", False], ids="jit_compile={}".format)
def test_variables_that_share_memory_are_both_updated(float64, mode):
    """As with Keras's class, which updates one after the other."""
    ends = []
    for cls in (keras_rmsprop.RMSprop, keras.optimizers.RMSprop):
        tensor = torch.ones(3, dtype=torch.float64)
        variables = [keras.Variable(tensor), keras.Variable(tensor)]
        options = {"jit_compile": mode} if cls is keras_rmsprop.RMSprop else {}
        optimizer = cls(0.01, **options)
        for _ in range(4):
            optimizer.apply([torch.ones(3, dtype=torch.float64)] * 2, variables)
        ends.append(tensor.numpy().copy())
    np.testing.assert_allclose(*ends, rtol=1e-12)


def test_jit_compile_true_refuses_variables_that_share_memory():
    tensor = torch.ones(6)
    variables = [keras.Variable(tensor, name="one"), keras.Variable(tensor[2:], name="other")]
    assert variables[1].value.data_ptr() == tensor[2:].data_ptr()
    optimizer = keras_rmsprop.RMSprop(0.01, jit_compile=True)
    with pytest.raises(ValueError, match="'one' and 'other' share memory"):
        optimizer.apply([torch.ones(6), torch.ones(4)], variables)
    assert optimizer.iterations == 0
    assert bool((tensor == 1.0).all())
