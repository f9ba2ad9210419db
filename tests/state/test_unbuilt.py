"""Test loading into an optimizer that is not built, and loading a file without state."""

from typing import Any

import keras
import pytest

import keras_rmsprop
from tests.tools import models
from tests.tools.states import CALLS, RATE, assert_same_state, built, load, saved, trained, weights


def unbuilt(folder: Any, RMSprop: Any) -> keras.Model:  # noqa: N803
    """Return a model with a trained model's weights, and an optimizer that is not built."""
    network = models.model()
    models.fit(network, RMSprop(RATE, momentum=0.5), run_eagerly=True)
    network.save_weights(folder / "all.weights.h5")
    fresh = models.model()
    fresh.compile(RMSprop(RATE / 4, momentum=0.5), loss="mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        fresh.load_weights(folder / "all.weights.h5")
    models.assert_identical(fresh.get_weights(), network.get_weights())
    return fresh


@pytest.mark.parametrize(
    "optimizer_class", [keras.optimizers.RMSprop, keras_rmsprop.RMSprop], ids=["Keras", "ours"]
)
def test_an_optimizer_that_is_not_built_loads_nothing_from_a_file(tmp_path, optimizer_class):
    fresh = unbuilt(tmp_path, optimizer_class)
    start = fresh.get_weights()
    got = models.go_on(fresh)
    assert float(fresh.optimizer.learning_rate) == RATE / 4
    assert int(fresh.optimizer.iterations) == 2 * models.BATCHES
    # As if the file had held no state.
    other = models.model()
    other.set_weights(start)
    want = models.fit(other, optimizer_class(RATE / 4, momentum=0.5), run_eagerly=True)
    models.assert_identical(got, want)


def test_the_warning_about_state_that_is_not_loaded_gives_the_remedy():
    store = saved(trained(weights("a", "b")))
    new = keras_rmsprop.RMSprop(RATE)
    (warning,) = load(store, new)
    assert "`keras.saving.load_model`" in warning
    assert "`optimizer.build(model.trainable_variables)` before `load_weights`" in warning
    assert new.load_report == ((), (), tuple(sorted(store)))
    new.build(weights("a", "b"))
    assert int(new.iterations) == 0
    assert load(store, new) == []
    assert int(new.iterations) == CALLS


NOTHING_TO_LOSE = {
    "no state": dict,
    "not built": lambda: saved(keras_rmsprop.RMSprop(4 * RATE)),
    "not trained": lambda: saved(built(weights("a"))),
    "Keras's, not trained": lambda: saved(_untrained(keras.optimizers.Adam())),
}


@pytest.mark.parametrize("store", NOTHING_TO_LOSE.values(), ids=NOTHING_TO_LOSE)
def test_loading_a_file_without_a_training_before_the_build_does_not_warn(store):
    new = keras_rmsprop.RMSprop(RATE)
    assert load(store(), new) == []
    assert float(new.learning_rate) == RATE


def _untrained(optimizer: Any) -> Any:
    optimizer.build(weights("a"))
    return optimizer


@pytest.mark.parametrize("store", [dict, lambda: saved(keras_rmsprop.RMSprop())])
def test_a_file_without_state_leaves_a_trained_optimizer_unchanged(store):
    optimizer = trained(weights("a"))
    before = optimizer.state_dict()
    (warning,) = load(store(), optimizer)
    assert "The optimizer goes on with the state it has." in warning
    assert_same_state(optimizer, before)
    assert optimizer.load_report.restored == optimizer.load_report.initialized == ()


def test_a_model_that_was_saved_before_its_first_step_loads_without_a_warning(tmp_path):
    network = models.model()
    network.compile(keras_rmsprop.RMSprop(RATE), loss="mse")
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.built
