"""Learn item prices from baskets: the dense rule's steps at a cost set by the rows touched.

A basket consists of four items, drawn by Zipf's law, and the mean of their prices. The model is an
embedding table, averaged over the basket, and a dense head. It is trained three times on the same
batches: with `lazy=True`, with the dense rule (`lazy=False`) and with keras.optimizers.RMSprop.

The lazy and the dense rule must give the same weights: at no step may a weight of the table differ
by more than 2e-6 of the longest distance that any weight of the table has travelled, plus one ulp
of its largest weight per step, all in float32. Keras's class gives different weights, because it
squares the gradients of repeated items before summing them; if no batch repeats an item, it takes
the same steps.

A step is then timed for tables of 10,000 to 1,000,000 items: the time depends on the items in a
batch with `lazy=True`, on the vocabulary with the other two.
"""

import os

# Only TensorFlow has sparse gradients.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import itertools
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
import tensorflow as tf
from _common import OTHER, PEER, RMSPROP, TARGET, Array, Report, run, value_of
from matplotlib import pyplot as plt
from numpy.typing import NDArray

import keras_rmsprop

WIDTH, BASKETS, ITEMS = 64, 256, 4
LEARNING_RATE = 0.01
TOLERANCE = 2e-6

LAZY, DENSE, KERAS = "lazy=True", "lazy=False", "Keras"
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    LAZY: lambda: keras_rmsprop.RMSprop(LEARNING_RATE, lazy=True),
    DENSE: lambda: keras_rmsprop.RMSprop(LEARNING_RATE),
    KERAS: lambda: keras.optimizers.RMSprop(LEARNING_RATE),
}
COLOURS = {LAZY: RMSPROP, DENSE: OTHER, KERAS: PEER}


# Vocabulary and steps of the comparison of weights, vocabularies of the timing.
TRAINED, STEPS = 10_000, 200
TIMED = (10_000, 30_000, 100_000, 300_000, 1_000_000)
QUICK_TRAINED, QUICK_STEPS, QUICK_TIMED = 2_000, 40, (2_000, 10_000)
# The number of timed steps, fewer if the seconds run out first.
WARM_UP, MOST_STEPS, FEWEST_STEPS, SECONDS, QUICK_SECONDS = 2, 100, 5, 0.5, 0.05


class Batch(NamedTuple):
    """Baskets, (BASKETS, ITEMS), and their mean prices, (BASKETS, 1)."""

    ids: NDArray[np.int32]
    prices: Array


class Comparison(NamedTuple):
    """The results of trainings on the same batches."""

    # For each optimizer and step: the loss.
    losses: dict[str, Array]
    # For each optimizer and step: the largest difference of a weight of the table from the
    # dense rule's, relative to the longest distance travelled.
    differences: dict[str, Array]
    # For each step: the difference that "the same weights" allows.
    allowed: Array


def zipf_batches(vocabulary: int, count: int) -> list[Batch]:
    """Draw baskets by Zipf's law: the k-th item is 1 / k times as frequent as the first."""
    rng = np.random.default_rng(0)
    draws = (vocabulary + 1.0) ** rng.random((count, BASKETS, ITEMS)) - 1.0
    return priced(np.minimum(draws, vocabulary - 1), vocabulary)


def batches_without_repeats(vocabulary: int, count: int) -> list[Batch]:
    """Draw baskets so that no batch repeats an item."""
    rng = np.random.default_rng(0)
    shape = (count, BASKETS, ITEMS)
    draws = [rng.choice(vocabulary, BASKETS * ITEMS, replace=False) for _ in range(count)]
    return priced(np.reshape(draws, shape), vocabulary)


def priced(ids: NDArray[Any], vocabulary: int) -> list[Batch]:
    """Add the mean price to each basket; an item's price is standard normal."""
    prices = np.random.default_rng(1).standard_normal(vocabulary, np.float32)
    return [Batch(i, prices[i].mean(axis=1, keepdims=True)) for i in ids.astype(np.int32)]


class Training:
    """A model of `vocabulary` items, always with the same initial weights, and its optimizer."""

    def __init__(self, vocabulary: int, optimizer: Any) -> None:
        self.table = keras.layers.Embedding(
            vocabulary, WIDTH, embeddings_initializer=keras.initializers.RandomUniform(seed=0)
        )
        head = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=0))
        model = keras.Sequential(
            [
                keras.Input((ITEMS,), dtype="int32"),
                self.table,
                keras.layers.GlobalAveragePooling1D(),
                head,
            ]
        )
        variables = model.trainable_variables
        optimizer.build(variables)

        def step(ids: tf.Tensor, prices: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(ids) - prices))
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        self._step = tf.function(step, autograph=False)

    def step(self, batch: Batch) -> float:
        """Make a step and return the loss before it."""
        return float(self._step(tf.constant(batch.ids), tf.constant(batch.prices)))

    @property
    def weights(self) -> Array:
        """The table."""
        return value_of(self.table.embeddings)


def compare(vocabulary: int, batches: list[Batch], names: Iterable[str]) -> Comparison:
    """Train with the named optimizers, including the dense rule, on the same batches."""
    trainings = {name: Training(vocabulary, OPTIMIZERS[name]()) for name in names}
    losses: dict[str, list[float]] = {name: [] for name in trainings}
    differences: dict[str, list[float]] = {name: [] for name in trainings}
    allowed = []
    before = trainings[DENSE].weights
    travelled = np.zeros(before.shape)
    for t, batch in enumerate(batches, start=1):
        for name, training in trainings.items():
            losses[name].append(training.step(batch))
        now = trainings[DENSE].weights
        travelled += np.abs(now - before)
        before = now
        longest = travelled.max()
        for name, training in trainings.items():
            differences[name].append(np.abs(training.weights - now).max() / longest)
        ulp = float(np.spacing(np.float32(np.abs(now).max())))
        allowed.append(TOLERANCE + t * ulp / longest)
    return Comparison(
        {name: np.array(rows) for name, rows in losses.items()},
        {name: np.array(rows) for name, rows in differences.items()},
        np.array(allowed),
    )


def milliseconds(vocabulary: int, name: str, seconds: float) -> float:
    """Return the median time of a step, including forward and backward pass."""
    training = Training(vocabulary, OPTIMIZERS[name]())
    batches = itertools.cycle(zipf_batches(vocabulary, 8))
    for _ in range(WARM_UP):
        training.step(next(batches))
    times: list[float] = []
    while len(times) < FEWEST_STEPS or (len(times) < MOST_STEPS and sum(times) < seconds):
        start = time.perf_counter()
        training.step(next(batches))
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def main(report: Report) -> None:
    """Train three times, compare the weights, time the steps and draw."""
    if keras.backend.backend() != "tensorflow":
        sys.exit("Only TensorFlow has sparse gradients; run it with KERAS_BACKEND=tensorflow.")
    vocabulary, steps = (QUICK_TRAINED, QUICK_STEPS) if report.quick else (TRAINED, STEPS)
    batches = zipf_batches(vocabulary, steps)
    distinct = np.median([len(np.unique(batch.ids)) for batch in batches])
    report.say(f"{vocabulary:,} items; a batch holds {BASKETS * ITEMS:,}, {distinct:.0f} distinct")
    zipf = compare(vocabulary, batches, OPTIMIZERS)
    few = batches_without_repeats(vocabulary, steps // 4)
    even = compare(vocabulary, few, (DENSE, KERAS))

    report.table(
        f"After {steps} steps, {WIDTH} wide, learning rate {LEARNING_RATE}",
        ["optimizer", "loss", "difference from lazy=False"],
        [
            (
                name,
                f"{zipf.losses[name][-10:].mean():.4f}",
                f"{zipf.differences[name][-1]:.1e}",
            )
            for name in OPTIMIZERS
        ],
    )
    report.say("difference: the largest of the table's weights, over the distance travelled")
    check_weights(report, zipf, even)

    timed, seconds = (QUICK_TIMED, QUICK_SECONDS) if report.quick else (TIMED, SECONDS)
    times: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    for size, name in report.track(list(itertools.product(timed, times)), "taking the times"):
        times[name].append(milliseconds(size, name, seconds))
    report.table(
        "Milliseconds per step, median",
        ["optimizer", *(f"{size:,}" for size in timed)],
        [(name, *(f"{each:.2f}" for each in row)) for name, row in times.items()],
    )
    if not report.quick:
        gain = times[KERAS][-1] / times[LAZY][-1]
        report.check(
            f"with {timed[-1]:,} items a lazy step takes a tenth of Keras's at most",
            gain >= 10.0,
            f"Keras takes {gain:.0f} times as long",
        )
    draw(report, zipf, timed, times)


def check_weights(report: Report, zipf: Comparison, even: Comparison) -> None:
    """Check which optimizers take the dense rule's steps."""
    for name, compared, which in (
        (LAZY, zipf, "on Zipf's law"),
        (KERAS, even, "without repeats"),
    ):
        worst = np.argmax(compared.differences[name] / compared.allowed)
        got, allowed = compared.differences[name][worst], compared.allowed[worst]
        report.check(
            f"{name}, {which}: the weights of the dense rule at every step",
            bool(got <= allowed),
            f"{got:.1e} of the distance travelled, allowed {allowed:.1e}",
        )
    report.check(
        "Keras, on Zipf's law: other weights, as it squares repeated items before summing",
        bool(zipf.differences[KERAS][-1] > 100.0 * zipf.allowed[-1]),
        f"{zipf.differences[KERAS][-1]:.1e} of the distance travelled",
    )
    first, last = zipf.losses[LAZY][:10].mean(), zipf.losses[LAZY][-10:].mean()
    report.check(
        "the model learns prices", bool(last < first / 2), f"loss {first:.3f}, later {last:.3f}"
    )


def draw(
    report: Report, compared: Comparison, timed: tuple[int, ...], times: dict[str, list[float]]
) -> None:
    """Draw the times by vocabulary, and the differences by step."""
    figure, (speed, weights) = plt.subplots(1, 2, figsize=(11, 4.8))
    figure.suptitle("Embeddings: the dense rule's weights at the cost of the rows touched")
    for name, row in times.items():
        speed.loglog(timed, row, "o-", color=COLOURS[name], label=name)
    speed.set(
        title=f"A step with {BASKETS * ITEMS:,} items in the batch, {WIDTH} wide",
        xlabel="vocabulary (rows of the table)",
        ylabel="median time (ms)",
    )
    speed.legend()

    steps = np.arange(1, len(compared.allowed) + 1)
    for name in (KERAS, LAZY):
        label = f"{name}, from lazy=False"
        weights.semilogy(steps, compared.differences[name], color=COLOURS[name], label=label)
    weights.semilogy(steps, compared.allowed, "--", color=TARGET, label="float32 allows", lw=1.4)
    weights.set(
        title="Largest difference of the tables",
        xlabel="step",
        ylabel="over the distance travelled",
    )
    weights.legend()
    report.save(figure, "embeddings.png")


if __name__ == "__main__":
    run(main, __doc__)
