"""The content of the files beside this one, and the script that wrote them.

They were written by version 0.1.0 (Keras 3.15.1, TensorFlow 2.21, TensorFlow backend), and are
kept to test that every later version can read them. Run `python -m tests.state.data.write FOLDER`
for files of the present version; never overwrite the old ones.
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_rmsprop
from tests.tools.models import Array

HERE = Path(__file__).parent

# The arguments of the optimizer in each file.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "momentum": 0.5,
        "centered": True,
        "use_ema": True,
        "gradient_accumulation_steps": 3,
        "nesterov": True,
        "lr_in_momentum": False,
        "epsilon_inside_sqrt": False,
        "initial_square_average": 1.0,
        "skip_nonfinite": True,
    },
    "lazy": {"lazy": True, "bias_correction": True},
}

SHAPES = {
    "model/hidden/kernel": (3, 4),
    "model/hidden/bias": (4,),
    "model/last/kernel": (4, 1),
    "model/last/bias": (1,),
}


def network() -> keras.Sequential:
    """Return the network, with other weights than in the files."""
    layers = [
        keras.Input((3,), name="x"),
        keras.layers.Dense(4, activation="relu", name="hidden"),
        keras.layers.Dense(1, name="last"),
    ]
    return keras.Sequential(layers, name="model")


def optimizer(name: str) -> keras_rmsprop.RMSprop:
    """Return the optimizer of a file, with other state than in the file."""
    return keras_rmsprop.RMSprop(**OPTIMIZERS[name])


def weights() -> list[Array]:
    """Return the network's weights in the files."""
    return [_numbers(shape, 100 + i) for i, shape in enumerate(SHAPES.values())]


def state(name: str) -> dict[str, Array]:
    """Return the optimizer's state in a file, by the names of `state_dict`."""
    numbers: dict[str, Array] = {"iteration": np.asarray(5), "learning_rate": np.asarray(2.0**-5)}
    if name == "everything":
        numbers["skipped_steps"] = np.asarray(2)
    kinds = {
        "plain": ["square_average"],
        "everything": ["square_average", "gradient_average", "momentum", "accumulator", "average"],
        "lazy": ["square_average"],
    }[name]
    for i, (variable, shape) in enumerate(SHAPES.items()):
        for j, kind in enumerate(kinds):
            numbers[f"{variable}/{kind}"] = _numbers(shape, i + 10 * j)
        if name == "lazy":
            rows = np.arange(shape[0])
            numbers |= {
                f"{variable}/updates": np.asarray(5 + i),
                f"{variable}/correction": np.asarray(-0.5),
                f"{variable}/row_updates": 1 + rows,
                f"{variable}/row_corrections": -rows / 8,
            }
    return numbers


def _numbers(shape: tuple[int, ...], start: int) -> Array:
    """Return numbers that float32 holds exactly."""
    return ((start + np.arange(np.prod(shape))) / 8).astype(np.float32).reshape(shape)


def main(folder: Path) -> None:
    """Write a file of weights for each optimizer, and one of a whole model."""
    for name in OPTIMIZERS:
        model = network()
        model.set_weights(weights())
        model.compile(optimizer(name), loss="mse")
        model.optimizer.build(model.trainable_variables)
        model.optimizer.load_state_dict(state(name))
        model.save_weights(folder / f"{name}.weights.h5")
        if name == "everything":
            model.save(folder / f"{name}.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
