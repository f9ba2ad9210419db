"""Test that a step on torch uses changes on the host without waiting for the device."""

from typing import Any

import pytest

from tests.conftest import BACKEND
from tests.tools import twins
from tests.tools.twins import Situation, Training

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)

import torch

from keras_rmsprop._execution.torch import _host
from tests.tools.steps_torch import EVERYTHING, trajectories


@pytest.mark.parametrize("how", ["assigned", "filled"])
def test_a_rate_and_a_counter_changed_from_outside_are_used(float64, how):
    def change(training: Training) -> None:
        optimizer = training.optimizer
        for variable, value in [(optimizer._learning_rate, 0.5), (optimizer._iterations, 40)]:
            if how == "assigned":
                variable.assign(value)
            else:
                with torch.no_grad():
                    variable.value.fill_(value)

    options = {"bias_correction": True, "rho": 0.999}
    twins.assert_same_trajectory(*trajectories(Situation(lambda: options, change)))


def test_a_step_does_not_wait_for_the_device(monkeypatch):
    # Pretend that tensors are on a device; those of a CPU are read at every step.
    monkeypatch.setattr(_host, "_is_remote", lambda _: True)
    training = Training({**EVERYTHING, "clipvalue": None, "global_clipnorm": 1.0})
    for t in range(2):
        training.step(t)
    gradients = [torch.ones(shape, dtype=torch.float64) for shape in twins.SHAPES]

    def read_by_host(*_: Any) -> Any:
        raise AssertionError("a tensor was read by the host")

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, read_by_host)
    for _ in range(4):
        training.apply(gradients)


@pytest.mark.parametrize("how", ["data", "numpy"])
def test_a_rate_and_a_counter_changed_through_shared_memory_are_used(float64, how):
    def change(training: Training) -> None:
        optimizer = training.optimizer
        for variable, value in [(optimizer._learning_rate, 0.5), (optimizer._iterations, 40)]:
            if how == "data":
                variable.value.data.fill_(value)
            else:
                variable.value.detach().numpy()[...] = value

    options = {"bias_correction": True, "rho": 0.999}
    twins.assert_same_trajectory(*trajectories(Situation(lambda: options, change)))
