"""Named weights, an optimizer of them, and helpers to save and load its state."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools.models import Array

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own")

SHAPE = (4, 3)
RATE = 2.0**-6
CALLS = 7

Store = dict[str, Array]


def weights(*names: str, shape: tuple[int, ...] = SHAPE) -> list[keras.Variable]:
    """Return variables of these names in floatx, whose values depend only on the name."""
    return [
        keras.Variable(_rng(name).normal(size=shape), dtype=keras.config.floatx(), name=name)
        for name in names
    ]


def built(variables: Sequence[keras.Variable], **options: Any) -> keras_rmsprop.RMSprop:
    """Return an optimizer of these variables that has made no step."""
    # Op by op: how a step is run does not matter here, and compiling takes seconds.
    optimizer = keras_rmsprop.RMSprop(**({"learning_rate": RATE, "jit_compile": False} | options))
    optimizer.build(variables)
    return optimizer


def step(optimizer: Any, variables: Sequence[keras.Variable], calls: Sequence[int]) -> None:
    """Apply the gradients of these calls, which depend only on a variable's name and the call."""
    for call in calls:
        gradients = [_rng(f"{v.name} {call}").normal(size=v.shape) for v in variables]
        optimizer.apply([keras.ops.cast(g, keras.config.floatx()) for g in gradients], variables)


def trained(
    variables: Sequence[keras.Variable], calls: int = CALLS, **options: Any
) -> keras_rmsprop.RMSprop:
    """Return an optimizer of these variables that has been called a few times."""
    optimizer = built(variables, **options)
    step(optimizer, variables, range(calls))
    return optimizer


def saved(optimizer: Any) -> Store:
    """Return what the optimizer puts into a Keras file."""
    store: Store = {}
    optimizer.save_own_variables(store)
    return {key: np.array(value) for key, value in store.items()}


def load(store: Store, optimizer: keras_rmsprop.RMSprop) -> list[str]:
    """Load a store and return the messages of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.load_own_variables(store)
    return [str(each.message) for each in caught if each.category is UserWarning]


def assert_same_state(got: keras_rmsprop.RMSprop, want: dict[str, Array]) -> None:
    """Fail unless the optimizer holds these arrays to the last bit."""
    state = got.state_dict()
    assert state.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


EVERYTHING = {
    "momentum": 0.5,
    "centered": True,
    "use_ema": True,
    "gradient_accumulation_steps": 3,
    "skip_nonfinite": True,
}
