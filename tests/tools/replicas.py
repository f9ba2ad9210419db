"""A small training, and the processes that run it on several devices, for `test_replicas`.

Devices must be configured before a framework starts, so the replicas run in processes of their
own. Each process is a script beside this module that runs many trainings and writes the weights to
a file, which the tests check.
"""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

import keras_rmsprop

Array = NDArray[Any]

BATCH = 8
STEPS = 6
# The number of steps before a training stops, to go on elsewhere. With accumulation a sum is
# incomplete then.
HALF = 3
IDS = 5
RATE = 0.05

# Options under which a step is more than a function of each replica's own gradient.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipvalue": {"clipvalue": 0.02},
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "accumulation": {"gradient_accumulation_steps": 2},
    "ema": {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3},
    "weight_decay": {"weight_decay": 0.5},
    "loss_scale_factor": {"loss_scale_factor": 8.0},
    "lazy": {"lazy": True, "centered": True},
    "all": {
        "centered": True,
        "momentum": 0.5,
        "global_clipnorm": 0.05,
        "gradient_accumulation_steps": 2,
        "use_ema": True,
        "ema_momentum": 0.7,
        "weight_decay": 0.5,
        "skip_nonfinite": True,
    },
    "diagnostics": {
        "global_clipnorm": 0.05,
        "gradient_accumulation_steps": 2,
        "weight_decay": 0.5,
        "diagnostics": {"every": 2, "histograms": True},
    },
    "diagnostics, lazy": {"lazy": True, "diagnostics": {"every": 2}},
    "groups": {
        "momentum": 0.5,
        "global_clipnorm": 0.05,
        "transform": "centralize",
        "groups": {
            ".*/kernel": {"learning_rate": 0.5, "rho": 0.5, "weight_decay": 0.5},
            ".*/bias": {"learning_rate": 2.0, "momentum": 0.0, "l2": 0.1, "transform": None},
        },
    },
}


class Data(NamedTuple):
    """The ids and targets of all batches, in order."""

    ids: Array
    targets: Array

    def batch(self, t: int) -> "Data":
        """The batch of step `t`, 0 for the first."""
        rows = slice(t * BATCH, (t + 1) * BATCH)
        return Data(self.ids[rows], self.targets[rows])


def data(bad: int | None = None) -> Data:
    """Return the data, in which ids repeat within a replica's share and across replicas.

    Args:
        bad: which example of the third batch has a NaN as its target.
    """
    rng = np.random.default_rng(1)
    ids = rng.integers(0, IDS, size=(BATCH * STEPS, 2))
    targets = np.sin(ids).sum(axis=1, keepdims=True) + rng.normal(size=(BATCH * STEPS, 1))
    if bad is not None:
        targets[2 * BATCH + bad] = np.nan
    return Data(ids, targets)


def model() -> keras.Sequential:
    """Make a network with an embedding table, the same weights at every call."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((2,), dtype="int64", name="ids"),
        keras.layers.Embedding(IDS, 2, name="table"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(4, activation="tanh", name="hidden"),
        keras.layers.Dense(1, name="last"),
    ]
    return keras.Sequential(layers, name="model")


def loss_sum(network: keras.Model, ids: Any, targets: Any) -> Any:
    """Return the sum of squared errors divided by the size of the whole batch."""
    return keras.ops.sum(keras.ops.square(network(ids) - targets)) / BATCH


def optimizer(
    make: Callable[..., keras.optimizers.Optimizer] = keras_rmsprop.RMSprop, **options: Any
) -> keras.optimizers.Optimizer:
    """Make an optimizer; by default this package's."""
    return make(**{"learning_rate": RATE, **options})


def lists(arrays: Sequence[Array]) -> list[Any]:
    """Return arrays as nested lists, which JSON holds without loss."""
    return [np.asarray(array).tolist() for array in arrays]


def state_by_name(optimizer: keras_rmsprop.RMSprop, model_name: str) -> dict[str, Any]:
    """Return an optimizer's state by name, without the model's name, which a file drops."""
    # Replicas decay every row at every step; one device decays only the rows of a batch.
    optimizer.settle()
    prefix = f"{model_name}/"
    return {name.removeprefix(prefix): x.tolist() for name, x in optimizer.state_dict().items()}


def statistics(network: keras.Model) -> dict[str, float]:
    """Return the statistics of all variables, none if the optimizer has no diagnostics."""
    if getattr(network.optimizer, "_watching", None) is None:
        return {}
    report = network.optimizer.diagnostics()
    return {
        name.replace(f"{network.name}/", ""): value for name, value in report.flat(".*").items()
    }


def arrays(lists: Sequence[Any]) -> list[Array]:
    """Return nested lists as float64 arrays."""
    return [np.asarray(values, np.float64) for values in lists]


def start(module: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start a script of the tests in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.tools.{module}", *arguments],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(process: "subprocess.Popen[str]", path: pathlib.Path, timeout: float) -> Any:
    """Wait for a process and return what it has written to `path`."""
    try:
        _, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-4000:]
    return json.loads(path.read_text())
