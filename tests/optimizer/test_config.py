"""Test that a config makes the same optimizer again, also through Keras."""

import copy
import inspect
import json
from typing import Any

import keras
import pytest

from keras_rmsprop import RMSprop
from keras_rmsprop._settings import _validation
from yardsticks.agreement import rmsprop

CHANGED = {
    "learning_rate": 0.25,
    "rho": 0.5,
    "momentum": 0.25,
    "epsilon": 0.125,
    "centered": True,
    "weight_decay": 0.1,
    "clipnorm": 2.0,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 3,
    "loss_scale_factor": 8.0,
    "gradient_accumulation_steps": 2,
    "name": "mine",
    "nesterov": True,
    "epsilon_inside_sqrt": False,
    "lr_in_momentum": False,
    "bias_correction": True,
    "l2": 0.2,
    "maximize": True,
    "jit_compile": False,
}


def test_the_config_holds_every_argument() -> None:
    assert set(RMSprop().get_config()) == set(inspect.signature(RMSprop).parameters)


def test_the_config_is_plain_json() -> None:
    config = rmsprop(**CHANGED).get_config()
    assert json.loads(json.dumps(config)) == config


def test_the_config_makes_the_same_optimizer_again() -> None:
    config = rmsprop(**CHANGED).get_config()
    assert {name: config[name] for name in CHANGED} == CHANGED
    with pytest.warns(UserWarning, match="first variance exactly zero"):
        again = RMSprop.from_config(config)
    assert again.get_config() == config


@pytest.mark.parametrize(
    "name", sorted(set(_validation.HYPERPARAMETERS) - {"jit_compile", "transform", "state_dtype"})
)
def test_an_assigned_hyperparameter_is_in_the_config(name: str) -> None:
    optimizer = RMSprop(momentum=0.5 if name == "nesterov" else 0.0)
    old = getattr(optimizer, name)
    new = (not old) if isinstance(old, bool) else 2 if old is None else 0.25
    setattr(optimizer, name, new)
    assert optimizer.get_config()[name] == new


def test_from_config_does_not_modify_the_config() -> None:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    config = RMSprop(learning_rate=schedule).get_config()
    before = copy.deepcopy(config)
    RMSprop.from_config(config)
    assert config == before


def test_a_config_of_keras_is_accepted() -> None:
    arguments = {"rho": 0.5, "momentum": 0.25, "centered": True, "clipnorm": 2.0, "use_ema": True}
    config = keras.optimizers.RMSprop(0.25, **arguments).get_config()
    ours = RMSprop.from_config(config).get_config()
    assert {name: ours[name] for name in config} == config


def test_a_config_with_an_unknown_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="no argument `lr`"):
        RMSprop.from_config({"lr": 0.1})


@pytest.mark.parametrize(
    "rate",
    [0.25, keras.optimizers.schedules.ExponentialDecay(0.25, 10, 0.5)],
    ids=["number", "schedule"],
)
def test_keras_serializes_it_under_its_registered_name_and_restores_it(rate: Any) -> None:
    optimizer = RMSprop(learning_rate=rate, rho=0.5, nesterov=True, momentum=0.5)
    serialized = keras.optimizers.serialize(optimizer)
    assert serialized["registered_name"] == "keras_rmsprop>RMSprop"
    again = keras.optimizers.deserialize(json.loads(json.dumps(serialized)))
    assert type(again) is RMSprop
    assert again.get_config() == optimizer.get_config()


def test_keras_gets_it_by_its_registered_name() -> None:
    assert type(keras.optimizers.get("keras_rmsprop>RMSprop")) is RMSprop


def test_the_name_without_the_package_gives_keras_own_class() -> None:
    assert not isinstance(keras.optimizers.get("rmsprop"), RMSprop)
