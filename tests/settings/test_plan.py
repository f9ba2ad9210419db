"""Test that a setting that changes without an assignment acts at the next step."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rmsprop import RMSprop
from tests.tools.two_weights import values_of


def test_a_setting_that_is_changed_without_its_setter_acts_at_the_next_step() -> None:
    weights = []
    for change in (
        lambda optimizer: setattr(optimizer, "rho", 0.3),
        lambda optimizer: vars(optimizer).update(rho=0.3),
        lambda optimizer: object.__setattr__(optimizer, "rho", 0.3),
    ):
        optimizer, variable = RMSprop(0.1), keras.Variable([1.0, 2.0])
        for t in range(6):
            if t == 3:
                change(optimizer)
            optimizer.apply([ops.ones(2)], [variable])
        weights.append(values_of([variable])[0])
    np.testing.assert_array_equal(weights[1], weights[0])
    np.testing.assert_array_equal(weights[2], weights[0])


def test_an_override_of_use_weight_decay_is_called_at_every_step() -> None:
    class Late(RMSprop):
        def _use_weight_decay(self, variable: Any) -> bool:
            del variable
            return int(self.iterations) >= 3

    optimizer, variable = Late(0.1, weight_decay=1.0), keras.Variable([1.0, 2.0])
    for t in range(5):
        before = values_of([variable])[0]
        optimizer.apply([ops.zeros(2)], [variable])
        factor = 0.9 if t >= 3 else 1.0
        np.testing.assert_allclose(values_of([variable])[0], factor * before, rtol=1e-6)
