"""Test how tensors are divided into blocks on torch, and found again when they change."""

import itertools
import warnings
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

from keras_rmsprop._execution.torch import _engine, _layout
from tests.tools.steps_torch import EVERYTHING, trajectories


def test_small_tensors_share_a_block_and_large_ones_fill_several(monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 4)
    monkeypatch.setattr(_layout, "BLOCK", 6)
    sizes: list[list[int]] = []
    original = _engine.advance

    def recorded(plan: Any, numbers: Any, step: Any, block: Any, *rest: Any) -> None:
        sizes.append([w.numel() for w in block.weights])
        original(plan, numbers, step, block, *rest)

    monkeypatch.setattr(_engine, "advance", recorded)
    counts = (1, 2, 3, 10, 4, 3)
    variables = [keras.Variable(np.ones(n, np.float32)) for n in counts]
    optimizer = keras_rmsprop.RMSprop()
    optimizer.apply([torch.ones(n) for n in counts], variables)
    assert sizes == [[1, 2, 3], [4], [3], [4], [4], [2]]


def test_tensors_whose_memory_is_replaced_are_found_again(float64, monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 2)

    def begin(training: Training) -> None:
        def move_and_apply(gradients: list[torch.Tensor]) -> None:
            for variable in [*training.variables, *training.optimizer.variables]:
                # As `torch.nn.Module.to` does with the memory of its parameters.
                variable.value.data = variable.value.data.clone()
            training.apply(gradients)

        training.feed = move_and_apply

    twins.assert_same_trajectory(*trajectories(Situation(lambda: EVERYTHING, begin=begin)))


def test_a_gradient_that_is_not_contiguous_is_allowed(float64, monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 2)

    def begin(training: Training) -> None:
        training.feed = lambda g: training.apply([g[0], g[1].t().contiguous().t()])

    twins.assert_same_trajectory(*trajectories(Situation(lambda: EVERYTHING, begin=begin)))


def test_an_empty_variable_is_allowed():
    optimizer = keras_rmsprop.RMSprop(clipnorm=1.0, momentum=0.5)
    variables = [keras.Variable(np.ones(shape, np.float32)) for shape in [(0, 2), (2,)]]
    for _ in range(2):
        optimizer.apply([torch.ones(0, 2), torch.ones(2)], variables)
    assert np.all(models.values(variables)[1] < 1.0)


@pytest.mark.parametrize("grain", [2, 2**15])
def test_any_set_of_gradients_makes_the_same_step_and_few_layouts_are_kept(
    float64, monkeypatch, grain
):
    monkeypatch.setattr(_layout, "GRAIN", grain)
    shapes = [(), (2,), (1,), (3, 2), (2, 2)]

    def train(mode: Any) -> tuple[keras_rmsprop.RMSprop, list[list[np.ndarray]]]:
        variables = [keras.Variable(np.ones(shape)) for shape in shapes]
        optimizer = keras_rmsprop.RMSprop(0.1, clipnorm=1.0, momentum=0.5, jit_compile=mode)
        optimizer.build(variables)
        rng = np.random.default_rng(0)
        trajectory = [models.values([*variables, *optimizer.variables])]
        for present in itertools.product([True, False], repeat=len(shapes)):
            gradients = [
                torch.tensor(rng.normal(size=s)) if p else None
                for s, p in zip(shapes, present, strict=True)
            ]
            if any(present):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    optimizer.apply(gradients, variables)
            trajectory.append(models.values([*variables, *optimizer.variables]))
        return optimizer, trajectory

    (optimizer, got), (_, want) = train("auto"), train(False)
    for mine, theirs in zip(got[-1], want[-1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    assert len(_layout._layouts[optimizer._roster].selections) == _layout.SELECTIONS_KEPT


def test_a_weight_that_is_transposed_in_its_own_memory_gets_a_new_layout(monkeypatch):
    monkeypatch.setattr(_layout, "PIECE", 7)
    rng = np.random.default_rng(0)
    start, gradient = rng.normal(size=(5, 5)), torch.tensor(rng.normal(size=(5, 5)))
    weights = []
    for mode in ("auto", False):
        variable = keras.Variable(start, dtype="float64")
        optimizer = keras_rmsprop.RMSprop(0.1, jit_compile=mode)
        for t in range(4):
            if t == 2:
                variable._value.data = variable._value.data.t()
            optimizer.apply([gradient], [variable])
        weights += models.values([variable])
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-12)
