"""Contenders on TensorFlow: keras, and tf_keras old and new."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from benchmarks import limit
from benchmarks.contenders import OPTIMIZERS, Builders, build, tensors
from benchmarks.measure import Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem

# How to run a function of tensors in each mode.
RUN: dict[str, Callable[[Any], Any]] = {
    "eager": lambda function: function,
    "graph": functools.partial(tf.function, autograph=False),
    "xla": functools.partial(tf.function, autograph=False, jit_compile=True),
}
MODES = tuple(RUN)


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


def tf_keras_optimizer(legacy: bool, variables: list[tf.Variable], **options: Any) -> Any:
    """Make an optimizer of tf_keras with its slots."""
    import tf_keras

    optimizers = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
    optimizer = optimizers.RMSprop(learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON, **options)
    (optimizer._create_all_weights if legacy else optimizer.build)(variables)
    return optimizer


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that makes it."""
    gradients = functools.cache(lambda: tensors(problem.gradients))

    def keras_contender(name: str) -> Contender:
        built, batch = build(name, problem), gradients()
        step = RUN[mode](lambda: built.optimizer.apply(batch, built.variables))
        return Contender(step, tf.test.experimental.sync_devices, built.weights)

    def tf_keras_contender(legacy: bool) -> Contender:
        if legacy and problem.options:
            raise NotComparableError("has neither weight decay nor a moving average")
        options = dict(problem.options)
        if options.get("use_ema"):
            options["ema_overwrite_frequency"] = None  # Keras 3's default; 100 here
        variables, batch = [tf.Variable(w) for w in problem.start], gradients()
        optimizer = tf_keras_optimizer(legacy, variables, **options)

        def step() -> None:  # what legacy returns, `tf.function` cannot
            optimizer.apply_gradients(zip(batch, variables, strict=True))

        return Contender(
            RUN[mode](step),
            tf.test.experimental.sync_devices,
            lambda: [v.numpy() for v in variables],
        )

    large = problem.parameters >= limit.TRIAD_FROM
    return {
        **{name: functools.partial(keras_contender, name) for name in OPTIMIZERS},
        "tf_keras": functools.partial(tf_keras_contender, False),
        "tf_keras legacy": functools.partial(tf_keras_contender, True),
        limit.LOOP: functools.partial(limit.fused_loop, problem),
        **({limit.TRIAD: functools.partial(limit.triad, problem)} if large else {}),
    }
