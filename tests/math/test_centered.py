"""Test that the variance of a steady gradient never falls below zero, whatever its size.

E[g²] - E[g]² subtracts two rounded numbers. For a constant or near-constant gradient the
difference falls below zero in float32, and its root is NaN.
"""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop, conventions
from keras_rmsprop.reference import Reference
from yardsticks.peers import follow, follow_ours, unavailable

MAGNITUDES = 10.0 ** np.arange(-20, 16)
# Relative to the gradient: none, about an ulp, and enough to make the difference noisy.
NOISES = np.array([0.0, 1e-7, 1e-4])[:, None]

STEPS = 3000
STEADY = 300

HOW = pytest.mark.parametrize("jit_compile", [False, "auto"], ids=["op_by_op", "compiled"])
ROOT = pytest.mark.parametrize(
    "arguments",
    [{}, {"epsilon_inside_sqrt": False, "rho": 0.99, "epsilon": 1e-8}, {"momentum": 0.9}],
    ids=["keras", "torch", "momentum"],
)


def numpy(x: Any) -> np.ndarray:
    """A tensor's or a variable's values."""
    return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(x)))


def steady_gradients(count: int) -> list[np.ndarray]:
    """`count` gradients, each with every magnitude and every noise."""
    rng = np.random.default_rng(0)
    shape = (len(NOISES), len(MAGNITUDES))
    return [
        (MAGNITUDES * (1.0 + NOISES * rng.normal(size=shape))).astype(np.float32)
        for _ in range(count)
    ]


@HOW
@ROOT
def test_stays_finite_under_steady_gradients_of_any_size(
    arguments: dict[str, Any], jit_compile: Any
) -> None:
    # Op by op a step takes longer. At rho 0.9 the peers become NaN within 150 steps.
    steps = STEPS if jit_compile else STEPS // 3
    batch = [ops.convert_to_tensor(g) for g in steady_gradients(8)]
    weight = keras.Variable(np.zeros(batch[0].shape, np.float32))
    optimizer = RMSprop(0.001, centered=True, jit_compile=jit_compile, **arguments)
    for t in range(steps):
        optimizer.apply([batch[t % len(batch)]], [weight])
    (parameter,) = optimizer._roster.parameters
    assert np.all(numpy(parameter.square_average) >= 0.0)
    assert np.all(np.isfinite(numpy(parameter.gradient_average)))
    assert np.all(np.isfinite(numpy(weight)))
    # Every gradient is positive. The smallest are negligible beside epsilon, but give no NaN.
    assert np.all(numpy(weight) <= 0.0)
    assert np.all(numpy(weight)[:, MAGNITUDES >= 1e-7] < 0.0)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.function belongs to TensorFlow"
)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_stays_finite_in_a_users_own_tf_function(jit_compile: bool) -> None:
    # Compiled code fuses multiplication and addition, which rounds differently.
    import tensorflow as tf

    gradient = tf.constant(steady_gradients(1)[0])
    weight = keras.Variable(np.zeros(gradient.shape, np.float32))
    optimizer = RMSprop(0.001, centered=True)
    optimizer.build([weight])

    @tf.function(jit_compile=jit_compile)
    def step() -> None:
        optimizer.apply([gradient], [weight])

    for _ in range(STEPS):
        step()
    assert np.all(np.isfinite(numpy(weight)))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="jax.jit belongs to JAX")
def test_stays_finite_in_a_users_own_jitted_loop() -> None:
    # Compiled code fuses multiplication and addition, which rounds differently.
    import jax

    gradient = jax.numpy.asarray(steady_gradients(1)[0])
    weight = keras.Variable(np.zeros(gradient.shape, np.float32))
    optimizer = RMSprop(0.001, centered=True)
    optimizer.build([weight])
    start = [variable.value for variable in optimizer.variables]

    def step(_: Any, state: Any) -> Any:
        weights, slots = state
        return optimizer.stateless_apply(slots, [gradient], weights)

    run = jax.jit(lambda state: jax.lax.fori_loop(0, STEPS, step, state))
    weights, _ = run(([weight.value], start))
    assert np.all(np.isfinite(np.asarray(weights[0])))


def one_to_two() -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """A weight of 256 elements, and a constant gradient between 1 and 2."""
    gradient = np.random.default_rng(0).uniform(1.0, 2.0, 256).astype(np.float32)
    return [np.zeros(256, np.float32)], [[gradient]] * STEADY


PEERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "keras": (conventions.keras, {"learning_rate": 0.001, "centered": True}),
    "torch": (conventions.torch, {"lr": 0.001, "alpha": 0.9, "centered": True}),
    "optax": (conventions.optax, {"learning_rate": 0.001, "centered": True}),
    "tf_keras": (conventions.keras, {"learning_rate": 0.001, "centered": True}),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_constant_gradient_makes_the_peer_nan_but_not_ours(name: str) -> None:
    reason = unavailable(name)
    if reason:
        pytest.skip(reason)
    convention, arguments = PEERS[name]
    weights, gradients = one_to_two()
    theirs = follow(name, weights, gradients, **arguments)[-1]
    assert np.any(np.isnan(theirs.weights[0]))
    ours = follow_ours(convention(**arguments), weights, gradients)[-1]
    assert np.all(np.isfinite(ours.weights[0]))
    assert np.all(ours.weights[0] < 0.0)


@HOW
@pytest.mark.parametrize(
    ("noise", "tolerance"), [(1e-4, 1e-2), (1e-3, 1e-3), (1e-2, 1e-4), (1.0, 5e-6)]
)
def test_the_variance_is_as_accurate_as_its_gradients(
    noise: float, tolerance: float, jit_compile: Any
) -> None:
    # In float32 a deviation of `noise` times the gradient has a relative error of 6e-8 / noise.
    rng = np.random.default_rng(0)
    size = rng.uniform(1.0, 2.0, 256)
    gradients = [
        (size * (1.0 + noise * rng.normal(size=256))).astype(np.float32) for _ in range(STEADY)
    ]
    weight = keras.Variable(np.zeros(256, np.float32))
    optimizer = RMSprop(centered=True, jit_compile=jit_compile)
    reference = Reference([np.zeros(256)], centered=True)
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient)], [weight])
        reference.apply([gradient], 0.001)
    want = reference.parameters[0].square_average
    got = numpy(optimizer._roster.parameters[0].square_average)
    assert np.max(np.abs(got - want) / want) <= tolerance
