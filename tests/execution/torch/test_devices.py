"""Test that a step on torch runs where its weights are, whatever the default device."""

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

from tests.tools.steps_torch import EVERYTHING, trajectories

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@needs_cuda
@pytest.mark.parametrize("schedule", [False, True], ids="schedule={}".format)
def test_a_step_on_cuda_equals_op_by_op_steps_and_does_not_synchronise(float64, schedule):
    rate = {"learning_rate": twins.rate_schedule()} if schedule else {}
    situation = Situation(lambda: {**EVERYTHING, **rate})
    twins.assert_same_trajectory(*trajectories(situation))
    training = Training({**EVERYTHING, **rate})
    gradients = [torch.ones(s, dtype=torch.float64, device="cuda") for s in twins.SHAPES]
    for _ in range(3):
        training.apply(gradients)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            training.apply(gradients)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_weights_on_several_devices_are_each_updated_where_they_are(float64):
    def train(mode: Any) -> list[list[np.ndarray]]:
        with keras.device("cpu"):
            first = keras.Variable(np.ones(3))
        second = keras.Variable(np.ones(3))
        optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5, jit_compile=mode)
        trajectory = []
        for t in range(4):
            gradients = [torch.full((3,), 0.5 + t, dtype=torch.float64) for _ in range(2)]
            optimizer.apply([gradients[0], gradients[1].cuda()], [first, second])
            trajectory.append(models.values([first, second]))
        return trajectory

    twins.assert_same_trajectory(train("auto"), train(False))


@pytest.mark.parametrize("built", ["before", "within"])
def test_another_default_device_changes_nothing(built):
    options = {"momentum": 0.5, "weight_decay": 0.1, "use_ema": True, "centered": True}

    def train(device: str) -> list[Any]:
        variable = keras.Variable([1.0, 2.0])
        optimizer = keras_rmsprop.RMSprop(0.1, **options)
        optimizer.build([variable])
        gradient = torch.tensor([3.0, -2.0])
        if built == "before":
            optimizer.apply([gradient], [variable])
        with torch.device(device):
            for _ in range(3):
                optimizer.apply([gradient], [variable])
        return models.values([variable, *optimizer.variables])

    models.assert_identical(train("meta"), train("cpu"))
