"""Contenders on TensorFlow: keras, and tf_keras's current and legacy optimizers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from benchmarks import limit
from benchmarks.contenders import OPTIMIZERS, built, compiled
from benchmarks.measure import Array, Builders, Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.results import BARE
from yardsticks import peers

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
    """Reset the peak to the bytes in use now."""
    tf.config.experimental.reset_memory_stats("CPU:0")


def peak() -> int:
    """Return the peak of the bytes in use.

    From TensorFlow's allocator: it keeps freed memory, so the system's figure is too high.
    """
    return int(tf.config.experimental.get_memory_info("CPU:0")["peak"])


def wait(variables: Sequence[Any]) -> None:
    """Return when these variables have the values of all steps so far."""
    del variables
    tf.test.experimental.sync_devices()


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that creates it."""
    gradients = functools.cache(lambda: [tf.constant(g) for g in problem.gradients])

    def contender(peer: peers.Peer) -> Contender:
        batch = gradients()
        step = RUN[mode](lambda: peer.step(batch))
        return Contender(step, tf.test.experimental.sync_devices, peer.weights)

    def of_keras(name: str) -> Contender:
        return contender(built(name, problem))

    def tf_keras(name: str) -> Contender:
        options = dict(problem.options)
        if name == "tf_keras_legacy" and options:
            raise NotComparableError("has neither weight decay nor a moving average")
        if options.get("use_ema"):
            options["ema_overwrite_frequency"] = None  # Keras 3's default; 100 here
        return contender(tf_keras_peer(name, problem.start, **options))

    large = problem.parameters >= limit.TRIAD_FROM
    return {
        **{name: functools.partial(of_keras, name) for name in OPTIMIZERS},
        "tf_keras": functools.partial(tf_keras, "tf_keras"),
        "tf_keras legacy": functools.partial(tf_keras, "tf_keras_legacy"),
        **limit.bound(problem, copy=None),
        **({limit.TRIAD: functools.partial(limit.triad, problem)} if large else {}),
    }


def bare(problem: Problem) -> Builders:
    """Return what an eager step runs: its program, called in two ways, and the step under JAX."""
    from keras_rmsprop._execution.tensorflow import _programs

    def called(*, publicly: bool) -> Contender:
        peer, batch = compiled(problem)
        step = peer.optimizer._next_step()
        inputs = _programs.inputs_of(step)
        assert inputs.latest is not None
        run, arguments = inputs.latest.program._run, [inputs.packed(step.numbers), *batch]
        call = functools.partial(run, arguments, inputs.variables, inputs.handles)
        if publicly:
            call = functools.partial(run._concrete, arguments, inputs.variables)
        return Contender(call, tf.test.experimental.sync_devices, peer.weights)

    def under_jax() -> Contender:
        from benchmarks.contenders import jax

        return jax.optax_jitted(problem)

    return {
        BARE: functools.partial(called, publicly=False),
        "concrete function": functools.partial(called, publicly=True),
        "jax.jit": under_jax,
    }


def tf_keras_peer(name: str, weights: Sequence[Array], **options: Any) -> Any:
    """Create a tf_keras optimizer with the common hyperparameters."""
    numbers = {"learning_rate": LEARNING_RATE, "rho": 0.9, "epsilon": EPSILON}
    return peers.PEERS[name](weights, **numbers, **options)
