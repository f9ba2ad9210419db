"""Test custom training loops in the style of each framework against the reference.

Every loop fits a line to the same data, so the gradient can be computed in NumPy.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools import models

RATE, STEPS = 2.0**-6, 8

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "centered": True,
        "momentum": 0.5,
        "nesterov": True,
        "clipnorm": 0.5,
        "weight_decay": 0.125,
        "gradient_accumulation_steps": 2,
    },
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="a loop of TensorFlow's")
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="a loop of JAX's")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="a loop of torch's")

Loop = Callable[[keras.optimizers.Optimizer, list[Any]], None]


def start() -> list[np.ndarray]:
    """Return a line's slopes and its intercept."""
    return [np.array([[0.5], [-1.0], [2.0]]), np.array([0.25])]


def loss(weights: Any, x: Any, y: Any) -> Any:
    """Return the sum of squares; only operators, so it serves every framework."""
    slopes, intercept = weights
    return ((x @ slopes + intercept - y) ** 2).sum()


def expected(options: dict[str, Any]) -> list[np.ndarray]:
    """Return the weights after the reference's steps."""
    x, y = models.data()
    reference = Reference(start(), **options)
    for _ in range(STEPS):
        slopes, intercept = reference.weights
        error = x @ slopes + intercept - y
        reference.apply([2.0 * x.T @ error, 2.0 * error.sum(axis=0)], RATE)
    return reference.weights


def assert_trained(weights: list[Any], options: dict[str, Any]) -> None:
    got = [keras.ops.convert_to_numpy(keras.ops.stop_gradient(w)) for w in weights]
    models.assert_same(got, expected(options), start(), steps=STEPS)


def keras_variables() -> list[Any]:
    return [keras.Variable(value, name=name) for value, name in zip(start(), "wb", strict=True)]


def raw_variables() -> list[Any]:
    """Return variables that have no `.path`."""
    import tensorflow as tf

    return [tf.Variable(value) for value in start()]


def tape_step(optimizer: keras.optimizers.Optimizer, weights: list[Any]) -> Callable[[], None]:
    """Return a function that makes one step of a GradientTape loop."""
    import tensorflow as tf

    x, y = (tf.constant(array) for array in models.data())

    def step() -> None:
        with tf.GradientTape() as tape:
            slopes, intercept = weights
            value = tf.reduce_sum((x @ slopes + intercept - y) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(value, weights), weights, strict=True))

    return step


@on_tensorflow
@every_option
@pytest.mark.parametrize("make", [keras_variables, raw_variables])
@pytest.mark.parametrize("how", ["eager", "function", "xla"])
def test_a_gradient_tape_loop_follows_the_reference(float64, how, make, options):
    import tensorflow as tf

    optimizer, weights = keras_rmsprop.RMSprop(RATE, **options), make()
    step = tape_step(optimizer, weights)
    if how == "xla":
        # XLA cannot create variables.
        optimizer.build(weights)
    if how != "eager":
        step = tf.function(step, jit_compile=how == "xla")
    for _ in range(STEPS):
        step()
    assert_trained(weights, options)


@on_tensorflow
@every_option
def test_a_module_with_its_own_step_follows_the_reference(float64, options):
    import tensorflow as tf

    class Line(tf.Module):
        """A line that owns its optimizer."""

        def __init__(self) -> None:
            super().__init__()
            self.weights = raw_variables()
            self.optimizer = keras_rmsprop.RMSprop(RATE, **options)
            self.step = tf.function(tape_step(self.optimizer, self.weights))

    line = Line()
    for _ in range(STEPS):
        line.step()
    assert_trained(line.weights, options)


@on_tensorflow
def test_a_loop_inside_a_function_makes_every_step(float64):
    import tensorflow as tf

    optimizer, weights = keras_rmsprop.RMSprop(RATE), keras_variables()
    optimizer.build(weights)
    step = tape_step(optimizer, weights)

    @tf.function
    def train() -> None:
        for _ in tf.range(STEPS):
            step()

    train()
    assert int(optimizer.iterations) == STEPS
    assert_trained(weights, {})


@on_jax
@every_option
@pytest.mark.parametrize("jitted", [False, True], ids="jitted={}".format)
def test_a_stateless_loop_follows_the_reference(float64, jitted, options):
    import jax

    x, y = (jax.numpy.asarray(array) for array in models.data())
    variables = keras_variables()
    optimizer = keras_rmsprop.RMSprop(RATE, **options)
    optimizer.build(variables)

    def step(weights: Any, state: Any) -> Any:
        return optimizer.stateless_apply(state, jax.grad(loss)(weights, x, y), weights)

    if jitted:
        step = jax.jit(step)
    weights, state = [v.value for v in variables], [v.value for v in optimizer.variables]
    for _ in range(STEPS):
        weights, state = step(weights, state)
    assert_trained(weights, options)
    # The optimizer's own variables have not changed.
    assert int(optimizer.iterations) == 0


@on_jax
def test_a_stateless_loop_can_be_scanned(float64):
    import jax

    x, y = (jax.numpy.asarray(array) for array in models.data())
    variables = keras_variables()
    optimizer = keras_rmsprop.RMSprop(RATE, momentum=0.5)
    optimizer.build(variables)

    def step(carry: Any, _: Any) -> Any:
        weights, state = carry
        return optimizer.stateless_apply(state, jax.grad(loss)(weights, x, y), weights), None

    carry = [v.value for v in variables], [v.value for v in optimizer.variables]
    (weights, _), _ = jax.lax.scan(step, carry, length=STEPS)
    assert_trained(weights, {"momentum": 0.5})


@on_jax
@every_option
def test_an_eager_jax_loop_follows_the_reference(float64, options):
    import jax

    x, y = (jax.numpy.asarray(array) for array in models.data())
    weights = keras_variables()
    optimizer = keras_rmsprop.RMSprop(RATE, **options)
    for _ in range(STEPS):
        optimizer.apply(jax.grad(loss)([v.value for v in weights], x, y), weights)
    assert_trained(weights, options)


@on_torch
@every_option
def test_a_backward_loop_follows_the_reference(float64, options):
    import torch

    x, y = (torch.tensor(array) for array in models.data())
    weights = keras_variables()
    optimizer = keras_rmsprop.RMSprop(RATE, **options)
    for _ in range(STEPS):
        for weight in weights:
            weight.value.grad = None
        loss([w.value for w in weights], x, y).backward()
        optimizer.apply([w.value.grad for w in weights], weights)
    assert all(w.value.requires_grad and w.value.is_leaf for w in weights)
    assert_trained(weights, options)


@on_torch
def test_a_backward_loop_over_a_model_does_not_modify_its_gradients():
    import torch

    network = models.model()
    x, y = (torch.tensor(array) for array in models.data())
    optimizer = keras_rmsprop.RMSprop(RATE, clipnorm=1e-3, weight_decay=0.125)
    ((network(x) - y) ** 2).mean().backward()
    gradients = [w.value.grad for w in network.trainable_weights]
    before = [g.clone() for g in gradients]
    optimizer.apply(gradients, network.trainable_weights)
    assert all(torch.equal(g, b) for g, b in zip(gradients, before, strict=True))
