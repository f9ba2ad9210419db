"""Helpers of the tests of steps on TensorFlow."""

from typing import Any

import keras_rmsprop
from keras_rmsprop._execution.tensorflow import _programs
from tests.tools import twins
from tests.tools.twins import Situation

MODES = ("auto", False)


class WithOwnUpdate(keras_rmsprop.RMSprop):
    """An optimizer with an `update_step` that assigns to its variable."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update and shrink the weight."""
        super().update_step(gradient, variable, learning_rate)
        self.assign(variable, variable * 0.5)


def compiled_steps(optimizer: Any) -> list[Any]:
    """The compiled steps that an optimizer has made so far."""
    inputs = _programs._program_inputs.get(optimizer._roster)
    programs = [] if inputs is None else inputs.programs.values()
    return [step for step in programs if isinstance(step, _programs._Program)]


def trajectories(situation: Situation) -> list[Any]:
    """The states after each step of a situation, compiled and op by op."""
    return [list(twins.train(situation, mode)) for mode in MODES]
