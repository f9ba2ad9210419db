"""Test that a run with `lazy=True` goes on exactly, however its state was saved."""

import pathlib
from collections.abc import Callable

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models

pytestmark = [
    pytest.mark.skipif(
        BACKEND != "tensorflow", reason=f"gradients are dense on the {BACKEND} backend"
    ),
    pytest.mark.usefixtures("float64"),
]

ROWS = 60


def a_model() -> keras.Model:
    """Return a compiled model with a table, of which a batch uses only some rows."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(ROWS, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    network.compile(keras_rmsprop.RMSprop(0.01, centered=True, lazy=True), "mse")
    return network


def go_on(network: keras.Model) -> list[np.ndarray]:
    """Fit on ids of Zipf's law; return weights and state, with the counters of rows."""
    rng = np.random.default_rng(1)
    ids = np.minimum(rng.zipf(1.3, (48, 5)) - 1, ROWS - 1)
    network.fit(ids, rng.normal(size=(48, 1)), batch_size=8, shuffle=False, verbose=0)
    return models.values([*network.weights, *network.optimizer.variables])


def through_keras_file(network: keras.Model, folder: pathlib.Path) -> keras.Model:
    network.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def through_weights_file(network: keras.Model, folder: pathlib.Path) -> keras.Model:
    network.save_weights(folder / "all.weights.h5")
    other = a_model()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(folder / "all.weights.h5")
    return other


def through_checkpoint(network: keras.Model, folder: pathlib.Path) -> keras.Model:
    import tensorflow as tf

    tf.train.Checkpoint(network).write(str(folder / "checkpoint"))
    other = a_model()
    other.optimizer.build(other.trainable_variables)
    status = tf.train.Checkpoint(other).read(str(folder / "checkpoint"))
    status.assert_existing_objects_matched()
    return other


def through_state_dict(network: keras.Model, folder: pathlib.Path) -> keras.Model:
    np.savez(folder / "state.npz", **network.optimizer.state_dict())
    other = a_model()
    other.set_weights(network.get_weights())
    # State is loaded by variable name, and a new model's layers have other numbers.
    for mine, theirs in zip(other.trainable_variables, network.trainable_variables, strict=True):
        mine._path = theirs.path
    other.optimizer.build(other.trainable_variables)
    other.optimizer.load_state_dict(dict(np.load(folder / "state.npz")))
    return other


@pytest.mark.parametrize(
    "carry",
    [through_keras_file, through_weights_file, through_checkpoint, through_state_dict],
    ids=lambda carry: carry.__name__,
)
def test_a_model_goes_on_to_the_last_bit(
    tmp_path: pathlib.Path, carry: Callable[[keras.Model, pathlib.Path], keras.Model]
):
    network = a_model()
    go_on(network)
    counts = network.optimizer._roster.progress[0].row_updates.numpy()
    assert len(set(counts)) > 2, "all rows have the same count, so there is nothing to settle"
    carried = carry(network, tmp_path)
    models.assert_identical(go_on(carried), go_on(network))


def copy_of_state(optimizer):
    return {name: np.array(value) for name, value in optimizer.state_dict().items()}


def test_a_saved_run_goes_on_bit_for_bit(rng):
    import tensorflow as tf

    start = rng.normal(size=(ROWS, 3))
    batches = [
        tf.IndexedSlices(tf.constant(rng.normal(size=(2, 3))), tf.constant(rng.integers(0, 9, 2)))
        for _ in range(12)
    ]

    def started():
        table = keras.Variable(start, dtype="float64", name="table")
        optimizer = keras_rmsprop.RMSprop(0.01, centered=True, lazy=True)
        optimizer.build([table])
        return optimizer, table

    optimizer, table = started()
    for rows in batches[:6]:
        optimizer.apply([rows], [table])
    resumed, copy = started()
    resumed.load_state_dict(copy_of_state(optimizer))
    copy.assign(table)
    for rows in batches[6:]:
        optimizer.apply([rows], [table])
        resumed.apply([rows], [copy])
    np.testing.assert_array_equal(copy.numpy(), table.numpy())
    for name, value in copy_of_state(optimizer).items():
        np.testing.assert_array_equal(value, copy_of_state(resumed)[name])


@pytest.mark.parametrize("to_lazy", [False, True], ids="to_lazy={}".format)
def test_the_state_of_a_lazy_run_and_of_a_dense_one_load_into_each_other(rng, to_lazy):
    import tensorflow as tf

    start = rng.normal(size=(ROWS, 3))
    batches = [
        tf.IndexedSlices(tf.constant(rng.normal(size=(2, 3))), tf.constant(rng.integers(0, 9, 2)))
        for _ in range(12)
    ]

    def started(lazy):
        table = keras.Variable(start, dtype="float64", name="table")
        optimizer = keras_rmsprop.RMSprop(0.01, bias_correction=True, lazy=lazy)
        optimizer.build([table])
        return optimizer, table

    def saved(optimizer):
        store = {}
        optimizer.save_own_variables(store)
        return store

    optimizer, table = started(not to_lazy)
    for rows in batches[:6]:
        optimizer.apply([rows], [table])
    resumed, copy = started(to_lazy)
    resumed.load_own_variables(saved(optimizer))
    assert not resumed.load_report.initialized
    assert not resumed.load_report.dropped
    copy.assign(table)
    for rows in batches[6:]:
        optimizer.apply([rows], [table])
        resumed.apply([rows], [copy])
    np.testing.assert_allclose(copy.numpy(), table.numpy(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        resumed.effective_learning_rate(copy).numpy(),
        optimizer.effective_learning_rate(table).numpy(),
        rtol=1e-12,
    )
