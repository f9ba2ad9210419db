"""Test that with `jit_compile=True` a step on JAX is compiled, or refused with the reason."""

import warnings
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.twins import Training

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

import jax
import jax.numpy as jnp

from tests.tools.steps_jax import SLOTS, HalvedSteps


class ATypeOfOnesOwn(keras.constraints.Constraint):
    """A user's constraint."""

    def __call__(self, w: Any) -> Any:
        """Halve the weight."""
        return w * 0.5


@pytest.mark.parametrize(
    ("make", "constraint", "words"),
    [
        (HalvedSteps, None, "HalvedSteps has an `update_step` of its own"),
        (keras_rmsprop.RMSprop, ATypeOfOnesOwn(), "the constraint ATypeOfOnesOwn"),
    ],
)
def test_steps_that_cannot_be_compiled_are_refused_with_the_reason(make, constraint, words):
    training = Training({"jit_compile": True}, make=make)
    training.variables[1].constraint = constraint
    training.optimizer.build(training.variables)
    before = training.state()
    with pytest.raises(ValueError, match=words):
        training.step(0)
    models.assert_identical(training.state(), before)
    # Inside a user's own jit the step is compiled already.
    optimizer = training.optimizer
    state, weights = ([v.value for v in x] for x in (optimizer.variables, training.variables))
    jax.jit(optimizer.stateless_apply)(state, weights, weights)
    optimizer.jit_compile = "auto"
    training.step(0)


@pytest.mark.parametrize("missing", [False, True], ids="missing={}".format)
def test_an_eager_stateless_apply_is_compiled(compiled_calls, missing):
    training, other = Training(SLOTS), Training({**SLOTS, "jit_compile": True})
    for each in (training, other):
        for t in range(3):
            each.step(t)
    compiled_calls.clear()
    results = []
    for each in (training, other):
        optimizer = each.optimizer
        state, weights = ([v.value for v in x] for x in (optimizer.variables, each.variables))
        before = models.values([*state, *weights])
        gradients = [None if missing else jnp.ones(()), jnp.ones((2, 3))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            after = optimizer.stateless_apply(state, gradients, weights)
        models.assert_identical([*state, *weights], before)
        results.append([*after[0], *after[1]])
    assert compiled_calls == ["any set" if missing else "full set"]
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)


def test_the_error_names_settings_of_jax_and_keras_that_forbid_compiling():
    training = Training({"jit_compile": True})
    with jax.disable_jit(), pytest.raises(ValueError, match="jax_disable_jit"):
        training.step(0)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        with pytest.raises(ValueError, match="a distribution of Keras is set"):
            training.step(0)
    finally:
        keras.distribution.set_distribution(None)
    training.step(0)


def test_a_step_is_compiled_in_the_scope_of_an_eager_fit():
    x, y = np.ones((32, 4), "float32"), np.ones((32, 1), "float32")

    def trained(mode: Any) -> list[np.ndarray]:
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "tanh", True, "ones")])
        optimizer = keras_rmsprop.RMSprop(0.01, momentum=0.5, jit_compile=mode)
        network.compile(optimizer, "mse", run_eagerly=True)
        network.fit(x, y, batch_size=8, epochs=2, verbose=0)
        return models.values([*network.trainable_variables, *optimizer.variables])

    for mine, theirs in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)
