"""Train in one of two processes and write the results to a file, for `test_replicas`.

TF_CONFIG=... python -m tests.tools.replicas_workers <file> <folder of checkpoints>
"""

import json
import os
import pathlib
import sys
from typing import Any

import keras
import tensorflow as tf

from tests.tools import replicas
from tests.tools.replicas import HALF, OPTIONS, STEPS
from tests.tools.replicas_tensorflow import by_fit, compiled, on_one, on_two, ours, state


def values(network: keras.Model) -> list[Any]:
    """Return the weights that this worker holds."""
    return replicas.lists([v.value.values[0].numpy() for v in network.trainable_variables])


def trained(strategy: tf.distribute.Strategy, name: str) -> dict[str, Any]:
    """Train alone on whole batches, and together on shares of them."""
    data = replicas.data()
    one = compiled(ours(**OPTIONS[name], jit_compile=False))
    begin = replicas.lists(one.get_weights())
    on_one(one, data)
    with strategy.scope():
        two = compiled(ours(**OPTIONS[name]))
    on_two(strategy, two, data)
    return {
        "start": begin,
        "one": replicas.lists(one.get_weights()),
        "two": [values(two)],
        "states": [state(one), state(two)],
    }


def error_of_fit(strategy: tf.distribute.Strategy) -> str:
    """Return the error of `fit` with Keras's own optimizer."""
    with strategy.scope():
        network = replicas.model()
        network.compile(keras.optimizers.RMSprop(), loss="mse")
    try:
        by_fit(network, replicas.data())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def error_of_a_dead_worker(
    strategy: tf.distribute.Strategy, folder: pathlib.Path, is_chief: bool
) -> str:
    """Train with checkpoints until the other worker dies; return the error."""
    with strategy.scope():
        network = compiled(ours(**OPTIONS["all"]))
    checkpoint = tf.train.Checkpoint(model=network, optimizer=network.optimizer)
    # All workers take part in a save; only the chief's is kept.
    folder = folder / ("chief" if is_chief else "other")
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=2)
    try:
        for t in range(STEPS):
            on_two(strategy, network, replicas.data(), range(t, t + 1))
            manager.save(t + 1)
            if t + 1 == HALF and not is_chief:
                os._exit(1)
    except tf.errors.OpError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Run all trainings."""
    keras.config.set_floatx("float64")
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    is_chief = strategy.cluster_resolver.task_id == 0
    found = {name: trained(strategy, name) for name in ("plain", "all")}
    found["error of fit"] = error_of_fit(strategy)
    found["error of a dead worker"] = error_of_a_dead_worker(strategy, folder, is_chief)
    path.write_text(json.dumps(found))
    # A normal exit would wait for the worker that has died.
    os._exit(0)


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
