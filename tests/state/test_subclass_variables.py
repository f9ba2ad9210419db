"""Test saving and loading the variables that a subclass adds."""

from typing import Any

import keras
import numpy as np
import pytest

from tests.tools import models
from tests.tools.states import (
    EVERYTHING,
    assert_same_state,
    built,
    load,
    saved,
    weights,
)
from tests.tools.subclass_variables import Traced, traced

OWN = {"scale", "table", "before", "variable", "variable#1"}


def test_the_variables_of_a_subclass_are_in_the_state_dict_and_in_the_report():
    optimizer = traced(weights("a"), momentum=0.5)
    state = optimizer.state_dict()
    slots = {f"a/{name}" for name in ("square_average", "momentum")}
    own = {f"a/{name}" for name in ("trace", "one", "momentum#1", "keyed")} | OWN
    assert set(state) == {"iteration", "learning_rate"} | slots | own
    fresh = traced(weights("a"), numbered=False, momentum=0.5)
    fresh.load_state_dict(state)
    assert_same_state(fresh, state)
    assert set(fresh.load_report.restored) == set(state)


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "every slot"])
def test_the_variables_of_a_subclass_are_restored_from_a_file(options):
    optimizer = traced(weights("a", "b"), **options)
    fresh = traced(weights("a", "b"), numbered=False, **options)
    assert load(saved(optimizer), fresh) == []
    assert_same_state(fresh, optimizer.state_dict())


def test_the_variables_of_a_subclass_follow_their_weights_and_new_ones_keep_their_values():
    old = traced(weights("a", "b"))
    new = traced(weights("b", "c", "d"), numbered=False)
    new.scale.assign(7.0)
    store = saved(old)
    load(store, new)
    state = new.state_dict()
    np.testing.assert_array_equal(state["b/trace"], old.state_dict()["b/trace"])
    assert "c/trace" in new.load_report.initialized
    assert "a/trace" in new.load_report.dropped
    assert state["scale"] == old.state_dict()["scale"] != 7.0

    plain = built(weights("a", "b"))
    (warning,) = load(store, plain)
    assert {"scale", "a/trace"} <= set(plain.load_report.dropped)
    assert "not needed" in warning
    with_own = traced(weights("a", "b"), numbered=False)
    with_own.scale.assign(7.0)
    load(saved(plain), with_own)
    assert "scale" in with_own.load_report.initialized
    assert with_own.state_dict()["scale"] == 7.0


@keras.saving.register_keras_serializable(package="tests")
class Averaging(Traced):
    """An optimizer as a user might write it, which averages the gradients."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Advance the average and make the usual step."""
        trace = self.traces[self._get_variable_index(variable)]
        self.assign(trace, 0.5 * keras.ops.convert_to_tensor(trace) + 0.5 * gradient)
        super().update_step(gradient, variable, learning_rate)


def test_a_model_with_a_subclass_is_saved_completely(tmp_path):
    network = models.model()
    models.fit(network, Averaging(0.01), epochs=1, jit_compile=False)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    want = {k.removeprefix("model/"): v for k, v in network.optimizer.state_dict().items()}
    assert np.any(want["last/kernel/trace"])
    got = {k.removeprefix("model/"): v for k, v in loaded.optimizer.state_dict().items()}
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value)
