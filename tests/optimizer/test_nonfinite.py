"""Test that batches whose gradients are not finite do not spoil a training."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop.reference import Reference
from tests.optimizer.scenarios.subclasses import counting
from tests.tools.traced import traced_step

START = [np.array([1.0, -2.0, 3.0]), np.array([[0.5, 0.25]])]
BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "square_overflows": 1e200}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "centered_momentum": {"centered": True, "momentum": 0.5},
    "clipped_averaged": {"global_clipnorm": 0.5, "use_ema": True, "ema_overwrite_frequency": 3},
    "accumulating": {"gradient_accumulation_steps": 2, "loss_scale_factor": 4.0},
}


def values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [np.asarray(ops.convert_to_numpy(ops.stop_gradient(v))) for v in variables]


def batches(rng: np.random.Generator) -> list[list[np.ndarray]]:
    return [[rng.normal(size=w.shape) for w in START] for _ in range(12)]


def train(optimizer: Any, gradients: list[list[np.ndarray]]) -> list[np.ndarray]:
    variables = [keras.Variable(w, dtype="float64") for w in START]
    for batch in gradients:
        optimizer.apply([ops.convert_to_tensor(g, "float64") for g in batch], variables)
    return values(variables)


def spoiled(gradients: list[list[np.ndarray]], value: float) -> list[list[np.ndarray]]:
    """The batches with two bad ones inserted, one for each variable."""
    first, second = ([g.copy() for g in gradients[i]] for i in (0, 1))
    first[0][1] = second[1][0, 1] = value
    return [*gradients[:4], first, *gradients[4:9], second, *gradients[9:]]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("jit_compile", ["auto", False], ids="jit_compile={}".format)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_training_with_bad_batches_ends_with_the_weights_of_one_without_them(
    options: dict[str, Any], jit_compile: Any, rng: np.random.Generator
) -> None:
    good = batches(rng)
    reference = Reference(START, **options)
    for batch in good:
        reference.apply(batch, 0.1)
    for value in BAD.values():
        optimizer = RMSprop(0.1, skip_nonfinite=True, jit_compile=jit_compile, **options)
        got = train(optimizer, spoiled(good, value))
        for weight, wanted, start in zip(got, reference.weights, START, strict=True):
            distance = np.max(np.abs(wanted - start))
            np.testing.assert_allclose(weight, wanted, rtol=0, atol=1e-13 * distance + 1e-14)
        assert optimizer.skipped_steps == 2
        assert int(optimizer._iterations) == len(good)


@pytest.mark.parametrize("jit_compile", ["auto", False], ids="jit_compile={}".format)
@pytest.mark.parametrize(
    ("options", "bad", "dtype"),
    [
        ({}, 1e30, "float64"),
        ({"clipnorm": 1.0}, 1.5e19, "float32"),
        ({"global_clipnorm": 1.0}, 1.5e19, "float32"),
        ({"centered": True, "rho": 0.5}, 1.5e19, "float32"),
    ],
    ids=["wider_than_its_average", "norm", "global_norm", "far_from_the_mean"],
)
def test_a_gradient_that_overflows_only_within_the_step_is_skipped(
    options: dict[str, Any], bad: float, dtype: str, jit_compile: Any
) -> None:
    weights = []
    for stream in ([1.0, 0.5, 1.0], [1.0, bad, 0.5, -bad, 1.0]):
        variable = keras.Variable([1.0, 2.0], dtype="float32")
        optimizer = RMSprop(0.125, skip_nonfinite=True, jit_compile=jit_compile, **options)
        for g in stream:
            optimizer.apply([ops.convert_to_tensor(np.full(2, g, dtype))], [variable])
        assert optimizer.skipped_steps == len(stream) - 3
        weights += values([variable])
    np.testing.assert_array_equal(*weights)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("cls", [keras.optimizers.RMSprop, RMSprop], ids=["keras", "ours"])
def test_without_the_option_one_nan_stays_in_the_weights(
    cls: Any, rng: np.random.Generator
) -> None:
    weights = train(cls(0.1), spoiled(batches(rng), np.nan))
    assert all(np.isnan(weight).any() for weight in weights)


@pytest.mark.usefixtures("float64")
def test_in_keras_one_overflowing_square_freezes_its_weight(rng: np.random.Generator) -> None:
    gradients = batches(rng)
    gradients[0][0][1] = 1e200
    weights = train(keras.optimizers.RMSprop(0.1), gradients)
    assert weights[0][1] == START[0][1]
    kept = train(RMSprop(0.1, skip_nonfinite=True), gradients)
    assert kept[0][1] != START[0][1]


def test_fit_skips_a_bad_batch() -> None:
    x = np.ones((6, 2), np.float32)
    x[3] = np.nan
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = RMSprop(0.1, skip_nonfinite=True)
    model.compile(optimizer, "mse")
    model.fit(x, np.zeros((6, 1), np.float32), batch_size=1, shuffle=False, epochs=2, verbose=0)
    assert optimizer.skipped_steps == 2
    assert int(optimizer.iterations) == 10
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_a_fit_of_bad_batches_only_leaves_the_weights_unchanged() -> None:
    # `fit` ends by replacing the weights with their average, which needs a first step.
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    before = model.get_weights()
    optimizer = RMSprop(0.1, skip_nonfinite=True, use_ema=True)
    model.compile(optimizer, "mse")
    model.fit(np.full((4, 2), np.nan, np.float32), np.zeros((4, 1), np.float32), verbose=0)
    assert optimizer.skipped_steps == 1
    for weight, start in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, start)


@pytest.mark.parametrize("jit_compile", ["auto", False], ids="jit_compile={}".format)
@pytest.mark.parametrize("bad", ["weight", "scale"])
def test_a_scale_is_not_overwritten_by_a_bad_batch(bad: str, jit_compile: Any) -> None:
    weight, scale = keras.Variable([1.0, 2.0]), keras.Variable(1.0)
    # float8 layers mark their scales like this: the gradient is the next value.
    scale.overwrite_with_gradient = True
    optimizer = RMSprop(0.1, skip_nonfinite=True, jit_compile=jit_compile)
    good = [ops.ones((2,)), ops.convert_to_tensor(4.0)]
    spoilt = list(good)
    spoilt[bad == "scale"] = spoilt[bad == "scale"] * np.nan
    for gradients in (good, good, spoilt):
        scale_before, weight_before = values([scale, weight])
        optimizer.apply(gradients, [weight, scale])
    assert optimizer.skipped_steps == 1
    assert scale_before == 4.0
    np.testing.assert_array_equal(values([scale])[0], scale_before)
    np.testing.assert_array_equal(values([weight])[0], weight_before)


OWN = {"skipping": {"skip_nonfinite": True}, "accumulating": {"gradient_accumulation_steps": 2}}


@pytest.mark.parametrize("options", OWN.values(), ids=OWN)
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_a_call_without_effect_leaves_the_variables_of_a_subclass(
    options: dict[str, Any], traced: bool
) -> None:
    variable = keras.Variable([1.0, 2.0])
    optimizer = counting(RMSprop)(0.1, **options)
    optimizer.build([variable])
    call = traced_step(optimizer, variable) if traced else _eager(optimizer, variable)
    effects = [True, False, True] if "skip_nonfinite" in options else [False, True, False]
    for t, has_effect in enumerate(effects):
        before = [int(optimizer.updates), *values([variable])]
        skips = "skip_nonfinite" in options and not has_effect
        call(ops.convert_to_tensor([np.nan if skips else 1.0, 0.5]))
        assert int(optimizer.updates) == before[0] + has_effect, t
        assert np.any(values([variable])[0] != before[1]) == has_effect, t


def _eager(optimizer: Any, variable: Any) -> Any:
    return lambda gradient: optimizer.apply([gradient], [variable])
