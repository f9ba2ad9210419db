"""Layers that train in float8, whose scales are overwritten by their gradients."""

from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario
from tests.tools import models


def _network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(16, dtype="float8_from_float32"),
            keras.layers.Dense(1),
        ]
    )


def _scales(network: keras.Model) -> dict[str, Any]:
    return {
        v.name: models.values([v])[0]
        for v in network.trainable_variables
        if v.overwrite_with_gradient
    }


@scenario()
def a_float8_layer_trains(RMSprop, folder):
    network = _network()
    weights = models.fit(network, RMSprop(0.01))
    assert any(np.any(scale != 1.0) for scale in _scales(network).values())
    return weights


@scenario()
def a_float8_layer_trains_under_accumulation(RMSprop, folder):
    network = _network()
    return models.fit(network, RMSprop(0.01, gradient_accumulation_steps=2))


# On TensorFlow Keras's own class raises at the end of `fit`: scales have no average.
@scenario(backends=("jax",))
def a_float8_layer_trains_with_an_average_of_the_weights(RMSprop, folder):
    network = _network()
    return models.fit(network, RMSprop(0.01, use_ema=True, ema_momentum=0.5), epochs=1)
