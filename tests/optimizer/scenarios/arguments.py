"""Arguments and gradients that Keras's class accepts."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from tests.optimizer.scenarios import scenario
from tests.tools import models


def _stepped(optimizer: Any, gradients: Any, start: Any = (1.0, 2.0)) -> Any:
    variable = keras.Variable(np.asarray(start, "float32"))
    for gradient in gradients:
        optimizer.apply([gradient], [variable])
    return models.values([variable])


@scenario()
def an_old_program_passes_decay(RMSprop, folder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = RMSprop(0.1, decay=1e-6)
    assert any("`decay` is no longer supported" in str(each.message) for each in caught)
    return _stepped(optimizer, [ops.ones((2,))] * 3)


@scenario()
def an_unknown_argument_is_a_value_error(RMSprop, folder):
    with pytest.raises(ValueError, match="beta_1"):
        RMSprop(0.1, beta_1=0.9)


@scenario()
def zero_switches_an_option_off(RMSprop, folder):
    gradients = [ops.convert_to_tensor([3.0, -4.0])] * 4
    results = []
    for name in ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps"):
        results += _stepped(RMSprop(0.1, **{name: 0}), gradients)
    if keras.backend.backend() != "jax":
        # On JAX Keras computes a remainder by 0, and overwrites with every step.
        options = {"use_ema": True, "ema_overwrite_frequency": 0}
        results += _stepped(RMSprop(0.1, **options), gradients)
    # A config holds the zero as it was given.
    assert RMSprop.from_config(RMSprop(0.1, clipnorm=0).get_config()).clipnorm == 0
    return results


@scenario(backends=("tensorflow", "jax"))
def gradients_are_lists_and_numbers(RMSprop, folder):
    results = []
    for options in ({}, {"clipnorm": 1.0}):
        results += _stepped(RMSprop(0.1, **options), [[1.0, -2.0], (0.5, 4.0), [1.0, 1.0]])
        results += _stepped(RMSprop(0.1, **options), [2.0, 0.5, -1.0], start=1.0)
    return [*results, *_stepped(RMSprop(0.1), [2, 1, -1], start=1.0)]


@scenario(backends=("tensorflow", "jax"))
def gradients_are_integers(RMSprop, folder):
    gradients = [np.array([1, -2]), np.array([3, 1], "int32")]
    return _stepped(RMSprop(0.1), gradients)


@scenario(backends=("tensorflow", "jax"))
def a_variable_of_integers_stays_as_it_is(RMSprop, folder):
    results = []
    for gradient in (None, ops.convert_to_tensor([1, 2], "int32")):
        for options in ({}, {"use_ema": True}, {"weight_decay": 0.1}):
            weight, steps = keras.Variable([1.0, 2.0]), keras.Variable([3, 4], dtype="int32")
            optimizer = RMSprop(0.1, **options)
            for _ in range(3):
                optimizer.apply([ops.convert_to_tensor([1.0, -1.0]), gradient], [weight, steps])
            optimizer.finalize_variable_values([weight, steps])
            assert models.values([steps])[0].tolist() == [3, 4]
            results += models.values([weight])
    return results


@scenario()
def numbers_are_arrays_and_tensors_without_dimensions(RMSprop, folder):
    gradients = [ops.convert_to_tensor([3.0, -4.0])] * 4
    kinds = [np.array, ops.convert_to_tensor] if keras.backend.backend() != "jax" else [np.array]
    results = []
    for kind in kinds:
        for name, value in (("weight_decay", 0.5), ("clipnorm", 1.0), ("clipvalue", 0.5)):
            results += _stepped(RMSprop(0.1, **{name: kind(value)}), gradients)
    return results


@scenario()
def options_are_switched_by_numbers_and_by_none(RMSprop, folder):
    gradients = [ops.convert_to_tensor([3.0, -4.0])] * 4
    off = {"momentum": False, "weight_decay": False, "clipnorm": False, "centered": 0}
    results = []
    for options in (off, {"centered": None, "use_ema": 0}, {"centered": 1}, {"use_ema": 1}):
        results += _stepped(RMSprop(0.1, **options), gradients)
    return results


@scenario()
def accumulation_is_switched_off_where_there_is_none(RMSprop, folder):
    variable, optimizer = keras.Variable([1.0, 2.0]), RMSprop(0.1)
    for t in range(4):
        optimizer.gradient_accumulation_steps = 0 if t % 2 else None
        optimizer.apply([ops.convert_to_tensor([3.0, -4.0])], [variable])
    return models.values([variable])
