"""Contenders on JAX: keras, eager or through `stateless_apply`, and optax under `jit`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import limit
from benchmarks.contenders import Builders, _keras
from benchmarks.measure import Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.resident import forget_peak, peak

__all__ = ["MODES", "builders", "device", "forget_peak", "peak"]

MODES = ("eager", "jit")


def device() -> str:
    """Name the device."""
    return str(jax.devices()[0].device_kind)


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that makes it."""

    @functools.cache
    def gradients() -> list[jax.Array]:
        return [jnp.asarray(g) for g in problem.gradients]

    def eager(name: str) -> Contender:
        built, batch = _keras.build(name, problem), gradients()
        return Contender(
            lambda: built.optimizer.apply(batch, built.variables),
            lambda: jax.block_until_ready([v.value for v in built.variables]),
            built.weights,
        )

    def jitted(name: str) -> Contender:
        built = _keras.build(name, problem)

        def stateless(state: Any, gradients: list[jax.Array]) -> Any:
            weights, slots = state
            return built.optimizer.stateless_apply(slots, gradients, weights)

        # The variables' own arrays, which the first call takes: a copy kept in them would be
        # memory that the step does not need.
        weights = [v.value for v in built.variables]
        return _loop(
            stateless, (weights, [v.value for v in built.optimizer.variables]), gradients()
        )

    def optax_contender() -> Contender:
        if problem.options:
            raise NotComparableError("has no counterpart of these options in one transformation")
        optimizer = optax.rmsprop(LEARNING_RATE, decay=0.9, eps=EPSILON)

        def stateless(state: Any, gradients: list[jax.Array]) -> Any:
            weights, slots = state
            updates, slots = optimizer.update(gradients, slots)
            return optax.apply_updates(weights, updates), slots

        weights = [jnp.array(w) for w in problem.start]
        return _loop(stateless, (weights, optimizer.init(weights)), gradients())

    keras_contender = {"eager": eager, "jit": jitted}[mode]
    bound = _device_copy if jax.default_backend() == "gpu" else limit.fused_loop
    bound_name = "device copy" if jax.default_backend() == "gpu" else limit.NAME
    return {
        **{name: functools.partial(keras_contender, name) for name in _keras.OPTIMIZERS},
        "optax jit": optax_contender,
        bound_name: functools.partial(bound, problem),
    }


def _loop(stateless: Any, state: Any, gradients: list[jax.Array]) -> Contender:
    """A contender that carries its state from call to call, donated."""
    compiled = jax.jit(stateless, donate_argnums=0)
    carried = [state]

    def step() -> None:
        carried[0] = compiled(carried[0], gradients)

    return Contender(
        step,
        lambda: jax.block_until_ready(carried[0]),
        lambda: [jax.device_get(w) for w in carried[0][0]],
    )


def _device_copy(problem: Problem) -> Contender:
    """The limit on an accelerator: 10 bytes per parameter read and as many written."""
    if problem.options:
        raise NotComparableError("the copy stands for the plain step only")
    # Not a plain copy, which XLA would leave out.
    increment = jax.jit(lambda x: x + 1, donate_argnums=0)
    carried = [jnp.zeros(max(1, 5 * problem.parameters // 2), jnp.float32)]

    def step() -> None:
        carried[0] = increment(carried[0])

    return Contender(step, lambda: carried[0].block_until_ready(), weights=None)
