"""Test what this package writes to a file, and that a damaged file is refused."""

import json
import zipfile

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import _state
from keras_rmsprop._state._file import FORMAT
from tests.tools import models
from tests.tools.states import (
    EVERYTHING,
    RATE,
    assert_same_state,
    built,
    load,
    saved,
    trained,
    weights,
)


def test_a_file_holds_only_numbers_and_json():
    store = saved(trained(weights("a"), **EVERYTHING))
    assert {value.dtype.kind for value in store.values()} <= set("iuf")
    json.loads(store["description"].tobytes())


def test_a_file_of_a_later_version_is_refused():
    store = saved(trained(weights("a")))
    fields = json.loads(store["description"].tobytes())
    fields |= {"format": FORMAT + 1, "news": "what only a later version can read"}
    store["description"] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    with pytest.raises(ValueError, match="saved by a later version"):
        built(weights("a")).load_own_variables(store)
    # An optimizer that is not built loads no state, so it need not read the file.
    (warning,) = load(store, keras_rmsprop.RMSprop())
    assert "it is not built yet" in warning


DAMAGES = {
    "a flipped bit": lambda store: (
        store["0.square_average"].view("u1").reshape(-1)[5:6].__ixor__(1)
    ),
    "a missing array": lambda store: store.pop("0.square_average"),
    "a cut description": lambda store: store.update(description=store["description"][:-9]),
    "an empty description": lambda store: store.update(description=np.zeros(0, np.uint8)),
    "a description that is a list": lambda store: store.update(
        description=np.frombuffer(b"[1, 2]", np.uint8)
    ),
    "no checksum": lambda store: store.pop("checksum"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_refused_and_nothing_is_loaded(damage):
    variables = weights("a", "b")
    store = saved(trained(variables))
    damage(store)
    optimizer = trained(variables, calls=2)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="is damaged"):
        optimizer.load_own_variables(store)
    assert_same_state(optimizer, before)


@pytest.fixture
def misfit(tmp_path, monkeypatch):
    """A saved model in which one slot has another shape than its weight."""
    network = models.model()
    models.fit(network, keras_rmsprop.RMSprop(RATE), epochs=1)
    state = _state.state_of(network.optimizer._parts())
    state.slots[-1]["square_average"] = np.zeros(7, "float32")
    monkeypatch.setattr(_state, "state_of", lambda _: state)
    network.save(tmp_path / "model.keras")
    network.save_weights(tmp_path / "model.weights.h5")
    monkeypatch.undo()
    return tmp_path / "model"


def test_a_slot_of_another_shape_than_its_weight_starts_afresh_in_load_weights(misfit):
    network = models.model()
    models.fit(network, keras_rmsprop.RMSprop(RATE), epochs=1)
    with pytest.warns(UserWarning, match=r"shape \(7,\), where \(1,\) is needed"):
        network.load_weights(misfit.with_suffix(".weights.h5"))
    assert len(network.optimizer.load_report.initialized) == 1
    models.go_on(network)


def test_a_slot_of_another_shape_than_its_weight_starts_afresh_in_load_model(misfit):
    with pytest.warns(UserWarning, match=r"shape \(7,\), where \(1,\) is needed"):
        network = keras.saving.load_model(misfit.with_suffix(".keras"))
    models.go_on(network)


@pytest.mark.parametrize("share", [0.25, 0.75, 0.99], ids="at {}".format)
def test_a_truncated_file_raises_and_leaves_the_optimizer_unchanged(tmp_path, share):
    network = models.model()
    models.fit(network, keras_rmsprop.RMSprop(RATE), epochs=1)
    before = network.optimizer.state_dict()
    path = tmp_path / "all.weights.h5"
    network.save_weights(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(OSError, match="truncated file"):
        network.load_weights(path)
    assert_same_state(network.optimizer, before)

    path = tmp_path / "model.keras"
    network.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        keras.saving.load_model(path)
