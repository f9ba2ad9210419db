"""Test what a copy of an optimizer keeps."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import keras
import pytest

from keras_rmsprop import RMSprop
from tests.tools.two_weights import ones_like, two_weights

# Keras copies through its own saving.
copies = pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))],
    ids=["deepcopy", "pickle"],
)


@copies
def test_an_unbuilt_copy_has_the_same_settings(copied: Callable[[Any], Any]) -> None:
    optimizer = RMSprop(0.25, rho=0.5, momentum=0.5, nesterov=True)
    assert copied(optimizer).get_config() == optimizer.get_config()


@copies
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_built_copy_has_the_same_settings(copied: Callable[[Any], Any]) -> None:
    optimizer, variables = RMSprop(0.25, momentum=0.5), two_weights()
    optimizer.apply(ones_like(variables), variables)
    assert copied(optimizer).get_config() == optimizer.get_config()


@copies
def test_the_copy_of_a_built_keras_optimizer_loses_the_state(copied: Callable[[Any], Any]) -> None:
    optimizer, variables = keras.optimizers.RMSprop(0.25, momentum=0.5), two_weights()
    optimizer.apply(ones_like(variables), variables)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        duplicate = copied(optimizer)
    assert int(duplicate.iterations) == 0


@copies
def test_a_copy_trains_on_its_own(copied: Callable[[Any], Any]) -> None:
    optimizer, variables = RMSprop(0.25), two_weights()
    duplicate = copied(optimizer)
    for _ in range(2):
        duplicate.apply(ones_like(variables), variables)
    assert int(duplicate.iterations) == 2
    assert not optimizer.built
