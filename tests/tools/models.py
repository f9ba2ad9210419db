"""A small model, its data, and the comparison of two trainings."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from yardsticks.agreement import TOLERANCE

Array = NDArray[Any]

BATCH = 8
BATCHES = 4


def data() -> tuple[Array, Array]:
    """Return inputs of 3 features and one target each, in floatx, the same at every call."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(BATCH * BATCHES, 3)).astype(keras.config.floatx())
    return x, np.sin(x).sum(axis=1, keepdims=True)


class WithPath(keras.Variable):
    """A variable with a given path."""

    def __init__(self, path: str, value: Array | None = None) -> None:
        value = np.ones(1, "float32") if value is None else value
        super().__init__(value, dtype=value.dtype.name, name=path.rpartition("/")[2])
        self._path = path


def model(**last: Any) -> keras.Sequential:
    """Make a network of two dense layers, the same weights at every call.

    Args:
        **last: arguments of the last layer.
    """
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((3,), name="x"),
        keras.layers.Dense(4, activation="relu", name="hidden"),
        keras.layers.Dense(1, name="last", **last),
    ]
    return keras.Sequential(layers, name="model")


def fit(
    network: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    epochs: int = 2,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **compiling: Any,
) -> list[Array]:
    """Compile and train a network on `data`, in order, and return its weights."""
    network.compile(optimizer, loss="mse", **compiling)
    return go_on(network, epochs=epochs, callbacks=callbacks)


def go_on(
    network: keras.Model,
    *,
    epochs: int = 2,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> list[Array]:
    """Train a compiled network on `data`, in order, and return its weights."""
    x, y = data()
    network.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return network.get_weights()


def values(variables: Iterable[Any]) -> list[Array]:
    """Return the values of variables, copied."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def tensors(arrays: Iterable[Any]) -> list[Any]:
    """Return arrays as the backend's tensors, each in its own dtype; None stays None."""
    return [
        None if array is None else keras.ops.convert_to_tensor(array, dtype=np.asarray(array).dtype)
        for array in arrays
    ]


def assert_same(
    got: Iterable[Any],
    want: Iterable[Any],
    start: Iterable[Any],
    *,
    steps: int,
    precision: str | None = None,
) -> None:
    """Fail unless two trainings from `start` end with the same weights.

    Args:
        got: the arrays to check.
        want: the arrays they should be, of the same dtype or wider.
        start: the arrays before the first step.
        steps: how many steps were made.
        precision: the dtype whose tolerance counts; by default that of `got`.
    """
    for mine, theirs, before in zip(got, want, start, strict=True):
        mine = np.asarray(mine)
        travelled = np.max(np.abs(theirs - before))
        assert travelled > 0.0, "nothing moved, so agreement proves nothing"
        rounding = steps * np.spacing(np.abs(mine).max())
        allowed = TOLERANCE[precision or str(mine.dtype)] * travelled + rounding
        np.testing.assert_allclose(mine, theirs, rtol=0.0, atol=allowed)


def assert_identical(got: Iterable[Any], want: Iterable[Any]) -> None:
    """Fail unless all arrays are equal to the last bit."""
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, theirs)
