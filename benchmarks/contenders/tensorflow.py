"""Contenders on TensorFlow: keras, and tf_keras old and new."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from benchmarks import limit
from benchmarks.contenders import Builders, _keras
from benchmarks.measure import Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem

MODES = ("eager", "graph", "xla")

_RUN: dict[str, Callable[[Callable[[], Any]], Callable[[], Any]]] = {
    "eager": lambda step: step,
    "graph": lambda step: tf.function(step, autograph=False),
    "xla": lambda step: tf.function(step, autograph=False, jit_compile=True),
}


def device() -> str:
    """Name the device; `python -m benchmarks` hides accelerators from TensorFlow."""
    return "cpu"


def forget_peak() -> None:
    """Start a new peak at the bytes in use now."""
    tf.config.experimental.reset_memory_stats("CPU:0")


def peak() -> int:
    """Return the most bytes that were in use.

    TensorFlow's allocator knows; it keeps what was freed, so the system does not.
    """
    return int(tf.config.experimental.get_memory_info("CPU:0")["peak"])


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that makes it."""

    @functools.cache
    def gradients() -> list[tf.Tensor]:
        return [tf.constant(g) for g in problem.gradients]

    def keras_contender(name: str) -> Contender:
        built, batch = _keras.build(name, problem), gradients()
        step = _RUN[mode](lambda: built.optimizer.apply(batch, built.variables))
        return Contender(step, tf.test.experimental.sync_devices, built.weights)

    def tf_keras_contender(legacy: bool) -> Contender:
        import tf_keras

        if legacy and problem.options:
            raise NotComparableError("has neither weight decay nor a moving average")
        optimizers = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
        options = dict(problem.options)
        if options.get("use_ema"):
            options["ema_overwrite_frequency"] = None  # Keras 3's default; 100 here
        optimizer = optimizers.RMSprop(
            learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON, **options
        )
        variables, batch = [tf.Variable(w) for w in problem.start], gradients()
        if not legacy:
            optimizer.build(variables)

        def step() -> None:  # what legacy returns, `tf.function` cannot
            optimizer.apply_gradients(zip(batch, variables, strict=True))

        return Contender(
            _RUN[mode](step),
            tf.test.experimental.sync_devices,
            lambda: [v.numpy() for v in variables],
        )

    large = problem.parameters >= limit.TRIAD_FROM
    return {
        **{name: functools.partial(keras_contender, name) for name in _keras.OPTIMIZERS},
        "tf_keras": functools.partial(tf_keras_contender, False),
        "tf_keras legacy": functools.partial(tf_keras_contender, True),
        limit.NAME: functools.partial(limit.fused_loop, problem),
        **({limit.TRIAD: functools.partial(limit.triad, problem)} if large else {}),
    }
