"""A user's function that makes a step, traced where the backend traces."""

from collections.abc import Callable
from typing import Any

import keras


def traced_step(optimizer: Any, variable: keras.Variable) -> Callable[[Any], None]:
    """Return a function that makes a step of one variable with a gradient."""
    if keras.backend.backend() == "torch":
        return lambda gradient: optimizer.apply([gradient], [variable])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda g: optimizer.apply([g], [variable]), autograph=False)
    import jax

    stateless = jax.jit(lambda g, state, weights: optimizer.stateless_apply(state, [g], weights))

    def step(gradient: Any) -> None:
        state = [v.value for v in optimizer.variables]
        weights, state = stateless(gradient, state, [variable.value])
        owners = [variable, *optimizer.variables]
        for owner, value in zip(owners, [*weights, *state], strict=True):
            owner.assign(value)

    return step
