"""Test the schedules of the recipes: their values, however they are evaluated, and their config."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from keras.optimizers import schedules

from keras_rmsprop import RMSprop, recipes
from tests.conftest import BACKEND

# Steps at which something changes, and their neighbours.
STEPS = np.arange(60)


def staircase(**changed: Any) -> recipes.StaircaseDecay:
    arguments = {"initial_learning_rate": 0.3, "decay_rate": 0.97, "decay_steps": 4.8, "delay": 0}
    return recipes.StaircaseDecay(**{**arguments, **changed})


def decays(step: int, period: str = "4.8", delay: int = 0) -> int:
    """The number of decays, in exact arithmetic."""
    return max(0, math.floor((int(step) - delay) / Fraction(period)))


def decayed(step: int) -> float:
    return 0.3 * 0.97 ** decays(step)


# Each schedule, and its rate after n steps, in Python's own arithmetic.
SCHEDULES: dict[str, tuple[Callable[[], Any], Callable[[int], float]]] = {
    "staircase": (staircase, decayed),
    "delayed staircase": (
        lambda: staircase(delay=7, decay_steps=3),
        lambda n: 0.3 * 0.97 ** decays(n, "3", 7),
    ),
    "linear": (lambda: recipes.LinearDecay(0.3, 41), lambda n: 0.3 * max(0, 41 - n) / 41),
    "warm-up to a peak": (
        lambda: recipes.WarmUp(staircase(), 10, peak=0.3),
        lambda n: 0.3 * n / 10 if n < 10 else decayed(n),
    ),
    "warm-up to the rate at its end": (
        lambda: recipes.WarmUp(staircase(), 10),
        lambda n: 0.3 * 0.97**2 * n / 10 if n < 10 else decayed(n),
    ),
    "warm-up from a rate": (
        lambda: recipes.WarmUp(staircase(), 10, peak=0.3, start=0.1),
        lambda n: 0.1 + 0.2 * n / 10 if n < 10 else decayed(n),
    ),
    "cold start": (
        lambda: recipes.ColdStart(staircase(), 6, 0.01),
        lambda n: 0.01 if n < 6 else decayed(n),
    ),
    "by epoch": (
        lambda: recipes.PerEpoch(staircase(decay_steps=2.4), 3),
        lambda n: 0.3 * 0.97 ** decays(n // 3, "2.4"),
    ),
    "with a floor": (
        lambda: recipes.AtLeast(staircase(), 0.24),
        lambda n: max(decayed(n), 0.24),
    ),
    "all together": (
        lambda: recipes.AtLeast(
            recipes.PerEpoch(
                recipes.ColdStart(recipes.WarmUp(staircase(decay_steps=2), 3, peak=0.3), 1, 0.05), 4
            ),
            0.2,
        ),
        lambda n: max(
            (0.05, 0.1, 0.2)[n // 4] if n < 12 else 0.3 * 0.97 ** decays(n // 4, "2"), 0.2
        ),
    ),
    "around one of Keras": (
        lambda: recipes.WarmUp(schedules.PolynomialDecay(0.25, 32, 0.0), 8),
        lambda n: 0.25 * 0.75 * n / 8 if n < 8 else 0.25 * (1 - min(n, 32) / 32),
    ),
}
each_schedule = pytest.mark.parametrize("name", SCHEDULES)


def number(rate: Any) -> Any:
    """A rate as a NumPy number."""
    return np.asarray(ops.convert_to_numpy(rate))


def traced(schedule: Any) -> list[Callable[[int], Any]]:
    """The schedule, compiled in each way that the backend has."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        graph = tf.function(schedule)
        compiled = tf.function(schedule, jit_compile=True)
        return [lambda n: graph(tf.cast(n, "int64")), lambda n: compiled(tf.cast(n, "int32"))]
    if BACKEND == "jax":
        import jax

        return [jax.jit(schedule)]
    import torch

    return [lambda n: schedule(torch.as_tensor(n))]


@each_schedule
def test_the_rates_are_those_of_the_formula(float64: None, name: str) -> None:
    make, formula = SCHEDULES[name]
    schedule = make()
    got = [number(schedule(int(n))) for n in STEPS]
    # Of the schedules of Keras, torch's arithmetic is float32.
    tolerance = 1e-6 if name == "around one of Keras" else 1e-15
    np.testing.assert_allclose(got, [formula(int(n)) for n in STEPS], rtol=tolerance, atol=0.0)


@each_schedule
def test_the_rates_have_the_precision_of_floatx(name: str) -> None:
    make, formula = SCHEDULES[name]
    got = number(make()(17))
    assert got.dtype == "float32"
    np.testing.assert_allclose(got, formula(17), rtol=1e-6, atol=0.0)
    keras.config.set_floatx("float64")
    assert number(make()(17)).dtype == "float64" or name == "around one of Keras"


@each_schedule
def test_a_traced_schedule_falls_at_the_same_steps(name: str) -> None:
    make, _ = SCHEDULES[name]
    schedule = make()
    eager = np.array([number(schedule(int(n))) for n in STEPS])
    for function in traced(schedule):
        got = np.array([number(function(int(n))) for n in STEPS])
        np.testing.assert_allclose(got, eager, rtol=3e-7, atol=0.0)


@pytest.mark.parametrize("period", ["2.4", "49", "748.8", "751.2", "1501.44", "3", "0.5", "41.7"])
def test_a_staircase_falls_exactly_where_a_period_ends(period: str) -> None:
    schedule = recipes.StaircaseDecay(1.0, 0.5, float(period))
    ends = np.array([math.ceil(k * Fraction(period)) for k in range(1, 60)])
    counts = np.unique(np.concatenate([ends - 1, ends, ends + 1]))
    want = [decays(n, period) for n in counts]
    for function in [schedule, *traced(schedule)]:
        # The schedule is elementwise, so that one call evaluates all.
        rates = number(function(ops.convert_to_tensor(counts.astype("int32"))))
        np.testing.assert_array_equal(np.round(-np.log2(rates)), want)


def test_a_staircase_counts_beyond_what_float32_can() -> None:
    # float32 has no odd integers above 2**24.
    schedule = recipes.StaircaseDecay(1.0, 0.5, 2**24 + 1)
    assert float(schedule(2**24)) == 1.0
    assert float(schedule(2**24 + 1)) == 0.5
    keras_own = schedules.ExponentialDecay(1.0, 2**24 + 1, 0.5, staircase=True)
    # With x64 on, as in these tests, JAX takes Python's numbers for float64.
    assert (float(keras_own(2**24)) == 0.5) == (BACKEND != "jax")


def test_a_staircase_keeps_the_digits_that_keras_loses_on_tensorflow(float64: None) -> None:
    arguments = {"initial_learning_rate": 1.0, "decay_rate": 0.97, "decay_steps": 1}
    exact = 0.97**3
    assert float(recipes.StaircaseDecay(**arguments)(3)) == pytest.approx(exact, rel=1e-15)
    keras_own = schedules.ExponentialDecay(**arguments, staircase=True)
    rounds = BACKEND == "tensorflow"
    assert (abs(float(keras_own(3)) - exact) > 1e-9) == rounds


def test_a_linear_schedule_keeps_its_last_rates() -> None:
    schedule = recipes.LinearDecay(0.5, 1_000_000)
    for left in (3, 2, 1):
        got = float(schedule(1_000_000 - left))
        assert got == pytest.approx(0.5e-6 * left, rel=1e-6), left


@each_schedule
def test_a_schedule_survives_serialization(name: str) -> None:
    make, _ = SCHEDULES[name]
    schedule = make()
    again = schedules.deserialize(schedules.serialize(schedule))
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert float(again(17)) == float(schedule(17))


@each_schedule
def test_the_step_counter_of_an_optimizer_is_a_step(name: str) -> None:
    make, formula = SCHEDULES[name]
    optimizer, variable = RMSprop(make()), keras.Variable([1.0])
    for n in range(3):
        assert float(optimizer.learning_rate) == pytest.approx(formula(n), rel=1e-6)
        optimizer.apply([ops.ones((1,))], [variable])


REFUSED = [
    (lambda: staircase(initial_learning_rate=-1.0), "`initial_learning_rate` must be a finite"),
    (lambda: staircase(initial_learning_rate=lambda: 0.1), "`initial_learning_rate` must be"),
    (lambda: staircase(decay_rate=0.0), "`decay_rate` must be finite and > 0"),
    (lambda: staircase(decay_steps=math.inf), "`decay_steps` must be finite and > 0"),
    (lambda: staircase(decay_steps=math.nan), "`decay_steps` must be finite and > 0"),
    (lambda: staircase(decay_steps=2.0**31), "`decay_steps` must be less than 2"),
    (lambda: staircase(decay_steps=1e-9), "`decay_steps` must be at least 0.001"),
    (lambda: staircase(delay=-1), "`delay` must be an integer >= 0"),
    (lambda: staircase(delay=1.5), "`delay` must be an integer >= 0"),
    (lambda: recipes.LinearDecay(-1.0, 3), "`initial_learning_rate` must be a finite"),
    (lambda: recipes.LinearDecay(0.1, 0), "`decay_steps` must be an integer >= 1"),
    (lambda: recipes.LinearDecay(0.1, 2.5), "`decay_steps` must be an integer >= 1"),
    (lambda: recipes.WarmUp(0.1, 10), "`schedule` must be a `keras.optimizers.schedules.Learning"),
    (lambda: recipes.WarmUp(staircase(), 0), "`warmup_steps` must be an integer >= 1"),
    (lambda: recipes.WarmUp(staircase(), 10, peak=-1.0), "`peak` must be a finite number >= 0"),
    (lambda: recipes.WarmUp(staircase(), 10, start=math.nan), "`start` must be a finite number"),
    (lambda: recipes.ColdStart(staircase(), 0, 0.1), "`cold_steps` must be an integer >= 1"),
    (lambda: recipes.ColdStart(staircase(), 1, -0.1), "`cold_learning_rate` must be a finite"),
    (lambda: recipes.PerEpoch(staircase(), True), "`steps_per_epoch` must be an integer >= 1"),
    (lambda: recipes.AtLeast(staircase(), None), "`minimum` must be a finite number >= 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_an_invalid_argument_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
