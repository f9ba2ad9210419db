"""Trainings that go well, sampled often.

The worked examples are made by the reference, so they are the same on every backend; the networks
by the optimizer.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

import keras_rmsprop
from keras_rmsprop._diagnostics._report import Report
from keras_rmsprop.reference import Reference
from tests.tools import loops, networks
from tests.tools.networks import Problem
from tests.tools.sampled import SampledOptimizer, SampledReference

Array = NDArray[np.float64]
Run = Callable[[], Iterator[Report]]

STEPS = 60


def follow(
    gradient: Callable[..., list[Array]],
    starts: dict[str, Any],
    learning_rate: float,
    steps: int = STEPS,
    **options: Any,
) -> Iterator[Report]:
    """Run the reference and yield a report after each step.

    Args:
        gradient: of the weights, which are its arguments, a list.
        starts: the weights at the start by path.
        learning_rate: of all steps.
        steps: how many.
        **options: of the reference.
    """
    sampled = SampledReference(Reference(list(starts.values()), **options), list(starts))
    for _ in range(steps):
        sampled.apply(gradient(*sampled.reference.weights), learning_rate)
        yield sampled.report()


def train(problem: Problem, steps: int = STEPS, every: int = 1, **options: Any) -> Iterator[Report]:
    """Train a network and yield a report after each step that is sampled.

    Args:
        problem: the network and its data.
        steps: how many.
        every: one step in so many is sampled.
        **options: of the optimizer.
    """
    # Op by op: how a step is run does not matter here, and compiling takes seconds.
    optimizer = keras_rmsprop.RMSprop(**{"jit_compile": False, **options})
    optimizer.build(problem.model.trainable_variables)
    sampled = SampledOptimizer(optimizer, every)
    gradients = loops.gradients_of(problem.model, problem.loss)
    rng = np.random.default_rng(0)
    for t in range(steps):
        sampled.apply(gradients(*problem.batch(rng)))
        if t % every == 0:
            yield sampled.report()


# The worked examples.


def x_over_log_x(**options: Any) -> Iterator[Report]:
    """Minimise x / log x, whose gradient hardly changes for a long way."""

    def gradient(x: Array) -> list[Array]:
        return [(np.log(x) - 1.0) / np.log(x) ** 2]

    return follow(gradient, {"x": 364.0}, 0.3, **options)


def quadratic(scale: float, rate: float) -> Iterator[Report]:
    """Minimise x² + y² or 100 x² + y², ending on either side of the minimum."""

    def gradient(at: Array) -> list[Array]:
        return [2.0 * at * np.array([scale, 1.0])]

    return follow(gradient, {"at": [1.0, -2.0]}, rate, steps=300)


def six_points() -> Iterator[Report]:
    """Fit a line through six points."""
    x = np.array([5.0, 15.0, 25.0, 35.0, 45.0, 55.0])
    y = np.array([5.0, 20.0, 14.0, 32.0, 22.0, 38.0])

    def gradient(line: Array) -> list[Array]:
        error = line[0] * x + line[1] - y
        return [np.array([np.mean(error * x), np.mean(error)])]

    options = {"epsilon": 1e-8, "epsilon_inside_sqrt": False}
    return follow(gradient, {"line": [3.0, 5.0]}, 0.001, steps=300, **options)


def price_on_weight() -> Iterator[Report]:
    """Fit a line to standardised data, in batches of 512, as in the diamonds example."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    y = 0.92 * x + 0.4 * rng.normal(size=20_000)

    def gradient(slope: Array, intercept: Array) -> list[Array]:
        batch = rng.integers(0, 20_000, 512)
        error = slope * x[batch] + intercept - y[batch]
        return [np.atleast_1d(2.0 * np.mean(error * x[batch])), np.atleast_1d(2.0 * np.mean(error))]

    return follow(gradient, {"dense/kernel": [1.0], "dense/bias": [0.0]}, 0.01, steps=120)


def spiral() -> Iterator[Report]:
    """Tell the arms of a spiral apart with a 2-10-1 network, in full batches."""
    rng = np.random.default_rng(42)
    arm = np.repeat([0.0, 1.0], 150)
    radius = np.tile(np.linspace(0.05, 1.0, 150), 2)
    angle = 4.0 * radius + np.pi * arm + rng.normal(0.0, 0.15, 300)
    points = radius * np.stack([np.sin(angle), np.cos(angle)])

    def gradient(hidden: Array, hidden_bias: Array, last: Array, last_bias: Array) -> list[Array]:
        inside = np.maximum(hidden @ points + hidden_bias, 0.0)
        error = (1.0 / (1.0 + np.exp(-(last @ inside + last_bias))) - arm) / 300.0
        back = (last.T @ error) * (inside > 0.0)
        return [
            back @ points.T,
            back.sum(axis=1, keepdims=True),
            error @ inside.T,
            error.sum(axis=1, keepdims=True),
        ]

    starts = {
        "hidden/kernel": rng.normal(size=(10, 2)) * 0.4,
        "hidden/bias": np.zeros((10, 1)),
        "last/kernel": rng.normal(size=(1, 10)) * 0.4,
        "last/bias": np.zeros((1, 1)),
    }
    return follow(gradient, starts, 0.001, steps=300)


def linear_layer() -> Iterator[Report]:
    """Fit two weights to one point, for ten epochs."""
    x = np.array([1.0, 2.0])

    def gradient(weights: Array) -> list[Array]:
        return [2.0 * (weights @ x - 1.0) * x]

    return follow(gradient, {"weights": [-0.3, -0.2]}, 0.01, steps=10, epsilon=1e-8)


# Networks.


def warm_up_and_cosine() -> Iterator[Report]:
    """Train a transformer by a schedule from 0 to 0, until its end."""
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, STEPS, warmup_target=3e-3, warmup_steps=STEPS // 4
    )
    options = {"learning_rate": rate, "weight_decay": 0.1, "global_clipnorm": 2.0}
    # In the last step the rate is 0.
    return train(networks.transformer(), steps=STEPS + STEPS // 4 + 1, **options)


def cosine() -> Iterator[Report]:
    """Train by a schedule of which the last sample sees 0.000101 of the first rate."""
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 312)
    return train(networks.dense(), steps=312, every=31, learning_rate=rate)


def mixed_precision() -> Iterator[Report]:
    """Compute in bfloat16, with weights and slots in float32."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        problem = networks.dense()
    finally:
        keras.config.set_dtype_policy(policy)
    return train(problem, state_dtype="bfloat16")


HEALTHY: dict[str, Run] = {
    "x / log x": x_over_log_x,
    "x / log x, torch's convention": lambda: x_over_log_x(
        rho=0.99, epsilon=1e-8, epsilon_inside_sqrt=False
    ),
    "x² + y²": lambda: quadratic(1.0, 0.05),
    "100 x² + y²": lambda: quadratic(100.0, 0.01),
    "six points": six_points,
    "price on weight": price_on_weight,
    "spiral": spiral,
    "a linear layer": linear_layer,
    "dense": lambda: train(networks.dense()),
    "dense, a rate of 0.01": lambda: train(networks.dense(), learning_rate=0.01),
    "dense, bias correction, accumulation": lambda: train(
        networks.dense(), bias_correction=True, gradient_accumulation_steps=2
    ),
    "dense, weight decay of 1": lambda: train(
        networks.dense(), steps=300, every=20, learning_rate=3e-3, weight_decay=1.0
    ),
    "dense, l2": lambda: train(networks.dense(), steps=300, every=20, learning_rate=3e-3, l2=0.01),
    "bag of words, weight decay": lambda: train(
        networks.bag_of_words(), steps=300, every=20, learning_rate=1e-2, weight_decay=0.1
    ),
    "dense, a cosine": cosine,
    "dense, a rate that drops to 0.001 of the first": lambda: train(
        networks.dense(),
        learning_rate=keras.optimizers.schedules.PiecewiseConstantDecay([20], [1e-2, 1e-5]),
    ),
    "dense, a cubic schedule": lambda: train(
        networks.dense(),
        learning_rate=keras.optimizers.schedules.PolynomialDecay(1e-2, STEPS, 0.0, power=3),
    ),
    "dense, from averages of 1": lambda: train(networks.dense(), initial_square_average=1.0),
    "dense, a frozen group": lambda: train(
        networks.dense(), groups={"dense/.*/bias": {"learning_rate": 0.0}}
    ),
    "convolutions, momentum": lambda: train(
        networks.convolutional(), learning_rate=1e-4, momentum=0.9, nesterov=True
    ),
    "convolutions, until the loss is nearly 0": lambda: train(
        networks.convolutional(), steps=400, every=20, learning_rate=1e-3, momentum=0.9
    ),
    "convolutions, centered": lambda: train(networks.convolutional(), centered=True),
    "LSTM, clipping": lambda: train(
        networks.recurrent(layers.LSTM), learning_rate=3e-3, global_clipnorm=0.08
    ),
    "GRU, centered": lambda: train(networks.recurrent(layers.GRU), centered=True),
    "bag of words": lambda: train(networks.bag_of_words()),
    "transformer, warm-up and cosine": warm_up_and_cosine,
    "encoder": lambda: train(networks.encoder()),
    "mixed precision": mixed_precision,
}
