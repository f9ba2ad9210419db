"""Test what is loaded from the files of Keras's own classes."""

from collections.abc import Sequence
from typing import Any

import keras
import pytest

import keras_rmsprop
from tests.tools import models
from tests.tools.states import (
    CALLS,
    RATE,
    assert_same_state,
    built,
    load,
    saved,
    step,
    trained,
    weights,
)

KERAS_OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.5},
    "centered": {"centered": True},
    "ema": {"use_ema": True, "ema_momentum": 0.5},
    "accumulation": {"gradient_accumulation_steps": 3},
    "scheduled": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(RATE, 3, 0.5)},
    "everything": {
        "momentum": 0.5,
        "centered": True,
        "use_ema": True,
        "gradient_accumulation_steps": 3,
    },
}


def keras_trained(variables: Sequence[keras.Variable], **options: Any) -> Any:
    """Return Keras's own optimizer, called a few times."""
    theirs = keras.optimizers.RMSprop(**({"learning_rate": RATE} | options))
    theirs.build(variables)
    step(theirs, variables, range(CALLS))
    return theirs


@pytest.mark.parametrize("options", KERAS_OPTIONS.values(), ids=KERAS_OPTIONS)
def test_a_training_begun_with_keras_goes_on_as_keras_would(options):
    variables, copies = weights("a", "b"), weights("a", "b")
    start = models.values(variables)
    theirs = keras_trained(variables, **options)
    ours = built(copies, **options)
    for variable, copy in zip(variables, copies, strict=True):
        copy.assign(variable)
    assert load(saved(theirs), ours) == []
    for one, its_own in (theirs, variables), (ours, copies):
        step(one, its_own, range(CALLS, CALLS + 5))
    models.assert_same(models.values(copies), models.values(variables), start, steps=CALLS + 5)
    assert int(ours.iterations) == int(theirs.iterations)


def test_keras_state_of_fewer_layers_or_options_is_loaded_in_part():
    theirs = keras_trained(weights("a"), momentum=0.5)
    ours = built(weights("a", "b"), momentum=0.5)
    (warning,) = load(saved(theirs), ours)
    assert ours.load_report.initialized == ("b/square_average", "b/momentum")
    assert "b/momentum" in warning

    ours = built(weights("a"), momentum=0.5)
    (warning,) = load(saved(keras_trained(weights("a"))), ours)
    assert ours.load_report.initialized == ("a/momentum",)


def _adam(variables: Sequence[keras.Variable]) -> Any:
    return _stepped(keras.optimizers.Adam(RATE), variables)


def _sgd(variables: Sequence[keras.Variable]) -> Any:
    return _stepped(keras.optimizers.SGD(RATE, momentum=0.5), variables)


def _rmsprop(variables: Sequence[keras.Variable]) -> Any:
    return keras_trained(variables, momentum=0.5)


def _stepped(optimizer: Any, variables: Sequence[keras.Variable]) -> Any:
    optimizer.build(variables)
    step(optimizer, variables, range(CALLS))
    return optimizer


# The optimizer that saved the arrays, and the momentum of the one that loads them.
OTHERS = {
    "momentum that may be a mean": (_rmsprop, 0.0),
    "moments of Adam": (_adam, 0.0),
    "moments of Adam, as many": (_adam, 0.5),
    "momentum of SGD, as many": (_sgd, 0.0),
    "momentum of SGD": (_sgd, 0.5),
    "LossScaleOptimizer": (lambda variables: _scaling(keras.optimizers, variables), 0.0),
    "LossScaleOptimizer of this one": (lambda variables: _scaling(keras_rmsprop, variables), 0.0),
    "sums of Adagrad that has not moved": (
        lambda variables: _build(keras.optimizers.Adagrad(RATE), variables),
        0.0,
    ),
}


def _build(optimizer: Any, variables: Sequence[keras.Variable]) -> Any:
    optimizer.build(variables)
    return optimizer


def _scaling(package: Any, variables: Sequence[keras.Variable]) -> Any:
    scaling = keras.optimizers.LossScaleOptimizer(package.RMSprop(RATE))
    scaling.build(variables)
    step(scaling.inner_optimizer, variables, range(CALLS))
    return scaling


@pytest.mark.parametrize(("other", "momentum"), OTHERS.values(), ids=OTHERS)
def test_arrays_of_another_optimizer_are_dropped_with_one_warning(other, momentum):
    variables = weights("a", "b")
    theirs = other(variables)
    ours = trained(variables, calls=2, momentum=momentum)
    before = ours.state_dict()
    (warning,) = load(saved(theirs), ours)
    assert "state of another optimizer" in warning
    assert_same_state(ours, before)
    assert ours.load_report == ((), (), tuple(sorted(saved(theirs))))
