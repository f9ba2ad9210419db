"""Test which learning rates are accepted at construction, on assignment and from a callable."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from tests.conftest import BACKEND

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("form", [float, np.float32, np.asarray, ops.convert_to_tensor])
@pytest.mark.parametrize("rate", [NAN, -1.0, INFINITY], ids=str)
@pytest.mark.parametrize("jit_compile", ["auto", False], ids="jit_compile={}".format)
def test_a_callable_that_returns_an_invalid_rate_of_any_type_is_refused(
    form: Any, rate: float, jit_compile: Any
) -> None:
    rates = [0.5, 0.5, rate, 0.5]
    variable = keras.Variable([1.0, 2.0])
    optimizer = RMSprop(lambda: form(rates.pop(0)), jit_compile=jit_compile)
    for _ in range(2):
        optimizer.apply([ops.ones((2,))], [variable])
    before = [np.array(v.numpy()) for v in (variable, *optimizer.variables)]
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number >= 0"):
        optimizer.apply([ops.ones((2,))], [variable])
    for v, old in zip((variable, *optimizer.variables), before, strict=True):
        np.testing.assert_array_equal(v.numpy(), old)
    optimizer.apply([ops.ones((2,))], [variable])
    assert int(optimizer.iterations) == 3


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)
NOT_A_RATE = {
    "negative": -0.1,
    "nan": NAN,
    "infinite": INFINITY,
    "text": "0.1",
    "none": None,
    "config": {"class_name": "ExponentialDecay"},
    "function of the count": lambda count: 0.1 / count,
    "class of schedules": keras.optimizers.schedules.ExponentialDecay,
}


def rate_of(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the next step."""
    return float(optimizer.learning_rate)


@pytest.mark.parametrize("rate", NOT_A_RATE.values(), ids=NOT_A_RATE)
def test_an_invalid_learning_rate_is_refused_at_construction(rate: Any) -> None:
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number >= 0, a Lea"):
        RMSprop(learning_rate=rate)


@pytest.mark.parametrize("rate", NOT_A_RATE.values(), ids=NOT_A_RATE)
def test_an_invalid_learning_rate_is_refused_on_assignment(rate: Any) -> None:
    optimizer = RMSprop(learning_rate=0.25)
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number >= 0, a Lea"):
        optimizer.learning_rate = rate
    assert rate_of(optimizer) == 0.25


@pytest.mark.parametrize("rate", [2, 0, np.int64(2), np.float32(0.5), Fraction(1, 2)], ids=repr)
def test_any_real_number_is_a_learning_rate(rate: Any) -> None:
    assert rate_of(RMSprop(learning_rate=rate)) == rate


@pytest.mark.parametrize(
    "rate", [SCHEDULE, lambda: 0.1, lambda base=0.1: base], ids=["schedule", "callable", "default"]
)
def test_a_schedule_or_a_callable_without_arguments_is_a_learning_rate(rate: Any) -> None:
    assert rate_of(RMSprop(learning_rate=rate)) == np.float32(0.1)


SCALARS: dict[str, Callable[[float], Any]] = {
    "float": float,
    "np.float32": np.float32,
    "0-d array": np.array,
    "tensor": lambda rate: ops.convert_to_tensor(rate, "float32"),
    "variable": lambda rate: keras.Variable(rate, dtype="float32"),
}


@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
def test_a_scalar_of_any_kind_can_be_assigned(scalar: Callable[[float], Any]) -> None:
    optimizer = RMSprop()
    optimizer.learning_rate = scalar(0.25)
    assert rate_of(optimizer) == 0.25


@pytest.mark.parametrize("rate", [-0.25, NAN, INFINITY], ids=repr)
@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
def test_a_scalar_of_any_kind_is_checked(scalar: Callable[[float], Any], rate: float) -> None:
    optimizer = RMSprop(learning_rate=0.5)
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number >= 0"):
        optimizer.learning_rate = scalar(rate)
    assert rate_of(optimizer) == 0.5


def test_a_trainable_variable_can_be_assigned() -> None:
    optimizer = RMSprop()
    optimizer.learning_rate = keras.Variable(0.25, trainable=True)
    assert rate_of(optimizer) == 0.25


@pytest.mark.parametrize(
    "value",
    [np.array(True), ops.convert_to_tensor(True), np.array(1j)],
    ids=["bool array", "bool tensor", "complex array"],
)
def test_a_bool_or_complex_scalar_is_refused(value: Any) -> None:
    optimizer = RMSprop(learning_rate=0.5)
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number >= 0"):
        optimizer.learning_rate = value


def test_an_array_of_learning_rates_is_refused_with_its_shape() -> None:
    with pytest.raises(ValueError, match=r"must be a scalar, received an array of shape \(2,\)"):
        RMSprop().learning_rate = np.array([0.1, 0.2])


def test_a_rate_can_be_assigned_to_the_variable_itself() -> None:
    optimizer = RMSprop()
    optimizer.learning_rate.assign(0.25)
    assert rate_of(optimizer) == 0.25


@pytest.mark.parametrize("rate", [SCHEDULE, lambda: 0.1], ids=["schedule", "callable"])
def test_a_schedule_or_callable_can_replace_a_number(rate: Any) -> None:
    optimizer = RMSprop(learning_rate=0.5)
    optimizer.learning_rate = rate
    assert rate_of(optimizer) == np.float32(0.1)
    assert [variable.name for variable in optimizer.variables] == ["iteration"]


@pytest.mark.parametrize("scalar", SCALARS.values(), ids=SCALARS)
@pytest.mark.parametrize(
    ("rate", "kind"), [(SCHEDULE, "ExponentialDecay"), (lambda: 0.1, "function")]
)
def test_a_number_cannot_replace_a_schedule_or_callable(
    rate: Any, kind: str, scalar: Callable[[float], Any]
) -> None:
    optimizer = RMSprop(learning_rate=rate)
    with pytest.raises(TypeError, match=f"is a {kind}, and a number .* or make a new optimizer"):
        optimizer.learning_rate = scalar(0.25)
    assert rate_of(optimizer) == np.float32(0.1)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function is TensorFlow's")
def test_a_symbolic_tensor_can_be_assigned_inside_a_traced_function() -> None:
    import tensorflow as tf

    optimizer = RMSprop()

    @tf.function
    def assign(rate: tf.Tensor) -> None:
        optimizer.learning_rate = rate

    assign(tf.constant(0.25))
    assert rate_of(optimizer) == 0.25


@pytest.mark.skipif(BACKEND != "jax", reason="a tracer is JAX's")
def test_a_tracer_can_be_assigned_inside_a_stateless_scope() -> None:
    import jax

    optimizer = RMSprop()

    @jax.jit
    def assigned(rate: jax.Array) -> jax.Array:
        with keras.StatelessScope():
            optimizer.learning_rate = rate
            return optimizer.learning_rate.value

    assert float(assigned(0.25)) == 0.25
    assert rate_of(optimizer) == np.float32(0.001)


def test_keras_accepts_a_nan_assigned_to_its_learning_rate() -> None:
    optimizer = keras.optimizers.RMSprop()
    optimizer.learning_rate = NAN
    assert np.isnan(rate_of(optimizer))


def test_keras_fails_without_explanation_when_a_number_replaces_a_callable() -> None:
    optimizer = keras.optimizers.RMSprop(learning_rate=lambda: 0.1)
    with pytest.raises(AttributeError, match="'function' object has no attribute 'assign'"):
        optimizer.learning_rate = 0.25


@pytest.mark.parametrize("jit_compile", ["auto", False], ids="jit_compile={}".format)
def test_a_rate_from_a_callable_is_checked_before_the_step(jit_compile: Any) -> None:
    rates = iter([0.5, 0.5, NAN])
    weight = keras.Variable([1.0, 2.0])
    optimizer = RMSprop(lambda: next(rates), jit_compile=jit_compile)
    gradients = [keras.ops.ones((2,))]
    optimizer.apply(gradients, [weight])
    optimizer.apply(gradients, [weight])
    before = keras.ops.convert_to_numpy(keras.ops.stop_gradient(weight)).copy()
    with pytest.raises(ValueError, match="received learning_rate=nan"):
        optimizer.apply(gradients, [weight])
    after = keras.ops.convert_to_numpy(keras.ops.stop_gradient(weight))
    np.testing.assert_array_equal(after, before)
    assert int(optimizer.iterations) == 2
