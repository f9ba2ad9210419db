"""How a step runs on JAX."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras

from keras_rmsprop._execution._plain import run_plainly

if TYPE_CHECKING:
    import jax

    from keras_rmsprop._optimizer import RMSprop


def run(optimizer: "RMSprop", gradients: Sequence["jax.Array | None"]) -> None:
    """Make one step."""
    write(run_plainly(optimizer, gradients, read))


def read(variable: keras.Variable) -> "jax.Array":
    """Return the variable's current value, the traced one inside a stateless scope."""
    return variable.value


def write(pairs: Sequence[tuple[Any, "jax.Array"]]) -> None:
    """Assign each value to its variable."""
    for variable, value in pairs:
        variable.assign(value)


def copy(value: "jax.Array") -> "jax.Array":
    """Return an array of its own, so that donating one buffer does not take the other."""
    return value.copy()


def dense(gradient: Any, variable: keras.Variable) -> "jax.Array":
    """Return the gradient as one value per weight: on JAX it already is."""
    return gradient
