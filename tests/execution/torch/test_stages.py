"""Test that the stages in place on torch equal those of the rule."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Situation
from yardsticks.variants import rule_variants

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from keras_rmsprop._execution.torch import _layout, _stages
from tests.tools.steps_torch import EVERYTHING, trajectories


@pytest.mark.parametrize("variant", rule_variants(), ids=lambda variant: variant.id)
def test_the_update_in_place_equals_the_rule(float64, variant):
    twins.assert_same_trajectory(*trajectories(twins.situation_of(variant)))


@pytest.mark.parametrize("size", [1, 2, 5, 7], ids="{} elements".format)
def test_the_size_of_a_block_does_not_matter(float64, monkeypatch, size):
    monkeypatch.setattr(_layout, "PIECE", size)
    monkeypatch.setattr(_layout, "BLOCK", 2 * size)
    monkeypatch.setattr(_layout, "GRAIN", size)
    twins.assert_same_trajectory(*trajectories(Situation(lambda: EVERYTHING)))


def test_a_rule_that_is_not_elementwise_would_depend_on_the_pieces(float64, monkeypatch):
    # Tensors may be divided because the rule is elementwise; this shows that another would differ.
    original = _stages._update

    def normalized(form: Any, step: Any, block: Any, gradients: Any) -> None:
        original(form, step, block, [g / g.abs().mean() for g in gradients])

    def weights(piece: int) -> list[np.ndarray]:
        monkeypatch.setattr(_layout, "PIECE", piece)
        variable = keras.Variable(np.ones(8), dtype="float64")
        optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5)
        for t in range(3):
            optimizer.apply([torch.arange(1.0, 9.0, dtype=torch.float64) + t], [variable])
        return models.values([variable])

    models.assert_identical(weights(3), weights(100))
    monkeypatch.setattr(_stages, "_update", normalized)
    assert not np.allclose(weights(3), weights(100), rtol=1e-3)


@pytest.mark.parametrize("grain", [1, 3, 6, 100], ids="grain {}".format)
@pytest.mark.parametrize("inside", [True, False], ids="epsilon_inside_sqrt={}".format)
@pytest.mark.parametrize("epsilon", [1e-7, 0.0], ids="epsilon={}".format)
def test_the_size_of_a_call_does_not_matter(float64, monkeypatch, grain, inside, epsilon):
    monkeypatch.setattr(_layout, "GRAIN", grain)
    monkeypatch.setattr(_stages, "ROOT_GRAIN", 2)
    options = {"epsilon_inside_sqrt": inside, "epsilon": epsilon, "momentum": 0.5}
    twins.assert_same_trajectory(*trajectories(Situation(lambda: options)))


def test_a_norm_of_millions_of_elements_is_as_exact_as_float32():
    gradient = np.random.default_rng(0).standard_normal(2**22).astype(np.float32)
    variable = keras.Variable(np.zeros(2**22, np.float32))
    optimizer = keras_rmsprop.RMSprop(clipnorm=1.0, rho=0.0, epsilon=1.0)
    optimizer.apply([torch.tensor(gradient)], [variable])
    # torch's own norm of 2**22 elements is off by 2e-4.
    length = np.linalg.norm(gradient.astype(np.float64))
    (square_average,) = models.values(optimizer._square_averages)
    np.testing.assert_allclose(square_average, (gradient / length) ** 2, rtol=5e-6)


def test_averages_of_mixed_dtypes_are_each_exact(float64):
    options = {"use_ema": True, "ema_momentum": 0.7}
    setting = {"dtypes": ("float32", "float64")}
    twins.assert_same_trajectory(*trajectories(Situation(lambda: options), **setting))
