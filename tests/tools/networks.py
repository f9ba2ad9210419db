"""Small networks with data to train them on, for trainings of a few dozen steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

Array = NDArray[Any]

CLASSES = 5
WORDS, LENGTH = 40, 12


class Problem(NamedTuple):
    """A model, the loss of (targets, outputs), and what draws a batch of (inputs, targets)."""

    model: keras.Model
    loss: Callable[[Any, Any], Any]
    batch: Callable[[np.random.Generator], tuple[Array, Array]]


def cross_entropy(targets: Any, logits: Any) -> Any:
    """Return the mean cross-entropy of logits."""
    logits = ops.cast(logits, "float32")
    each = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
    return ops.mean(each)


def _points(rng: np.random.Generator) -> tuple[Array, Array]:
    x = rng.normal(size=(32, 16)).astype(np.float32)
    return x, np.argmax(x[:, :CLASSES] + x[:, CLASSES : 2 * CLASSES] ** 2, axis=1)


def _first_words(rng: np.random.Generator) -> tuple[Array, Array]:
    """Sequences, and whether the first word is one of the second half."""
    words = rng.integers(0, WORDS, (32, LENGTH)).astype(np.int32)
    return words, (words[:, 0] >= WORDS // 2).astype(np.int32)


def _images(rng: np.random.Generator) -> tuple[Array, Array]:
    """Stripes of one of five widths, with noise."""
    classes = rng.integers(0, CLASSES, 32)
    phase = np.arange(10)[None, :] * (classes[:, None] + 1) * 0.5 + rng.uniform(0, 6, (32, 1))
    images = np.broadcast_to(np.sin(phase)[:, None, :], (32, 10, 10))
    return (images + 0.3 * rng.normal(size=images.shape))[..., None].astype(np.float32), classes


def _sequences(rng: np.random.Generator) -> tuple[Array, Array]:
    """Words, each of which depends on the one before, and the next words."""
    words = [rng.integers(0, WORDS, 32)]
    for _ in range(LENGTH):
        words.append((3 * words[-1] + rng.integers(0, 3, 32)) % WORDS)
    sequence = np.stack(words, axis=1)
    return sequence[:, :-1], sequence[:, 1:]


def _documents(rng: np.random.Generator) -> tuple[Array, Array]:
    """Words of a large vocabulary, of which a batch has few, and a class that they show."""
    classes = rng.integers(0, CLASSES, 32)
    return CLASSES * rng.integers(0, 200, (32, LENGTH)) + classes[:, None], classes


def dense(activation: str = "relu") -> Problem:
    """Two hidden layers."""
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(32, activation=activation, name="hidden_1"),
            layers.Dense(32, activation=activation, name="hidden_2"),
            layers.Dense(CLASSES, name="last"),
        ],
        name="dense",
    )
    return Problem(model, cross_entropy, _points)


def convolutional() -> Problem:
    """Two convolutions with batch normalisation."""
    model = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 3),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )
    return Problem(model, cross_entropy, _images)


def recurrent(layer: type[keras.layers.Layer], units: int = 24) -> Problem:
    """A language model: words, a recurrent layer, the next words."""
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(WORDS, 16),
            layer(units, return_sequences=True),
            layers.Dense(WORDS),
        ]
    )
    return Problem(model, cross_entropy, _sequences)


def bag_of_words() -> Problem:
    """A table of which a batch touches a third of the rows."""
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            layers.Embedding(200 * CLASSES, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )
    return Problem(model, cross_entropy, _documents)


def transformer() -> Problem:
    """One block of attention, before which and after which the sequence is normalised."""
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, 16)(words)
    normal = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(2, 8)(normal, normal, use_causal_mask=True)
    x = layers.Add()([x, attention])
    hidden = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(16)(hidden)])
    model = keras.Model(words, layers.Dense(WORDS)(layers.LayerNormalization()(x)))
    return Problem(model, cross_entropy, _sequences)


def encoder() -> Problem:
    """One block of attention, normalised after each of its sums, and a mean over the sequence.

    The attention is of little use at first: what it learns from is small.
    """
    words = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, 16)(words)
    attention = layers.MultiHeadAttention(2, 8)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attention]))
    hidden = layers.Dense(16)(layers.Dense(32, activation="gelu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, hidden]))
    model = keras.Model(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))
    return Problem(model, cross_entropy, _first_words)
