"""Optimizers that wrap this one, and the functions of `keras.optimizers`."""

import pickle
from pathlib import Path
from typing import Any

import keras

from tests.optimizer.scenarios import scenario
from tests.tools import models


def multi_optimizer(RMSprop: Any) -> Any:
    """A MultiOptimizer with one optimizer of the class for each layer."""
    choice = keras.optimizers.OptimizerMap(RMSprop(0.01))
    choice[".*hidden/.*"] = RMSprop(0.02, momentum=0.5)
    return keras.optimizers.MultiOptimizer(choice)


@scenario()
def each_layer_has_an_optimizer_of_its_own(RMSprop: Any, folder: Path) -> Any:
    return models.fit(models.model(), multi_optimizer(RMSprop))


@scenario()
def a_model_with_several_optimizers_is_saved_and_goes_on(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, multi_optimizer(RMSprop))
    network.save(folder / "model.keras")
    other = keras.models.load_model(folder / "model.keras")
    return [models.go_on(network), models.go_on(other)]


@scenario()
def a_loss_scale_by_hand(RMSprop: Any, folder: Path) -> Any:
    scaled = keras.optimizers.LossScaleOptimizer(
        RMSprop(0.01), initial_scale=64.0, dynamic_growth_steps=3
    )
    network = models.model()
    first = models.fit(network, scaled)
    network.save(folder / "model.keras")
    other = keras.models.load_model(folder / "model.keras")
    return [first, float(scaled.dynamic_scale), models.go_on(other), models.go_on(network)]


@scenario()
def a_loss_that_overflows_under_a_scale(RMSprop: Any, folder: Path) -> Any:
    import numpy as np

    scaled = keras.optimizers.LossScaleOptimizer(RMSprop(0.01), initial_scale=64.0)
    network = models.model()
    network.compile(scaled, loss="mse")
    x, y = models.data()
    bad = np.array(y)
    bad[3] = np.inf
    network.fit(x, bad, batch_size=8, shuffle=False, verbose=0)
    return [network.get_weights(), float(scaled.dynamic_scale), int(scaled.iterations)]


@scenario()
def an_optimizer_goes_through_its_config(RMSprop: Any, folder: Path) -> Any:
    first = RMSprop(0.01, momentum=0.5, centered=True, clipnorm=1.0, weight_decay=0.01)
    config = keras.optimizers.serialize(first)
    second = keras.optimizers.get(config)
    third = RMSprop.from_config(first.get_config())
    fourth = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(first))
    for other in (second, third, fourth):
        assert isinstance(other, RMSprop)
        assert other.get_config() == first.get_config()
    return models.fit(models.model(), second)


@scenario()
def a_schedule_goes_through_the_config(RMSprop: Any, folder: Path) -> Any:
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 10, name="mine")
    config = keras.optimizers.serialize(RMSprop(schedule))
    return models.fit(models.model(), keras.optimizers.deserialize(config))


@scenario()
def a_config_is_edited_before_use(RMSprop: Any, folder: Path) -> Any:
    config = RMSprop(0.01).get_config()
    config["learning_rate"] = 0.02
    config["clipnorm"] = 0.5
    return models.fit(models.model(), RMSprop.from_config(config))


@scenario()
def an_optimizer_is_pickled_before_use(RMSprop: Any, folder: Path) -> Any:
    optimizer = pickle.loads(pickle.dumps(RMSprop(0.01, momentum=0.5)))
    return models.fit(models.model(), optimizer)


@scenario()
def clips_and_decay_in_fit(RMSprop: Any, folder: Path) -> Any:
    kinds = [
        {"clipnorm": 0.1},
        {"global_clipnorm": 0.1, "weight_decay": 0.01},
        {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
    ]
    return [models.fit(models.model(), RMSprop(0.01, **kind)) for kind in kinds]
