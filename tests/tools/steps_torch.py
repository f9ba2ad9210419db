"""Helpers of the tests of steps on torch."""

from typing import Any

import keras_rmsprop
from tests.tools import twins
from tests.tools.twins import Situation

EVERYTHING: dict[str, Any] = {
    "centered": True,
    "momentum": 0.5,
    "nesterov": True,
    "maximize": True,
    "l2": 0.1,
    "weight_decay": 0.1,
    "clipvalue": 1.0,
    "use_ema": True,
    "ema_momentum": 0.7,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 3.0,
    "gradient_accumulation_steps": 2,
}


def trajectories(situation: Situation, **setting: Any) -> list[Any]:
    """The states after each step of a situation, in place and op by op."""
    return [list(twins.train(situation, mode, **setting)) for mode in ("auto", False)]


class HalfOfIt(keras_rmsprop.RMSprop):
    """A subclass whose `update_step` fails at the second variable."""

    fails = False

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Make a step, or fail once the first variable has moved."""
        if self.fails and len(gradient.shape):
            raise RuntimeError("as planned")
        super().update_step(gradient, variable, learning_rate)
