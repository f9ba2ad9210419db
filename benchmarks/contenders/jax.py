"""Contenders on JAX: keras, eager or with `stateless_apply`, and optax under `jit`."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import limit
from benchmarks.contenders import OPTIMIZERS, built, compiled
from benchmarks.measure import Builders, Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.results import BARE
from yardsticks.resident import forget_peak, peak

__all__ = ["MODES", "builders", "device", "forget_peak", "peak"]

MODES = ("eager", "jit")


def device() -> str:
    """Name the device."""
    return str(jax.devices()[0].device_kind)


def wait(variables: Sequence[Any]) -> None:
    """Return when these variables have the values of all steps so far."""
    jax.block_until_ready([v.value for v in variables])


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that creates it."""
    gradients = functools.cache(lambda: [jnp.asarray(g) for g in problem.gradients])

    def eager(name: str) -> Contender:
        peer, batch = built(name, problem), gradients()
        return Contender(
            lambda: peer.step(batch),
            lambda: wait(peer.variables),
            peer.weights,
        )

    def jitted(name: str) -> Contender:
        peer = built(name, problem)

        def stateless(state: Any, gradients: list[jax.Array]) -> Any:
            weights, slots = state
            return peer.optimizer.stateless_apply(slots, gradients, weights)

        # The variables' own arrays, which the first call donates: copies would leave the originals
        # in memory.
        state = [v.value for v in peer.variables], [v.value for v in peer.optimizer.variables]
        return _loop(stateless, state, gradients())

    keras_contender = {"eager": eager, "jit": jitted}[mode]
    return {
        **{name: functools.partial(keras_contender, name) for name in OPTIMIZERS},
        "optax jit": functools.partial(optax_jitted, problem),
        **limit.bound(problem, _device_copy if jax.default_backend() == "gpu" else None),
    }


def optax_jitted(problem: Problem, *, donated: bool = True) -> Contender:
    """Return optax's step under `jit`."""
    if problem.options:
        raise NotComparableError("has no counterpart of these options in one transformation")
    optimizer = optax.rmsprop(LEARNING_RATE, decay=0.9, eps=EPSILON)

    def stateless(state: Any, gradients: list[jax.Array]) -> Any:
        weights, slots = state
        updates, slots = optimizer.update(gradients, slots)
        return optax.apply_updates(weights, updates), slots

    weights = [jnp.array(w) for w in problem.start]
    batch = [jnp.asarray(g) for g in problem.gradients]
    return _loop(stateless, (weights, optimizer.init(weights)), batch, donated=donated)


def bare(problem: Problem) -> Builders:
    """Return what an eager step runs, and optax's step without donation."""
    from keras_rmsprop._execution.jax import _double_buffer
    from keras_rmsprop._execution.jax._programs import compiled_step

    def called() -> Contender:
        peer, batch = compiled(problem)
        step = peer.optimizer._next_step()
        buffer = _double_buffer.double_buffers[step.roster]
        static, rate = buffer.static_arguments[0], jnp.asarray(LEARNING_RATE)
        numbers = buffer.packed(step.numbers)
        # Copies: the program donates them.
        values = [v.value.copy() for v in step.roster.variables]
        spare = [x.copy() for x in buffer.of_reused(values)]
        ids = list(map(id, step.roster.variables))
        weights = [ids.index(id(v)) for v in peer.variables]

        def call() -> None:
            nonlocal values, spare
            results = compiled_step(static, spare, values, batch, [], rate, numbers)
            spare = buffer.of_reused(values)
            values = list(values)
            for place, result in zip(buffer.places, results, strict=True):
                values[place] = result

        return Contender(
            call,
            lambda: jax.block_until_ready(values),
            lambda: [jax.device_get(values[i]) for i in weights],
        )

    return {
        BARE: called,
        "optax jit": functools.partial(optax_jitted, problem),
        "optax jit, rebound": functools.partial(optax_jitted, problem, donated=False),
    }


def _loop(stateless: Any, state: Any, gradients: Any, *, donated: bool = True) -> Contender:
    """Return a contender that passes its state from call to call, donated or not."""
    call = jax.jit(stateless, donate_argnums=0 if donated else ())
    carried = [state]

    def step() -> None:
        carried[0] = call(carried[0], gradients)

    return Contender(
        step,
        lambda: jax.block_until_ready(carried[0]),
        lambda: [jax.device_get(w) for w in carried[0][0]],
    )


def _device_copy(count: int) -> Contender:
    # XLA would optimize a plain copy away.
    copy = _loop(lambda x, _: x + 1, jnp.zeros(count, jnp.float32), None)
    return copy._replace(weights=None)
