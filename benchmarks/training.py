"""Time the steps of `model.fit` for an MLP, a small ResNet and an LSTM."""

import functools
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import keras
import numpy as np

from benchmarks.contenders import OPTIMIZERS
from benchmarks.measure import Array, Contender, Settings, compare
from benchmarks.problems import EPSILON, LEARNING_RATE, held_to, largest_deviation
from benchmarks.registry import Row
from benchmarks.results import Line
from benchmarks.steps import NO_SLOWER

# Rounding differences of the optimizer propagate through the model into the next gradient.
TOLERANCE = 1e-3
CLASSES = 10


class Task(NamedTuple):
    """A model to be built with `keras` or `tf_keras`, and the batches of one `fit`."""

    model: Callable[[ModuleType], Any]
    inputs: tuple[int, ...]
    batch: int = 32
    steps: int = 10

    def data(self) -> tuple[Array, Array]:
        """Return random samples for one `fit`."""
        rng = np.random.default_rng(0)
        count = self.batch * self.steps
        x = rng.standard_normal((count, *self.inputs), np.float32)
        return x, rng.integers(0, CLASSES, count).astype(np.float32)


def _mlp(k: ModuleType) -> Any:
    hidden = [k.layers.Dense(units, activation="relu") for units in (256, 128)]
    return k.Sequential([k.Input((784,)), *hidden, k.layers.Dense(CLASSES)])


def _resnet(k: ModuleType) -> Any:
    inputs = k.Input((16, 16, 3))
    x = k.layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    for channels in (16, 32, 64):
        x = k.layers.Conv2D(channels, 1, strides=2)(x)
        for _ in range(2):
            y = k.layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
            y = k.layers.Conv2D(channels, 3, padding="same")(y)
            x = k.layers.Activation("relu")(k.layers.Add()([x, y]))
    return k.Model(inputs, k.layers.Dense(CLASSES)(k.layers.GlobalAveragePooling2D()(x)))


def _lstm(k: ModuleType) -> Any:
    return k.Sequential([k.Input((32, 16)), k.layers.LSTM(64), k.layers.Dense(CLASSES)])


TASKS = {
    "mlp": Task(_mlp, (784,)),
    "resnet": Task(_resnet, (16, 16, 3)),
    "lstm": Task(_lstm, (32, 16)),
}


def compiled(model: Any, k: ModuleType, optimizer: Callable[..., Any]) -> Any:
    """Compile a model with an optimizer that has the common hyperparameters."""
    model.compile(
        optimizer=optimizer(learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON),
        loss=k.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def rows(backend: str) -> Iterator[Row]:
    """One row per model."""
    for case in TASKS:
        measure = functools.partial(_measure, backend, case)
        yield Row("training", "fit", "plain", case, measure, quick=case == "mlp")


def _measure(backend: str, case: str, settings: Settings) -> list[Line]:
    optimizers = {name: (keras, made) for name, made in OPTIMIZERS.items()}
    if backend == "tensorflow":
        import tf_keras

        optimizers["tf_keras"] = tf_keras, tf_keras.optimizers.RMSprop
    return compared(case, optimizers, settings, NO_SLOWER)


def compared(
    case: str,
    optimizers: Mapping[str, tuple[ModuleType, Callable[..., Any]]],
    settings: Settings,
    targets: Mapping[str, float],
) -> list[Line]:
    """Time `fit` with several optimizers, after checking that they train alike.

    Args:
        case: the name of a task.
        optimizers: for each contender `keras` or `tf_keras`, and what makes the optimizer.
        settings: how long to measure.
        targets: as for `compare`.
    """
    task = TASKS[case]
    x, y = task.data()
    keras.utils.set_random_seed(0)
    start = [np.asarray(w) for w in task.model(keras).get_weights()]
    # The weights after each contender's first `fit`: all must agree with the first one's.
    arrived: list[list[Array]] = []

    def build(k: ModuleType, optimizer: Callable[..., Any]) -> Contender:
        model = compiled(task.model(k), k, optimizer)
        model.set_weights(start)
        return Contender(
            lambda: model.fit(x, y, task.batch, epochs=1, shuffle=False, verbose=0),
            lambda: None,  # `fit` ends by reading the loss
            model.get_weights,
            task.steps,
        )

    def check(_: str, contender: Contender) -> float:
        assert contender.weights is not None
        contender.step()
        got = list(contender.weights())
        arrived.append(got)
        return held_to(largest_deviation(got, arrived[0], start, task.steps), TOLERANCE)

    builders = {name: functools.partial(build, *how) for name, how in optimizers.items()}
    return compare(builders, check, settings, targets)
