"""Test that an id that occurs several times in a batch moves by its summed gradient.

Only TensorFlow gives the gradient of an embedding as rows and ids. The tests of whole trainings
also run on the other backends, where the gradient is dense.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools import models

on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="only TensorFlow has gradients of rows"
)

ROWS, WIDTH, STEPS, RATE = 6, 3, 8, 2.0**-6

# Row 5 never occurs, row 2 occurs three times in one batch, and the first batch has only row 0.
IDS = np.array([[0, 0, 0, 0], [2, 1, 2, 2], [3, 4, 3, 0], [1, 1, 4, 2]])

OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "momentum": {"momentum": 0.5},
    "centered": {"centered": True},
    "clipvalue": {"clipvalue": 0.5},
    "clipnorm": {"clipnorm": 0.5},
    "global clipnorm": {"global_clipnorm": 0.5},
    "loss scale": {"loss_scale_factor": 8.0},
    "accumulation": {"gradient_accumulation_steps": 2},
}


def rows_and_start() -> tuple[list[np.ndarray], np.ndarray]:
    """Return for each step a gradient for each id of its batch, and the table's start."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(IDS.shape[1], WIDTH)) for _ in range(STEPS)]
    return rows, rng.normal(size=(ROWS, WIDTH))


def summed(rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The dense gradient that rows and ids stand for."""
    gradient = np.zeros((ROWS, WIDTH))
    np.add.at(gradient, ids, rows)
    return gradient


def eagerly(function: Callable[..., None]) -> Callable[..., None]:
    return function


def in_a_function(function: Callable[..., None]) -> Callable[..., None]:
    import tensorflow as tf

    return tf.function(function)


def under_xla(function: Callable[..., None]) -> Callable[..., None]:
    import tensorflow as tf

    return tf.function(function, jit_compile=True)


def trained(optimizer: keras.optimizers.Optimizer, how: Callable[..., Any]) -> np.ndarray:
    """Apply the batches' rows to a table and return it."""
    import tensorflow as tf

    rows, start = rows_and_start()
    table = keras.Variable(start, dtype="float64")
    optimizer.build([table])

    @how
    def step(values: Any, ids: Any) -> None:
        gradient = tf.IndexedSlices(values, ids, dense_shape=tf.constant([ROWS, WIDTH]))
        optimizer.apply([gradient], [table])

    for t, values in enumerate(rows):
        step(tf.constant(values), tf.constant(IDS[t % len(IDS)]))
    return table.numpy()


@on_tensorflow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("how", [eagerly, in_a_function, under_xla])
def test_rows_of_equal_ids_count_as_their_sum(float64, how, options):
    rows, start = rows_and_start()
    reference = Reference([start], **options)
    for t, values in enumerate(rows):
        reference.apply([summed(values, IDS[t % len(IDS)])], RATE)
    got = trained(keras_rmsprop.RMSprop(RATE, **options), how)
    models.assert_same([got], reference.weights, [start], steps=STEPS)


@on_tensorflow
def test_a_row_that_occurs_four_times_makes_one_first_step_of_the_usual_length(float64):
    import tensorflow as tf

    table = keras.Variable(np.zeros((ROWS, WIDTH)))
    row = tf.ones((4, WIDTH), "float64")
    gradient = tf.IndexedSlices(row, tf.constant([1] * 4), tf.constant([ROWS, WIDTH]))
    optimizer = keras_rmsprop.RMSprop(RATE, epsilon=0.0)
    optimizer.apply([gradient], [table])
    # The first step is learning_rate / sqrt(1 - rho) whatever the gradient's size.
    np.testing.assert_allclose(table.numpy()[1], -RATE / np.sqrt(0.1), rtol=1e-15)
    assert not table.numpy()[[0, 2, 3, 4, 5]].any()


@on_tensorflow
@pytest.mark.parametrize("how", [eagerly, in_a_function, under_xla])
def test_keras_squares_repeated_rows_before_it_sums_them(float64, how):
    rows, start = rows_and_start()
    reference = Reference([start])
    for t, values in enumerate(rows):
        reference.apply([summed(values, IDS[t % len(IDS)])], RATE)
    got = trained(keras.optimizers.RMSprop(RATE), how)
    travelled = np.abs(reference.weights[0] - start).max()
    assert np.abs(got - reference.weights[0]).max() > 0.1 * travelled


def embedding_fit(optimizer: keras.optimizers.Optimizer, **compiling: Any) -> list[np.ndarray]:
    """Fit a network that looks four ids up, some of them repeatedly, and return its weights."""
    network = embedding_model()
    network.compile(optimizer, loss="mse", **compiling)
    targets = np.linspace(-1.0, 1.0, len(IDS))[:, None]
    network.fit(IDS, targets, batch_size=2, epochs=4, shuffle=False, verbose=0)
    return network.get_weights()


def embedding_model() -> keras.Sequential:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((IDS.shape[1],), dtype="int32"),
            keras.layers.Embedding(ROWS, WIDTH),
            keras.layers.Flatten(),
            keras.layers.Dense(1, use_bias=False),
        ]
    )


def embedding_reference(**options: Any) -> list[np.ndarray]:
    """The weights that the same fit gives in NumPy."""
    reference = Reference(embedding_model().get_weights(), **options)
    targets = np.linspace(-1.0, 1.0, len(IDS))[:, None]
    for step in range(STEPS):
        batch = slice(0, 2) if step % 2 == 0 else slice(2, 4)
        table, kernel = reference.weights
        looked_up = table[IDS[batch]].reshape(2, -1)
        # d/dy of the mean over the batch of (y - target)**2
        slope = looked_up @ kernel - targets[batch]
        rows = (slope @ kernel.T).reshape(-1, WIDTH)
        reference.apply([summed(rows, IDS[batch].ravel()), looked_up.T @ slope], RATE)
    return reference.weights


@pytest.mark.parametrize("clip", [{}, {"global_clipnorm": 0.5}], ids=["unclipped", "clipped"])
@pytest.mark.parametrize(
    "jit_compile", [False] if BACKEND == "torch" else [False, True], ids="jit_compile={}".format
)
def test_fit_of_an_embedding_follows_the_dense_rule(float64, jit_compile, clip):
    start = embedding_model().get_weights()
    got = embedding_fit(keras_rmsprop.RMSprop(RATE, **clip), jit_compile=jit_compile)
    # Keras on torch takes the mean of float64 losses in float32.
    precision = "float32" if BACKEND == "torch" else None
    models.assert_same(got, embedding_reference(**clip), start, steps=STEPS, precision=precision)


def test_keras_fits_an_embedding_to_other_weights_only_on_tensorflow(float64):
    start = embedding_model().get_weights()
    got = embedding_fit(keras.optimizers.RMSprop(RATE), jit_compile=False)
    want = embedding_reference()
    travelled = np.abs(want[0] - start[0]).max()
    differs = np.abs(got[0] - want[0]).max() > 0.1 * travelled
    assert differs == (BACKEND == "tensorflow")


def applied(optimizer: Any, table: Any, dense_shape: Any) -> Callable[..., None]:
    """A step as a function of rows and their ids."""
    import tensorflow as tf

    def step(values: Any, ids: Any) -> None:
        optimizer.apply([tf.IndexedSlices(values, ids, dense_shape)], [table])

    return step


def state(optimizer: keras.optimizers.Optimizer, variables: list[Any]) -> list[np.ndarray]:
    return models.values([*variables, *optimizer.variables])


@on_tensorflow
@pytest.mark.parametrize(("bad", "dtype"), [(ROWS, "int32"), (-1, "int64")], ids=str)
@pytest.mark.parametrize("how", [eagerly, in_a_function])
@pytest.mark.parametrize("lazy", [False, True], ids="lazy={}".format)
@pytest.mark.parametrize("mode", ["auto", True, False], ids="jit_compile={}".format)
def test_an_id_outside_the_table_is_refused_and_nothing_changes(how, lazy, mode, bad, dtype):
    import tensorflow as tf

    table, bias = (keras.Variable(np.ones(shape), name="table") for shape in [(ROWS, WIDTH), (2,)])
    optimizer = keras_rmsprop.RMSprop(RATE, lazy=lazy, jit_compile=mode)
    optimizer.build([table, bias])

    @how
    def step(ids: Any) -> None:
        rows = tf.IndexedSlices(tf.ones((3, WIDTH)), ids, tf.constant([ROWS, WIDTH]))
        optimizer.apply([rows, tf.ones(2)], [table, bias])

    good, wrong = (tf.constant([0, i, 2], dtype) for i in (1, bad))
    for _ in range(3):
        before = state(optimizer, [table, bias])
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"table.*outside"):
            step(wrong)
        models.assert_identical(state(optimizer, [table, bias]), before)
        step(good)
    assert optimizer.iterations.numpy() == 3


@on_tensorflow
@pytest.mark.parametrize(
    ("bad", "dtype"),
    [(ROWS, "int32"), (-1, "int32"), (2**40, "int64")],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lazy": True},
        {"lazy": True, "global_clipnorm": 0.1, "centered": True},
        {"lazy": True, "skip_nonfinite": True},
    ],
    ids=str,
)
def test_xla_drops_ids_outside_the_table(options, bad, dtype):
    import tensorflow as tf

    ends = []
    for ids, values in [([0, bad, 2, 0], [1.0, np.nan, 2.0, 3.0]), ([0, 2, 0], [1.0, 2.0, 3.0])]:
        table = keras.Variable(np.ones((ROWS, WIDTH)))
        optimizer = keras_rmsprop.RMSprop(RATE, **options)
        optimizer.build([table])

        run = under_xla(applied(optimizer, table, (ROWS, WIDTH)))
        rows = tf.constant(values, "float32")[:, None] * tf.ones(WIDTH)
        for _ in range(3):
            run(rows, tf.constant(ids, dtype))
        ends.append(state(optimizer, [table]))
    for got, want in zip(*ends, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert np.ptp(ends[0][0]) > 0.0


@on_tensorflow
@pytest.mark.parametrize("lazy", [False, True], ids="lazy={}".format)
@pytest.mark.parametrize("how", [eagerly, in_a_function, under_xla])
def test_rows_may_be_made_by_hand_with_any_form_of_dense_shape(how, lazy):
    import tensorflow as tf

    ends = []
    for dense_shape in [tf.constant([ROWS, WIDTH]), (ROWS, WIDTH), [ROWS, WIDTH], None]:
        table = keras.Variable(np.ones((ROWS, WIDTH)))
        optimizer = keras_rmsprop.RMSprop(RATE, lazy=lazy)
        optimizer.build([table])

        run = how(applied(optimizer, table, dense_shape))
        for _ in range(3):
            run(tf.ones((3, WIDTH)), tf.constant([0, 1, 0]))
        ends.append(table.numpy())
    for other in ends[1:]:
        np.testing.assert_array_equal(other, ends[0])
    foreign = tf.IndexedSlices(tf.ones((1, WIDTH)), tf.constant([0]), (ROWS + 1, WIDTH))
    with pytest.raises(ValueError, match="shape"):
        optimizer.apply([foreign], [table])
