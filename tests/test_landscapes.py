"""Test the functions to minimise."""

import numpy as np
import pytest

from keras_rmsprop._landscapes import LANDSCAPES, values_of


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_gradients_are_those_of_the_values(name: str, rng: np.random.Generator) -> None:
    landscape = LANDSCAPES[name]
    at = np.array(landscape.start) + rng.uniform(0.1, 0.2, len(landscape.start))
    numeric = []
    for axis in np.eye(len(at)):
        ahead, behind = (landscape.value(at + side * 1e-5 * axis) for side in (1.0, -1.0))
        numeric.append((ahead - behind) / 2e-5)
    gradients = [landscape.gradient(at, step) for step in range(4000 if "noisy" in name else 1)]
    # The noise has a mean of zero, and a deviation of 1 and 100.
    tolerance = 0.1 * np.array([1.0, 100.0]) if "noisy" in name else 1e-6 * np.abs(numeric)
    assert np.all(np.abs(np.mean(gradients, axis=0) - numeric) <= tolerance)


def test_noise_is_the_same_in_every_run_and_differs_from_step_to_step() -> None:
    gradient = LANDSCAPES["noisy_quadratic"].gradient
    at = np.zeros(2)
    np.testing.assert_array_equal(gradient(at, 3), gradient(at, 3))
    assert np.all(gradient(at, 3) != gradient(at, 4))


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_minima_are_the_lowest_points_of_the_window(name: str) -> None:
    landscape = LANDSCAPES[name]
    axes = [np.linspace(*limits, 201) for limits in landscape.window]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, len(axes))
    minima = np.array(landscape.minima)
    lowest = values_of(landscape, minima)
    np.testing.assert_allclose(lowest, lowest[0], atol=1e-20)
    assert np.all(values_of(landscape, grid) >= lowest[0])
    if "noisy" not in name:
        for at in minima:
            np.testing.assert_allclose(landscape.gradient(at, 0), 0.0, atol=1e-12)
    for at in [*landscape.minima, landscape.start]:
        for x, (low, high) in zip(at, landscape.window, strict=True):
            assert low < x < high


def test_outside_the_domain_the_value_is_not_a_number() -> None:
    values = values_of(LANDSCAPES["xlogx"], np.array([[np.e], [-1.0]]))
    np.testing.assert_allclose(values, [np.e, np.nan])
