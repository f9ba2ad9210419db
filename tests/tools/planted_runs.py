"""Trainings with one planted fault each, which a report must name."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

import keras_rmsprop
from keras_rmsprop._diagnostics._report import Report
from tests.tools import networks
from tests.tools.healthy_runs import follow, train
from tests.tools.models import WithPath
from tests.tools.networks import Problem
from tests.tools.sampled import SampledOptimizer

Array = NDArray[Any]


class Planted(NamedTuple):
    """A fault, and what a report after it must say."""

    run: Callable[[], Iterator[Report]]
    ailment: str
    # A regular expression for the paths of all variables that have it; "" for all together.
    where: str
    severity: str = "warning"
    # Other ailments that come with it, which may be warned of as well.
    besides: tuple[str, ...] = ()


def feed(
    gradients: Iterator[dict[str, Any]], starts: dict[str, Array], **options: Any
) -> Iterator[Report]:
    """Feed gradients to an optimizer of a few variables, and yield a report after each step.

    Args:
        gradients: for each step those of the variables by path; None for none.
        starts: the weights at the start by path.
        **options: of the optimizer.
    """
    variables = [WithPath(path, value) for path, value in starts.items()]
    optimizer = keras_rmsprop.RMSprop(jit_compile=False, **options)
    optimizer.build(variables)
    sampled = SampledOptimizer(optimizer)
    for given in gradients:
        sampled.apply(
            [
                None if given[path] is None else ops.convert_to_tensor(given[path], "float32")
                for path in starts
            ]
        )
        yield sampled.report()


def two_layers() -> dict[str, Array]:
    """Return the weights of two dense layers, in float32."""
    rng = np.random.default_rng(0)
    return {
        "first/kernel": rng.normal(0.0, 0.2, (8, 16)).astype("float32"),
        "first/bias": np.zeros(16, "float32"),
        "second/kernel": rng.normal(0.0, 0.2, (16, 4)).astype("float32"),
        "second/bias": np.zeros(4, "float32"),
    }


def noise(steps: int, scale: float = 0.1, **changes: Any) -> Iterator[dict[str, Any]]:
    """Yield gradients of `two_layers`.

    Args:
        steps: how many.
        scale: their standard deviation.
        **changes: for a variable, with "_" for "/", a function of (step, gradient) that returns the
            gradient instead.
    """
    rng = np.random.default_rng(1)
    for t in range(steps):
        given = {path: scale * rng.normal(size=w.shape) for path, w in two_layers().items()}
        for name, change in changes.items():
            path = name.replace("_", "/")
            given[path] = change(t, given[path])
        yield given


def with_element(value: float, *, at: int) -> Callable[[int, Array], Array]:
    """Return a change that sets the first element of one step's gradient."""

    def change(t: int, gradient: Array) -> Array:
        if t == at:
            gradient.flat[0] = value
        return gradient

    return change


def every_tenth_is_nan(problem: Problem) -> Problem:
    """Return a problem of which a batch in ten has a NaN in its inputs."""
    count = itertools.count(1)

    def batch(rng: np.random.Generator) -> tuple[Array, Array]:
        x, y = problem.batch(rng)
        if next(count) % 10 == 0:
            x[0, 0] = np.nan
        return x, y

    return problem._replace(batch=batch)


def dead_units() -> Iterator[Report]:
    """Train a network whose second layer of ReLU always gives 0."""
    problem = networks.dense()
    problem.model.layers[1].bias.assign(np.full(32, -100.0))
    return train(problem, steps=30)


def vanishing_gradients() -> Iterator[Report]:
    """Train ten layers of sigmoid, through which no gradient comes back."""
    small = keras.initializers.RandomNormal(stddev=0.1, seed=0)
    inside = [
        layers.Dense(32, "sigmoid", kernel_initializer=small, name=f"layer{i}") for i in range(10)
    ]
    model = keras.Sequential([keras.Input((16,)), *inside, layers.Dense(networks.CLASSES)])
    return train(networks.dense()._replace(model=model), steps=30)


def divided_loss() -> Iterator[Report]:
    """Train with a loss that has been divided by ten million."""
    problem = networks.dense()
    return train(problem._replace(loss=lambda y, p: problem.loss(y, p) * 1e-7), steps=30)


def half_precision(rate: float) -> Iterator[Report]:
    """Train with weights in bfloat16."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        problem = networks.dense()
    finally:
        keras.config.set_dtype_policy(policy)
    return train(problem, steps=30, learning_rate=rate)


def small_weights() -> Problem:
    """Return a problem whose network begins with weights a tenth as large as usual."""
    problem = networks.dense()
    for layer in problem.model.layers:
        layer.kernel.assign(0.1 * layer.kernel)
    return problem


def decayed(steps: int) -> Iterator[Report]:
    """Train by a schedule from 0.001 to 0 in 40 steps."""
    rate = keras.optimizers.schedules.PolynomialDecay(1e-3, 40, end_learning_rate=0.0)
    return train(networks.dense(), steps=steps, learning_rate=rate)


def halved_too_often() -> Iterator[Report]:
    """Train by a rate that is halved every other step instead of every other epoch."""
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, 2, 0.5)
    return train(networks.dense(), steps=40, learning_rate=rate)


def constant_gradient() -> Iterator[Report]:
    """Minimise a linear function."""
    kernel = np.full((8, 16), 100.0)
    return follow(lambda w: [np.ones_like(w)], {"kernel": kernel}, 0.001, 100, centered=True)


def first_centered_step() -> Iterator[Report]:
    """Make the first steps with a variance that the bias correction makes 0."""
    return follow(
        lambda w: [w], {"kernel": np.ones((4, 4))}, 0.001, 1, centered=True, bias_correction=True
    )


PLANTED: dict[str, Planted] = {
    "a gradient whose square overflows": Planted(
        lambda: feed(noise(30, first_kernel=with_element(1e25, at=10)), two_layers()),
        "frozen weights",
        "first/kernel",
    ),
    "a gradient that is infinite": Planted(
        lambda: feed(noise(12, first_kernel=with_element(np.inf, at=10)), two_layers()),
        "non-finite gradients",
        "first/kernel",
        besides=("non-finite weights",),
    ),
    "NaN in a batch": Planted(
        lambda: train(every_tenth_is_nan(networks.dense()), steps=12),
        "non-finite weights",
        ".*",
        besides=("non-finite gradients",),
    ),
    "NaN in a tenth of the batches, skipped": Planted(
        lambda: train(every_tenth_is_nan(networks.dense()), steps=40, skip_nonfinite=True),
        "batches skipped",
        "",
    ),
    "a gradient near the overflow": Planted(
        lambda: feed(noise(30, second_kernel=lambda _, g: g * 1e18), two_layers()),
        "exploding gradient",
        "second/kernel",
    ),
    "centered, a constant gradient": Planted(
        constant_gradient, "exploding centered steps", "kernel"
    ),
    "centered with bias correction": Planted(
        first_centered_step, "exploding centered steps", "kernel"
    ),
    "a weight decay of 10": Planted(
        lambda: train(networks.dense(), learning_rate=3e-3, weight_decay=10.0),
        "weight decay dominates",
        ".*kernel",
    ),
    "a weight decay of 100": Planted(
        lambda: train(networks.dense(), steps=150, weight_decay=100.0),
        "weight decay dominates",
        ".*kernel",
    ),
    "l2, a penalty of 0.1": Planted(
        lambda: train(networks.dense(), steps=150, learning_rate=3e-3, l2=0.1),
        "weight decay dominates",
        ".*kernel",
    ),
    "a weight decay of 10, from small weights": Planted(
        lambda: train(small_weights(), learning_rate=3e-3, weight_decay=10.0),
        "weight decay dominates",
        ".*kernel",
        "note",
    ),
    "dead units": Planted(dead_units, "dead gradients", "dense/(hidden_[12]/.*|last/kernel)"),
    "a bias without effect": Planted(
        lambda: feed(noise(30, first_bias=lambda _, g: 0.0 * g), two_layers()),
        "dead gradients",
        "first/bias",
        "note",
    ),
    "a schedule that has ended": Planted(lambda: decayed(50), "vanished learning rate", ".*"),
    "a schedule that is too fast": Planted(halved_too_often, "vanished learning rate", ".*"),
    "a rate of 0": Planted(
        lambda: train(networks.dense(), steps=30, learning_rate=0.0), "vanished learning rate", ".*"
    ),
    "a group with a rate of 0": Planted(
        lambda: feed(noise(30), two_layers(), groups={"first/.*": {"learning_rate": 0.0}}),
        "vanished learning rate",
        "first/.*",
        "note",
    ),
    "dense, 100 times the rate": Planted(
        lambda: train(networks.dense("tanh"), learning_rate=0.1), "too large updates", ".*kernel"
    ),
    "LSTM, 100 times the rate": Planted(
        lambda: train(networks.recurrent(layers.LSTM), learning_rate=0.1),
        "too large updates",
        ".*(kernel|embeddings)",
    ),
    "transformer, 100 times the rate": Planted(
        lambda: train(networks.transformer(), steps=30, learning_rate=0.1),
        "too large updates",
        ".*(kernel|embeddings|gamma)",
    ),
    "momentum, 100 times the rate": Planted(
        lambda: train(networks.dense("tanh"), learning_rate=0.1, momentum=0.9),
        "too large updates",
        ".*kernel",
    ),
    "a loss divided by ten million": Planted(divided_loss, "epsilon decides", ".*kernel"),
    "vanishing gradients": Planted(vanishing_gradients, "epsilon decides", r".*layer[0-6]/kernel"),
    "weights in bfloat16": Planted(lambda: half_precision(1e-5), "stuck weights", ".*kernel"),
    "a rate below the precision": Planted(
        lambda: train(networks.dense(), steps=30, learning_rate=1e-10), "stuck weights", ".*kernel"
    ),
    "a rate of 1e-7": Planted(
        lambda: feed(noise(30), two_layers(), learning_rate=1e-7),
        "too small updates",
        ".*kernel",
    ),
    "clipping far below the norm": Planted(
        lambda: train(networks.dense(), steps=30, global_clipnorm=0.05), "clipping always on", ""
    ),
    "each variable clipped far below its norm": Planted(
        lambda: train(networks.dense(), steps=30, clipnorm=0.02), "clipping always on", ".*"
    ),
    "all elements clipped": Planted(
        lambda: feed(noise(30), two_layers(), clipvalue=0.01), "clipping always on", ".*"
    ),
    "clipping somewhat below the norm": Planted(
        lambda: feed(noise(30), two_layers(), global_clipnorm=1.0), "clipping always on", "", "note"
    ),
    "the first steps of a long average": Planted(
        lambda: feed(noise(30), two_layers(), rho=0.99), "averages not warmed up", ".*", "note"
    ),
    "averages that start from 1": Planted(
        lambda: feed(noise(30, 0.01), two_layers(), initial_square_average=1.0),
        "averages not warmed up",
        ".*",
        "note",
    ),
    "one layer has the norm": Planted(
        lambda: feed(
            noise(30, second_kernel=lambda _, g: 1e3 * g), two_layers(), global_clipnorm=900.0
        ),
        "one variable dominates",
        "second/kernel",
        "note",
    ),
    "a layer without gradient": Planted(
        lambda: feed(noise(30, first_kernel=lambda *_: None), two_layers()),
        "no gradient",
        "first/kernel",
        "note",
    ),
}
