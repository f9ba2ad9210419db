"""Test the stochastic rounding of slots to bfloat16."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import reference
from keras_rmsprop._math import _rounding
from tests.conftest import BACKEND

# What one rounding may add at most, relative: a unit in the last place of bfloat16.
UNIT = 2.0**-7
LARGEST = float(np.uint32(_rounding.LARGEST).view(np.float32))


def rounded(values: Any, step: int = 1, weight: int = 0, kind: int = 0) -> np.ndarray:
    """The values of a slot after a step, as float64."""
    tensor = ops.convert_to_tensor(np.asarray(values, np.float32))
    done = ops.convert_to_tensor(np.asarray(step - 1))
    key = _rounding.key_of(_rounding.key_of_step(done), weight)
    result = _rounding.rounded(tensor, _rounding.mixed(key + kind))
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    return np.asarray(ops.convert_to_numpy(ops.cast(result, "float32")), np.float64)


def neighbours(value: float) -> tuple[float, float]:
    """The bfloat16 numbers around a positive float32 number, or twice the number itself."""
    bits = np.asarray(value, np.float32).view(np.uint32)
    low = bits & np.uint32(0xFFFF0000)
    high = low + np.uint32(0x10000) if low != bits else low
    return float(low.view(np.float32)), float(high.view(np.float32))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5, 2), (40_000,)], ids=str)
@pytest.mark.parametrize(("step", "weight", "kind"), [(1, 0, 0), (70_000, 31, 1), (5, 2, 2)])
def test_the_reference_takes_the_same_random_decisions(
    shape: tuple[int, ...], step: int, weight: int, kind: int, rng: np.random.Generator
) -> None:
    values = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-30, 30, shape)).astype(np.float32)
    want = reference.to_bfloat16(values, step=step, weight=weight, kind=kind)
    np.testing.assert_array_equal(rounded(values, step, weight, kind), want)


@pytest.mark.parametrize("value", [1.0025, 1.5014, -0.3, 3.3e-12, -7.7e20, 1.2e-38])
def test_the_mean_of_100_000_roundings_is_within_3e_5_of_the_value(value: float) -> None:
    # The standard deviation of that mean is at most 1.3e-5.
    value = float(np.float32(value))
    assert abs(rounded(np.full(100_000, value)).mean() / value - 1.0) < 3e-5
    over_steps = [rounded(np.full(100, value), step=t).mean() for t in range(1, 1001)]
    assert abs(np.mean(over_steps) / value - 1.0) < 3e-5


@pytest.mark.parametrize("fraction", [2**-16, 2**-8, 0.1, 0.5, 0.9, 1 - 2**-16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_probability_of_rounding_away_from_zero_is_what_would_be_cut_off(
    fraction: float, sign: float
) -> None:
    n = 400_000
    results = rounded(np.full(n, sign * (1.0 + fraction * UNIT)))
    assert set(results) <= {sign, sign * (1.0 + UNIT)}
    share = np.mean(results != sign)
    exact = np.floor(fraction * 2**16) / 2**16
    assert abs(share - exact) <= 4.5 * np.sqrt(exact * (1 - exact) / n)


def test_every_result_is_a_neighbour_of_the_value(rng: np.random.Generator) -> None:
    values = np.exp(rng.uniform(-80, 80, 300)).astype(np.float32)
    for value, result in zip(values, rounded(values), strict=True):
        assert result in neighbours(value)


def test_what_bfloat16_can_represent_is_not_changed() -> None:
    bits = np.arange(0, 2**32, 2**16, dtype=np.uint64).astype(np.uint32)
    values = bits.view(np.float32)
    # Processors may flush numbers below the normal range to zero.
    values = values[~np.isnan(values) & ((values == 0) | (np.abs(values) >= 1.2e-38))]
    results = rounded(values)
    np.testing.assert_array_equal(results, values)
    np.testing.assert_array_equal(np.signbit(results), np.signbit(values))


def test_infinity_and_nan_stay_and_finite_numbers_stay_finite() -> None:
    largest = float(np.finfo(np.float32).max)
    values = np.array([np.inf, -np.inf, np.nan, largest, -largest, LARGEST, -LARGEST])
    want = [np.inf, -np.inf, np.nan, LARGEST, -LARGEST, LARGEST, -LARGEST]
    for step in range(1, 50):
        np.testing.assert_array_equal(rounded(values, step), want)


def test_just_below_the_largest_number_it_rounds_up_and_down() -> None:
    below = float(np.uint32(_rounding.LARGEST - 0x8000).view(np.float32))
    results = set(rounded(np.full(1000, below)))
    assert results == set(neighbours(below))
    assert max(results) == LARGEST


def test_numbers_below_the_normal_range_round_to_a_neighbour_or_zero() -> None:
    tiny = np.full(2000, 3.4e-39, np.float32)
    results = rounded(tiny)
    assert np.all(results >= 0.0)
    assert np.all(results <= neighbours(tiny[0])[1])


def test_step_variable_kind_and_element_give_independent_random_numbers() -> None:
    half = np.full(20_000, 1.0 + UNIT / 2)
    ways = [(1, 0, 0), (2, 0, 0), (3, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 2), (2, 1, 1)]
    ups = np.array([rounded(half, *way) > 1.0 for way in ways], float)
    ups = np.concatenate([ups, np.roll(ups[:1], 1, axis=1), np.roll(ups[:1], 100, axis=1)])
    correlations = np.corrcoef(ups) - np.eye(len(ups))
    assert np.abs(correlations).max() < 4.5 / np.sqrt(half.size)


def test_an_index_goes_through_all_axes() -> None:
    values = np.full(2 * 3 * 5 * 7, 1.0 + UNIT / 3)
    np.testing.assert_array_equal(
        rounded(values.reshape(2, 3, 5, 7)), rounded(values).reshape(2, 3, 5, 7)
    )


@pytest.mark.skipif(BACKEND != "jax", reason="steps on the other backends are not differentiated")
def test_the_derivative_is_that_of_the_mean() -> None:
    import jax

    key = _rounding.key_of_step(0)
    values = jax.numpy.asarray([0.3, -2.0, 5.5], "float32")

    def total(x: Any) -> Any:
        return jax.numpy.sum(_rounding.rounded(x, key).astype("float32") ** 2)

    rounded_values = _rounding.rounded(values, key).astype("float32")
    np.testing.assert_allclose(jax.grad(total)(values), 2 * rounded_values, rtol=1e-2)
    np.testing.assert_array_equal(jax.jit(jax.grad(total))(values), jax.grad(total)(values))
