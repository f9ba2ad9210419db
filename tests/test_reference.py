"""Test the reference itself against the textbook's equations and published digits."""

import math

import numpy as np
import pytest

from keras_rmsprop.reference import Reference, effective_learning_rate
from yardsticks.variants import Variant, rule_variants

STEPS = 40


def textbook(
    start: np.ndarray,
    gradients: np.ndarray,
    rates: np.ndarray,
    *,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    nesterov: bool = False,
    epsilon_inside_sqrt: bool = True,
    lr_in_momentum: bool = True,
    bias_correction: bool = False,
    initial_square_average: float = 0.0,
    l2: float = 0.0,
    maximize: bool = False,
) -> np.ndarray:
    """RMSprop as the papers print it, E[g²] - E[g]² and Adam's correction, in long double."""
    x = start.astype(np.longdouble)
    v = np.full_like(x, initial_square_average)
    m = b = np.zeros_like(x)
    beta = np.longdouble(rho)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = (-g if maximize else g) + l2 * x
        v = beta * v + (1 - beta) * g**2
        m = beta * m + (1 - beta) * g
        correction = 1 - beta**t if bias_correction else 1
        n = v / correction - (m / correction) ** 2 if centered else v / correction
        if centered and bias_correction and t == 1:
            n = np.zeros_like(n)  # g² - g² leaves a rounding error even in long double.
        u = g / (np.sqrt(n + epsilon) if epsilon_inside_sqrt else np.sqrt(n) + epsilon)
        b = momentum * b + (lr * u if lr_in_momentum else u)
        step = momentum * b + (lr * u if lr_in_momentum else u) if nesterov else b
        x = x - (step if lr_in_momentum else lr * step)
    return x


@pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 2e-19, reason="long double is no wider than float64 here"
)
@pytest.mark.parametrize("variant", rule_variants(), ids=lambda variant: variant.id)
def test_equals_the_textbook_in_long_double(variant: Variant) -> None:
    # The sum of squares about the mean equals E[g²] - E[g]², and k_t is Adam's correction.
    rng = np.random.default_rng(0)
    start = rng.normal(size=7)
    gradients = rng.normal(0.5, 1.0, (STEPS, 7))
    rates = rng.uniform(0.001, 0.02, STEPS)
    reference = Reference([start], **variant.arguments)
    for gradient, rate in zip(gradients, rates, strict=True):
        reference.apply([gradient], rate)
    exact = textbook(start, gradients.astype(np.longdouble), rates, **variant.arguments)
    travelled = np.max(np.abs(exact - start))
    assert np.max(np.abs(reference.weights[0] - exact)) <= 1e-13 * travelled


# x / log x, whose minimum is e, from 364 with learning rate 0.3; after 0, 100, ..., 1400 steps.
X_OVER_LOG_X = {
    "keras": (
        {},
        "363.0513 330.9281 300.8935 270.8544 240.8105 210.7600 180.7007 150.6295 120.5406 90.4234 "
        "60.2539 29.9579 2.7183 2.7183 2.7183",
    ),
    "torch": (
        {"rho": 0.99, "epsilon": 1e-8, "epsilon_inside_sqrt": False},
        "361.0000 302.5840 268.0156 236.2579 205.2928 174.5349 143.7643 112.8619 81.7036 50.0471 "
        "17.0591 2.7183 2.7183 2.7183 2.7183",
    ),
}


def minimise_x_over_log_x(arguments: dict, dtype: type) -> np.ndarray:
    """Every hundredth x of a run that keeps x and its gradient in `dtype`."""
    reference = Reference([364.0], **arguments)
    (parameter,) = reference.parameters
    path = []
    for _ in range(1401):
        x = dtype(parameter.weight)
        reference.apply([(np.log(x) - 1) / np.log(x) ** 2], 0.3)
        parameter.weight = np.float64(dtype(parameter.weight))
        path.append(float(parameter.weight))
    return np.array(path[::100])


@pytest.mark.parametrize("convention", X_OVER_LOG_X)
def test_reproduces_the_published_digits_of_x_over_log_x(convention: str) -> None:
    arguments, text = X_OVER_LOG_X[convention]
    published = np.array(text.split(), float)
    arrival = int(np.argmin(published)) + 1
    path = minimise_x_over_log_x(arguments, np.float64)
    # The published run was in float32. Its x has an ulp of 3e-5, so the last digits differ.
    np.testing.assert_allclose(path[:arrival], published[:arrival], atol=2e-4, rtol=0)


@pytest.mark.parametrize("convention", X_OVER_LOG_X)
def test_settles_at_e_if_the_gradient_can_be_zero(convention: str) -> None:
    # In float32 the gradient at e is zero. In float64 it is not quite zero, so the average fades
    # until rounding errors make whole steps.
    arguments, _ = X_OVER_LOG_X[convention]
    path = minimise_x_over_log_x(arguments, np.float32)
    np.testing.assert_allclose(path[-3:], math.e, rtol=1e-6)


def test_fits_the_published_line_through_six_points() -> None:
    # The run ends in a cycle of two points; the order of the gradient's operations decides which.
    x = np.array([5.0, 15.0, 25.0, 35.0, 45.0, 55.0])
    y = np.array([5.0, 20.0, 14.0, 32.0, 22.0, 38.0])
    reference = Reference([[3.0, 5.0]], rho=0.9, epsilon=1e-8, epsilon_inside_sqrt=False)
    for _ in range(5000):
        w, b = reference.weights[0]
        error = (w * x + b) - y
        reference.apply([np.array([np.mean(error * x), np.mean(error)])], 0.001)
    w, b = reference.weights[0]
    assert (f"{w:.8f}", f"{b:.8f}") == ("0.54935276", "5.24240429")
    rmse = float(np.sqrt(np.mean(((w * x + b) - y) ** 2)))
    assert rmse == 5.813195776655382


def test_does_not_overwrite_its_arguments() -> None:
    start, gradient = np.ones(3), np.full(3, 2.0)
    reference = Reference([start], clipvalue=1.0, gradient_accumulation_steps=2, l2=0.1)
    for _ in range(4):
        reference.apply([gradient], 0.1)
    np.testing.assert_array_equal(start, np.ones(3))
    np.testing.assert_array_equal(gradient, np.full(3, 2.0))


def test_computes_in_float64_whatever_the_dtype_of_its_arguments() -> None:
    reference = Reference([np.ones(2, np.float16)])
    reference.apply([np.ones(2, np.float16)], np.float32(0.5))
    assert all(array.dtype == np.float64 for array in vars(reference.parameters[0]).values())


def test_a_nan_gradient_stays_in_its_own_element() -> None:
    reference = Reference([np.ones(2)])
    reference.apply([np.array([np.nan, 1.0])], 0.1)
    assert np.isnan(reference.weights[0]).tolist() == [True, False]


def test_accumulated_gradients_make_one_step_with_their_mean() -> None:
    whole, parts = Reference([1.0]), Reference([1.0], gradient_accumulation_steps=3)
    whole.apply([2.0], 0.1)
    for gradient in (1.0, 2.0, 3.0):
        assert parts.iterations == 0
        parts.apply([gradient], 0.1)
    assert parts.iterations == 1
    np.testing.assert_array_equal(parts.weights, whole.weights)


def test_the_first_moving_average_is_a_copy_of_the_weights() -> None:
    reference = Reference([1.0], use_ema=True, ema_momentum=0.9)
    reference.apply([1.0], 0.1)
    first = reference.weights[0]
    np.testing.assert_array_equal(reference.parameters[0].average, first)
    reference.apply([1.0], 0.1)
    np.testing.assert_allclose(
        reference.parameters[0].average, 0.9 * first + 0.1 * reference.weights[0], rtol=1e-15
    )


@pytest.mark.parametrize(
    ("inside", "expected"), [(True, 0.1 / 3.0), (False, 0.1 / 7.0)], ids=["inside", "outside"]
)
def test_the_effective_rate_is_the_rate_over_the_root(inside: bool, expected: float) -> None:
    rate = effective_learning_rate(
        [4.0], learning_rate=0.1, epsilon=5.0, epsilon_inside_sqrt=inside
    )
    np.testing.assert_allclose(rate, [expected], rtol=1e-15)
