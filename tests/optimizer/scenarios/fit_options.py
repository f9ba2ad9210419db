"""Options of `compile` and `fit`."""

import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario
from tests.tools import models


@scenario()
def run_eagerly(RMSprop: Any, folder: Path) -> Any:
    return models.fit(models.model(), RMSprop(0.01), run_eagerly=True)


@scenario(backends=("tensorflow", "jax"))
def several_steps_in_one_execution(RMSprop: Any, folder: Path) -> Any:
    return models.fit(models.model(), RMSprop(0.01, momentum=0.5), steps_per_execution=3)


@scenario(backends=("tensorflow", "jax"))
def jit_compile_is_switched_on_and_off(RMSprop: Any, folder: Path) -> Any:
    return [
        models.fit(models.model(), RMSprop(0.01), jit_compile=True),
        models.fit(models.model(), RMSprop(0.01), jit_compile=False),
    ]


@scenario()
def train_on_batch_and_fit_take_turns(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.compile(RMSprop(0.01, momentum=0.5), loss="mse")
    x, y = models.data()
    losses = []
    for _ in range(2):
        losses.append(network.train_on_batch(x[:8], y[:8]))
        losses.append(network.test_on_batch(x[8:], y[8:]))
        models.go_on(network, epochs=1)
    return [losses, network.get_weights()]


@scenario()
def gradients_accumulate_over_a_last_batch_that_is_smaller(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.compile(RMSprop(0.01, gradient_accumulation_steps=3), loss="mse")
    x, y = models.data()
    network.fit(x, y, batch_size=5, epochs=3, shuffle=False, verbose=0)
    return [network.get_weights(), int(network.optimizer.iterations)]


@scenario()
def schedules_of_keras_in_fit(RMSprop: Any, folder: Path) -> Any:
    schedules = keras.optimizers.schedules
    kinds = [
        schedules.PiecewiseConstantDecay([2, 5], [0.01, 0.005, 0.001]),
        schedules.CosineDecay(0.0, 6, warmup_target=0.01, warmup_steps=2),
    ]
    return [models.fit(models.model(), RMSprop(kind)) for kind in kinds]


@scenario()
def a_schedule_replaces_a_rate(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01))
    network.optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(0.01, 100)
    network.compile(network.optimizer, loss="mse")
    return models.go_on(network)


@scenario()
def a_generator_feeds_batches_of_any_size(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.compile(RMSprop(0.01), loss="mse")
    x, y = models.data()

    def batches() -> Any:
        for size in (3, 8, 1, 5):
            yield x[:size], y[:size]

    network.fit(batches(), verbose=0)
    return network.get_weights()


@scenario()
def a_dataset_of_tensorflow_feeds_fit(RMSprop: Any, folder: Path) -> Any:
    import tensorflow as tf

    network = models.model()
    network.compile(RMSprop(0.01), loss="mse")
    dataset = tf.data.Dataset.from_tensor_slices(models.data()).batch(5).repeat()
    network.fit(dataset, steps_per_epoch=4, epochs=2, verbose=0)
    return network.get_weights()


@scenario(backends=("torch",))
def a_loader_of_torch_feeds_fit(RMSprop: Any, folder: Path) -> Any:
    import torch

    network = models.model()
    network.compile(RMSprop(0.01), loss="mse")
    tensors = [torch.as_tensor(array) for array in models.data()]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=5)
    network.fit(loader, epochs=2, verbose=0)
    return network.get_weights()


@scenario()
def a_dataset_of_python_with_workers_feeds_fit(RMSprop: Any, folder: Path) -> Any:
    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return models.BATCHES

        def __getitem__(self, i: int) -> Any:
            x, y = models.data()
            return x[8 * i : 8 * i + 8], y[8 * i : 8 * i + 8]

    network = models.model()
    network.compile(RMSprop(0.01), loss="mse")
    network.fit(Batches(workers=2, max_queue_size=2), epochs=2, shuffle=False, verbose=0)
    # The order of the workers' batches is not determined.
    return int(network.optimizer.iterations)


@scenario()
def weights_for_samples_and_classes(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.compile(RMSprop(0.01), loss="mse", weighted_metrics=["mae"])
    x, y = models.data()
    weights = np.linspace(0.0, 1.0, len(x)).astype("float32")
    network.fit(x, y, sample_weight=weights, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return network.get_weights()


@scenario()
def a_training_in_a_thread_of_its_own(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.compile(RMSprop(0.01), loss="mse")
    models.go_on(network, epochs=1)
    thread = threading.Thread(target=models.go_on, args=(network,))
    thread.start()
    thread.join()
    return models.go_on(network, epochs=1)


# On JAX the model stays broken with Keras's class too.
@scenario(backends=("tensorflow", "torch"))
def a_model_is_fitted_after_a_fit_that_failed(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.compile(RMSprop(0.01), loss="mse")
    models.go_on(network)
    x, y = models.data()
    try:
        network.fit(x[:, :2], y, verbose=0)
    except Exception:
        pass
    else:
        raise AssertionError("inputs of another shape were accepted")
    return models.go_on(network)
