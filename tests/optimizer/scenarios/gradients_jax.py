"""Gradients in the forms that JAX's users pass."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario


def _steps(optimizer: Any, gradients: list[Any], dtype: str = "float32") -> list[Any]:
    """Make a step with each gradient; return the weight after every step."""
    weight = keras.Variable(np.linspace(-1.0, 1.0, 12).reshape(4, 3), dtype=dtype)
    seen = []
    for gradient in gradients:
        optimizer.apply([gradient], [weight])
        seen.append(np.array(weight))
    return seen


@scenario(backends=("jax",))
def gradients_are_sparse_with_a_repeated_index(RMSprop: Any, folder: Path) -> Any:
    import jax.numpy as jnp
    from jax.experimental import sparse

    indices = jnp.array([[0, 0], [2, 1], [0, 0]])
    gradient = sparse.BCOO((jnp.array([1.0, -2.0, 0.5]), indices), shape=(4, 3))
    # With x64 on, as in these tests, Keras multiplies a sparse array by float64 only.
    return _steps(RMSprop(lambda: 0.1), [gradient] * 3, "float64")


@scenario(backends=("jax",))
def gradients_are_lists_and_arrays_of_numpy(RMSprop: Any, folder: Path) -> Any:
    array = np.arange(12, dtype="float32").reshape(4, 3)
    return _steps(RMSprop(0.1), [array.tolist(), array, array.tolist()])


@scenario(backends=("jax",))
def gradients_are_numbers(RMSprop: Any, folder: Path) -> Any:
    weight = keras.Variable(1.0)
    optimizer = RMSprop(0.1)
    for gradient in (2.0, 3, np.float32(0.5)):
        optimizer.apply([gradient], [weight])
    return [np.array(weight)]


@scenario(backends=("jax",))
def different_gradients_are_missing_at_every_step_on_jax(RMSprop: Any, folder: Path) -> Any:
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.normal(size=(2, 2)), dtype="float32") for _ in range(8)]
    optimizer = RMSprop(0.1)
    optimizer.build(variables)
    for _ in range(20):
        there = rng.random(8) < 0.5
        there[0] = True
        gradients = [
            keras.ops.convert_to_tensor(rng.normal(size=(2, 2)).astype("float32")) if t else None
            for t in there
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.apply(gradients, variables)
    return [np.array(v) for v in variables]


@scenario(backends=("jax",))
def weights_are_held_and_put_back(RMSprop: Any, folder: Path) -> Any:
    import jax

    weight = keras.Variable(np.ones((2, 2)), dtype="float32")
    optimizer = RMSprop(0.1)
    held = []
    for _ in range(6):
        optimizer.apply([np.ones((2, 2), "float32")], [weight])
        held.append(weight.value)
    weight.assign(held[2])
    for _ in range(3):
        optimizer.apply([np.ones((2, 2), "float32")], [weight])
    return [*(np.array(x) for x in held), np.array(jax.device_get(weight.value))]
