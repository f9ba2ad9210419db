"""Test that exclusions from weight decay are saved with the model."""

from typing import Any

import keras
import pytest

import keras_rmsprop
from tests.tools import models

EXCLUDED = {
    "by pattern": lambda _: {"var_names": ["bias"]},
    "by variable": lambda network: {"var_list": [network.layers[0].kernel]},
    "by both": lambda network: {"var_list": [network.layers[0].kernel], "var_names": ["bias"]},
}


def decayed(network: Any) -> list[bool]:
    return [network.optimizer._use_weight_decay(v) for v in network.trainable_variables]


@pytest.mark.parametrize("built_first", [False, True], ids="built={}".format)
@pytest.mark.parametrize("excluded", EXCLUDED.values(), ids=EXCLUDED)
def test_exclusions_from_weight_decay_are_saved_with_the_model(tmp_path, excluded, built_first):
    network = models.model()
    network.compile(keras_rmsprop.RMSprop(0.01, weight_decay=0.1), loss="mse", run_eagerly=True)
    network.optimizer.exclude_from_weight_decay(**excluded(network))
    if built_first:
        models.go_on(network, epochs=1)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    want = decayed(network)
    assert decayed(loaded) == want != [True] * 4
    # A copy of the copy; then training goes on.
    again = keras_rmsprop.RMSprop.from_config(loaded.optimizer.get_config())
    again.build(loaded.trainable_variables)
    assert [again._use_weight_decay(v) for v in loaded.trainable_variables] == want
    assert models.go_on(loaded, epochs=1)


@pytest.mark.parametrize(
    "optimizer_class", [keras.optimizers.RMSprop, keras_rmsprop.RMSprop], ids=["Keras", "ours"]
)
def test_variables_can_be_excluded_again_after_loading(tmp_path, optimizer_class):
    network = models.model()
    network.compile(optimizer_class(0.01, weight_decay=0.1), loss="mse")
    network.optimizer.exclude_from_weight_decay(var_names=["kernel"])
    network.optimizer.build(network.trainable_variables)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    try:
        loaded.optimizer.exclude_from_weight_decay(var_names=["bias"])
    except ValueError:
        assert tuple(map(int, keras.__version__.split(".")[:2])) > (3, 15)
    else:
        assert decayed(loaded) == [True, False, True, False]


def test_a_config_lists_exclusions_only_if_there_are_any():
    optimizer = keras_rmsprop.RMSprop(weight_decay=0.1)
    assert "exclude_from_weight_decay" not in optimizer.get_config()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert optimizer.get_config()["exclude_from_weight_decay"]["names"] == ["bias"]
    optimizer.exclude_from_weight_decay()
    assert "exclude_from_weight_decay" not in optimizer.get_config()
