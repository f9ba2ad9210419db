"""The cost of a step by an embedding's vocabulary, and by the ids in a batch.

The table is 64 wide in float32, the ids follow Zipf's law, and a call is `apply` with the sparse
gradient of a batch of ids. Only TensorFlow has such gradients.

Weights are compared with the dense rule. Of the peers only tf_keras takes the same steps: Keras
squares repeated ids before summing them, the legacy class has epsilon outside the root, and TF1's
kernel lets the averages of untouched rows go stale. They are timed nevertheless, and their
deviation is reported.

Two rows are whole training steps of a model with `keras.layers.Embedding`, by `train_on_batch`,
with batches of one size and of changing sizes.

On 2 cores, milliseconds per step for 1,024 ids and 1,000,000 rows (see benchmarks/published):

             lazy    dense rule    keras    tf_keras    tf_keras legacy    TF1 kernel
    eager    1.5          80        190        142            142             2.2
    graph    1.4          84        160        112            125             2.2
    xla      1.5          85        107         17             16        does not compile

A table of 4,000,000 rows takes 1.04 (graph) to 1.05 (xla) times as long as one of 100,000.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import for_backend, optimizer_of
from benchmarks.measure import Contender, NotComparableError, Settings, compare
from benchmarks.problems import (
    CHECKED_STEPS,
    EPSILON,
    LEARNING_RATE,
    TOLERANCE,
    held_to,
    largest_deviation,
)
from benchmarks.registry import Row
from benchmarks.results import OURS, Line
from benchmarks.training import TOLERANCE as FIT_TOLERANCE
from keras_rmsprop.reference import Reference
from yardsticks import peers

WIDTH = 64
# Rows of the table with ids in the batch.
SIZES = [(rows, 1024) for rows in (10_000, 100_000, 1_000_000, 4_000_000)]
SIZES += [(1_000_000, ids) for ids in (64, 16_384, 65_536)]
BATCHES = 4
# On a larger table a dense step takes seconds, and several contenders need more memory than most
# machines have.
LARGEST_DENSE = 1_000_000

TARGETS = {"graph": {"keras": 100.0}, "xla": {"keras": 15.0}}

# On the largest table ours is compared with itself on a small one: the time must not depend on the
# number of rows by more than a factor of 1.5.
LARGE, SMALL = 4_000_000, 100_000
ON_SMALL = f"ours, {SMALL:,} rows"
FLAT = 1.0 / 1.5

# Models: the rows of the table, the ids in a basket, and the baskets in each batch.
TRAINED, ITEMS = 1_000_000, 8
BASKETS = {"1,024 ids": [128] * 10, "700 to 1,100 ids": list(range(88, 138, 5))}

EXACT = (OURS, ON_SMALL, "dense rule", "tf_keras")

Array = NDArray[Any]


def rows(backend: str) -> Iterator[Row]:
    """Yield one row per size and mode, on TensorFlow."""
    modes = ("eager", "graph", "xla") if backend == "tensorflow" else ()
    for mode, (size, ids) in itertools.product(modes, SIZES):
        if mode != "graph" and ids != 1024:
            continue  # these take minutes each and show nothing new
        yield Row(
            "embeddings", mode, f"{ids:,} ids", f"{size:,}",
            functools.partial(_measure, mode, size, ids),
            quick=(size, ids) == (10_000, 1024),
            size=size,
        )  # fmt: skip
    if backend == "tensorflow":
        for case, baskets in BASKETS.items():
            measure = functools.partial(_measure_training, baskets)
            yield Row("embeddings", "training", case, f"{TRAINED:,}", measure, quick=False)


class Embedding:
    """The rows and ids of a few batches, for a table initialized to ones."""

    def __init__(self, size: int, ids: int) -> None:
        rng = np.random.default_rng(0)
        self.shape = (size, WIDTH)
        # Zipf's law by its inverse: the k-th id is 1 / k times as frequent as the first.
        draws = np.exp(rng.random((BATCHES, ids)) * np.log(size + 1.0)) - 1.0
        self.ids = np.minimum(draws.astype(np.int32), size - 1)
        # Rounded, so that sums over repeated ids are exact in any order.
        self.values = np.round(rng.standard_normal((BATCHES, ids, WIDTH), np.float32) * 64) / 64
        self.touched = np.unique(self.ids)

    def expected(self) -> Array:
        """Return the touched rows after the checked steps of the dense rule."""
        reference = Reference([np.ones((len(self.touched), WIDTH))], epsilon=EPSILON)
        for t in range(CHECKED_STEPS):
            gradient = np.zeros((len(self.touched), WIDTH))
            places = np.searchsorted(self.touched, self.ids[t % BATCHES])
            np.add.at(gradient, places, self.values[t % BATCHES])
            reference.apply([gradient], LEARNING_RATE)
        return reference.weights[0]

    def check(self, name: str, contender: Contender) -> float:
        """Make the checked steps and return the deviation from the dense rule."""
        for _ in range(CHECKED_STEPS):
            contender.step()
        contender.wait()
        assert contender.weights is not None
        (got,) = contender.weights()
        start = np.ones_like(got)
        deviation = largest_deviation([got], [self.expected()], [start], CHECKED_STEPS)
        return held_to(deviation, TOLERANCE) if name in EXACT else deviation


def _measure(mode: str, size: int, ids: int, settings: Settings) -> list[Line]:
    embeddings = dict.fromkeys(MAKERS, Embedding(size, ids))
    targets = TARGETS.get(mode, {}) if (size, ids) == (1_000_000, 1024) else {}
    if (size, ids) == (LARGE, 1024):
        embeddings[ON_SMALL] = Embedding(SMALL, ids)
        targets = {ON_SMALL: FLAT}
    return compare(
        {
            name: functools.partial(_contender, name, embedding, mode)
            for name, embedding in embeddings.items()
        },
        lambda name, contender: embeddings[name].check(name, contender),
        # Tables of gigabytes are not rebuilt.
        dataclasses.replace(settings, builds=0, close_seconds=0.0),
        targets,
    )


def _contender(name: str, embedding: Embedding, mode: str) -> Contender:
    import tensorflow as tf

    if name not in (OURS, "TF1 kernel") and embedding.shape[0] > LARGEST_DENSE:
        raise NotComparableError("a dense step on this table takes too much time or memory")
    if name == "TF1 kernel" and mode == "xla":
        raise NotComparableError("does not compile")
    peer = MAKERS[OURS if name == ON_SMALL else name](tf.ones(embedding.shape))
    (table,) = peer.variables
    shape = tf.constant(embedding.shape)
    run = for_backend("tensorflow").RUN[mode](
        lambda values, ids: peer.step([tf.IndexedSlices(values, ids, shape)])
    )
    batches = itertools.cycle(
        [
            (tf.constant(v), tf.constant(i))
            for v, i in zip(embedding.values, embedding.ids, strict=True)
        ]
    )
    return Contender(
        lambda: run(*next(batches)),
        tf.test.experimental.sync_devices,
        # Gathering from the Keras variable would copy its whole value.
        lambda: [tf.gather(getattr(table, "_value", table), embedding.touched).numpy()],
    )


def _keras_3(name: str, ones: Any, **options: bool) -> peers.OnKeras:
    peer = peers.OnKeras(optimizer_of(name, **options), [ones])
    peer.optimizer.build(peer.variables)
    return peer


def _tf_keras(name: str, ones: Any) -> peers.Peer:
    peer: peers.Peer = for_backend("tensorflow").tf_keras_peer(name, [ones])
    return peer


class _Kernel:
    """The sparse kernel of TF1's optimizer, with averages that start from zero."""

    def __init__(self, ones: Any) -> None:
        import tensorflow as tf

        self.tf = tf
        self.variables = [tf.Variable(ones)]
        self.slots = [tf.Variable(tf.zeros_like(ones)) for _ in range(2)]

    def step(self, gradients: Sequence[Any]) -> None:
        (rows,), tf = gradients, self.tf
        ids, positions = tf.unique(rows.indices)
        tf.raw_ops.ResourceSparseApplyRMSProp(
            var=self.variables[0].handle,
            ms=self.slots[0].handle,
            mom=self.slots[1].handle,
            lr=LEARNING_RATE,
            rho=0.9,
            momentum=0.0,
            epsilon=EPSILON,
            grad=tf.math.unsorted_segment_sum(rows.values, positions, tf.size(ids)),
            indices=ids,
        )


MAKERS: dict[str, Callable[..., Any]] = {
    OURS: functools.partial(_keras_3, OURS, lazy=True),
    "dense rule": functools.partial(_keras_3, OURS, lazy=False),
    "keras": functools.partial(_keras_3, "keras"),
    "tf_keras": functools.partial(_tf_keras, "tf_keras"),
    "tf_keras legacy": functools.partial(_tf_keras, "tf_keras_legacy"),
    "TF1 kernel": _Kernel,
}


def _measure_training(baskets: Sequence[int], settings: Settings) -> list[Line]:
    """Time the training steps of a model with an embedding, against Keras's optimizer."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    data = [(rng.integers(0, TRAINED, (n, ITEMS)), rng.normal(size=(n, 1))) for n in baskets]
    touched = np.unique(np.concatenate([x.ravel() for x, _ in data]))
    start: list[Array] = []
    exact: list[Array] = []

    def weights(model: keras.Model) -> list[Array]:
        table = tf.convert_to_tensor(model.layers[0].embeddings)
        return [tf.gather(table, touched).numpy(), *model.layers[-1].get_weights()]

    def build(optimizer: keras.optimizers.Optimizer) -> Contender:
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(TRAINED, WIDTH), keras.layers.GlobalAveragePooling1D()]
        model = keras.Sequential([keras.Input((ITEMS,)), *layers, keras.layers.Dense(1)])
        model.compile(optimizer, loss="mse", jit_compile=False)
        start[:] = weights(model)
        batches = itertools.cycle(data)
        return Contender(
            lambda: model.train_on_batch(*next(batches)),
            lambda: None,  # which ends by reading the loss
            lambda: weights(model),
        )

    def check(name: str, contender: Contender) -> float:
        assert contender.weights is not None
        for _ in baskets:
            contender.step()
        got = list(contender.weights())
        exact[:] = exact or got
        deviation = largest_deviation(got, exact, start, len(baskets))
        return held_to(deviation, FIT_TOLERANCE) if name == "dense rule" else deviation

    return compare(
        {
            OURS: lambda: build(optimizer_of(OURS, lazy=True)),
            "dense rule": lambda: build(optimizer_of(OURS)),
            "keras": lambda: build(optimizer_of("keras")),
        },
        check,
        dataclasses.replace(settings, builds=0, close_seconds=0.0),
        {"keras": 50.0},
    )
