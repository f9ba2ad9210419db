"""Test that `model.fit` trains with this optimizer as with Keras's own."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models

PEERS: list[type[keras.optimizers.Optimizer]] = [
    keras_rmsprop.RMSprop,
    keras.optimizers.RMSprop,
]
RATE = 2.0**-6
STEPS = 8

MODES: dict[str, dict[str, Any]] = {
    "plain": {"jit_compile": False},
    "eager": {"run_eagerly": True},
}
if BACKEND != "torch":  # which has a test of its own below
    MODES["compiled"] = {"jit_compile": True}

# For tests that do not depend on how `fit` runs.
QUICKEST = "compiled" if BACKEND == "jax" else "plain"

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        # Not a formula of Keras's: those round to float32, traced and eagerly in different ways.
        "learning_rate": keras.optimizers.schedules.PiecewiseConstantDecay([3], [RATE, RATE / 2]),
        "centered": True,
        "momentum": 0.5,
        "clipvalue": 0.125,
        "weight_decay": 0.125,
        "use_ema": True,
        "ema_momentum": 0.75,
        "gradient_accumulation_steps": 2,
    },
    "clipnorm": {"clipnorm": 0.5},
    "global clipnorm": {"global_clipnorm": 0.5},
    "averages that overwrite": {"use_ema": True, "ema_overwrite_frequency": 3},
}
# Keras on torch takes the norm of a float64 gradient in float32.
PRECISION = {"clipnorm": "float32", "global clipnorm": "float32"} if BACKEND == "torch" else {}


def start() -> list[models.Array]:
    """Return the weights that every training starts from."""
    return models.model().get_weights()


@functools.cache
def weights_that_keras_gives(name: str) -> list[models.Array]:
    """Fit with Keras's own class; cached, so only for tests of one precision."""
    optimizer = keras.optimizers.RMSprop(**{"learning_rate": RATE, **OPTIONS[name]})
    return models.fit(models.model(), optimizer, **MODES[QUICKEST])


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, mode) for name in ["defaults", "everything"] for mode in MODES]
    + [(name, QUICKEST) for name in list(OPTIONS)[2:]],
)
def test_fit_gives_the_weights_that_keras_gives(float64, name, mode):
    optimizer = keras_rmsprop.RMSprop(**{"learning_rate": RATE, **OPTIONS[name]})
    got = models.fit(models.model(), optimizer, **MODES[mode])
    want = weights_that_keras_gives(name)
    models.assert_same(got, want, start(), steps=STEPS, precision=PRECISION.get(name))


@pytest.mark.skipif(BACKEND != "torch", reason="the other backends compile by XLA")
def test_fit_compiled_by_torch_gives_the_weights_that_keras_gives(monkeypatch):
    import torch

    # An optimizer can break torch's tracing. The C++ compiler behind it would take a minute.
    # In float32, because torch cannot trace Keras's own float64 loss.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    ours, theirs = (peer(RATE) for peer in PEERS)
    got = models.fit(models.model(), ours, epochs=1, jit_compile=True)
    want = models.fit(models.model(), theirs, epochs=1, jit_compile=False)
    models.assert_same(got, want, start(), steps=models.BATCHES)


def test_a_callable_rate_is_called_again_at_every_eager_step(float64):

    def rate() -> Callable[[], float]:
        rates = iter(RATE * 0.5**step for step in range(STEPS))
        return lambda: next(rates)

    got, want = (models.fit(models.model(), peer(rate()), run_eagerly=True) for peer in PEERS)
    models.assert_same(got, want, start(), steps=STEPS)


@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2**epoch),
        # No loss falls by 10, so the rate is cut after every epoch but the first.
        lambda: keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0),
    ],
    ids=["LearningRateScheduler", "ReduceLROnPlateau"],
)
def test_a_callback_changes_the_rate_of_the_following_steps(float64, callback):
    optimizers = [peer(RATE) for peer in PEERS]
    got, want = (
        models.fit(models.model(), optimizer, epochs=3, callbacks=[callback()], **MODES[QUICKEST])
        for optimizer in optimizers
    )
    ends = [float(optimizer.learning_rate) for optimizer in optimizers]
    assert ends[0] == ends[1] < RATE
    models.assert_same(got, want, start(), steps=12)


def test_a_frozen_layer_stays_and_has_no_slots(float64):
    weights = []
    for peer in PEERS:
        network = models.model()
        network.get_layer("hidden").trainable = False
        weights.append(models.fit(network, peer(RATE), **MODES[QUICKEST]))
        # iteration, learning rate, and one slot for each of the last layer's two variables
        assert len(network.optimizer.variables) == 4
    got, want = weights
    models.assert_identical(got[:2], start()[:2])
    models.assert_same(got[2:], want[2:], start()[2:], steps=STEPS)


def test_a_constraint_holds_after_every_fit(float64):
    last = {"kernel_constraint": keras.constraints.UnitNorm(axis=0)}
    got, want = (models.fit(models.model(**last), peer(RATE)) for peer in PEERS)
    assert np.linalg.norm(got[2]) == pytest.approx(1.0, abs=1e-6)
    models.assert_same(got, want, start(), steps=STEPS)


@pytest.mark.skipif(BACKEND != "jax", reason="only Keras's JAX trainer donates its buffers")
def test_keras_cannot_fit_twice_with_averages_on_jax():
    network = models.model()
    models.fit(network, keras.optimizers.RMSprop(use_ema=True), jit_compile=True)
    # The weight and its average share one buffer, which Keras's trainer then donates twice. It
    # fails and loses its variables.
    with pytest.raises((TypeError, ValueError)):
        models.go_on(network)


# JAX's compiled trainer is the one at risk, because it donates its buffers.
@pytest.mark.parametrize("mode", ["compiled", "eager"] if BACKEND == "jax" else ["plain"])
def test_a_second_fit_goes_on_from_the_averages(float64, mode):
    options = {"learning_rate": RATE, "use_ema": True, "ema_momentum": 0.75}
    weights = []
    # On JAX Keras's own class can do this only eagerly.
    theirs = MODES["eager" if BACKEND == "jax" else mode]
    for peer, how in zip(PEERS, [MODES[mode], theirs], strict=True):
        network = models.model()
        models.fit(network, peer(**options), **how)
        weights.append(models.go_on(network, epochs=1))
    got, want = weights
    models.assert_same(got, want, start(), steps=12)


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def test_compile_scales_the_loss_of_a_mixed_precision_model(mixed_float16):
    networks = [models.model() for _ in PEERS]
    got, want = (
        models.fit(network, peer(RATE), epochs=1, **MODES[QUICKEST])
        for network, peer in zip(networks, PEERS, strict=True)
    )
    ours, keras_own = (network.optimizer for network in networks)
    assert isinstance(ours, keras.optimizers.LossScaleOptimizer)
    assert isinstance(ours.inner_optimizer, keras_rmsprop.RMSprop)
    assert int(ours.iterations) == int(keras_own.iterations) > 0
    # An ulp of a float32 weight may tip the rounding of an activation to float16.
    for mine, theirs, before in zip(got, want, start(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-3 * np.abs(theirs - before).max())


@pytest.mark.parametrize("mode", {"tensorflow": ["plain", "compiled"]}.get(BACKEND, [QUICKEST]))
def test_a_step_that_overflows_float16_is_skipped(mixed_float16, mode):
    inner = keras_rmsprop.RMSprop(RATE, momentum=0.5)
    scaling = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**20)
    got = models.fit(models.model(), scaling, **MODES[mode])
    assert 0 < int(inner.iterations) < STEPS
    assert float(scaling.dynamic_scale) == 2.0 ** (20 - STEPS + int(inner.iterations))
    for weight, before in zip(got, start(), strict=True):
        assert np.isfinite(weight).all()
        assert not np.array_equal(weight, before)
