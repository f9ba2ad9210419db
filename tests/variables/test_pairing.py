"""Test which saved state each variable gets when other variables were saved."""

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.tools import models
from tests.tools.states import (
    CALLS,
    RATE,
    SHAPE,
    assert_same_state,
    built,
    load,
    saved,
    step,
    trained,
    weights,
)

VARIABLES = {
    "a layer is appended": (["a", "b"], ["a", "b", "c"]),
    "the last layer is gone": (["a", "b", "c"], ["a", "b"]),
    "a layer stands between": (["a", "b"], ["a", "c", "b"]),
    "unfrozen layers come first": (["c"], ["a", "b", "c"]),
    "the first layers are frozen": (["a", "b", "c"], ["c"]),
    "the order is another and one is gone": (["c", "a", "b"], ["a", "b"]),
    "another one, too": (["c", "a", "b"], ["a", "b", "d", "e"]),
}


@pytest.mark.parametrize(("before", "after"), VARIABLES.values(), ids=VARIABLES)
def test_a_variable_keeps_its_state_when(before, after):
    options = {"momentum": 0.5, "use_ema": True}
    old = trained(weights(*before), **options)
    new = built(weights(*after), **options)
    load(saved(old), new)

    kinds = ("square_average", "momentum", "average")
    report, state = new.load_report, new.state_dict()
    for name in after:
        slots = {f"{name}/{kind}" for kind in kinds}
        if name in before:
            assert slots <= set(report.restored)
            for slot in slots:
                np.testing.assert_array_equal(state[slot], old.state_dict()[slot])
        else:
            assert slots <= set(report.initialized)
            assert not np.any(state[f"{name}/square_average"])
    gone = {f"{name}/{kind}" for name in before if name not in after for kind in kinds}
    assert set(report.dropped) == gone
    assert int(new.iterations) == CALLS


def test_as_many_variables_of_the_same_shapes_are_matched_by_position():
    old = trained(weights("b", "a"))
    new = built(weights("a", "b"))
    assert load(saved(old), new) == []
    # As with weights: a model's file gives its first weight to the first variable.
    want = [old.state_dict()[f"{name}/square_average"] for name in "ba"]
    models.assert_identical([new.state_dict()[f"{name}/square_average"] for name in "ab"], want)
    assert new.load_report.notes == ()


def test_two_layers_made_in_the_other_order_in_a_new_process_keep_their_averages(tmp_path):
    def network(second_first: bool) -> keras.Model:
        keras.backend.clear_session()
        layers = [keras.layers.Dense(4), keras.layers.Dense(4)][:: -1 if second_first else 1]
        assert [layer.name for layer in layers] == ["dense", "dense_1"][
            :: -1 if second_first else 1
        ]
        x = keras.Input((4,))
        model = keras.Model(x, layers[1](layers[0](x)))
        model.compile(keras_rmsprop.RMSprop(RATE), loss="mse")
        model.optimizer.build(model.trainable_variables)
        return model

    first = network(False)
    step(first.optimizer, first.trainable_variables, range(3))
    first.save_weights(tmp_path / "all.weights.h5")
    second = network(True)
    second.load_weights(tmp_path / "all.weights.h5")
    models.assert_identical(second.get_weights(), first.get_weights())
    models.assert_identical(
        models.values(second.optimizer.variables), models.values(first.optimizer.variables)
    )


def in_layer(layer: str, shape: tuple[int, ...] = SHAPE) -> keras.Variable:
    with keras.name_scope(layer):
        return weights("a", shape=shape)[0]


def test_generated_names_are_not_matched_if_positions_are_ambiguous():
    old = trained([in_layer("dense"), in_layer("dense_1"), in_layer("dense_2")])
    new = built([in_layer("dense_1")])
    (warning,) = load(saved(old), new)
    assert "start afresh" in warning
    assert new.load_report.initialized == ("dense_1/a/square_average",)
    # Only one saved variable has this shape, so the match is certain.
    old = trained([in_layer("dense"), in_layer("dense_1", shape=(3,))])
    new = built([in_layer("dense_1")])
    load(saved(old), new)
    assert new.load_report.notes == (
        "other variables were saved than there are; these were matched by their shapes: dense_1/a",
    )
    want = old.state_dict()["dense/a/square_average"]
    models.assert_identical([new.state_dict()["dense_1/a/square_average"]], [want])


def test_the_report_lists_the_variables_that_were_matched_by_name():
    old = trained(weights("a", "b", "c"))
    new = built(weights("c", "b"))
    (warning,) = load(saved(old), new)
    (note,) = new.load_report.notes
    assert note.endswith("these were matched by their names: c, b")
    assert note in warning


def test_names_match_with_and_without_the_name_of_the_model():
    # Loading a model removes its name from its variables' paths.
    with keras.name_scope("model"):
        variables = weights("a", "b", "c")
    old = trained(variables)
    assert "model/a/square_average" in old.state_dict()
    new = built(weights("b", "a"))
    load(saved(old), new)
    want = [old.state_dict()[f"model/{name}/square_average"] for name in "ab"]
    models.assert_identical([new.state_dict()[f"{name}/square_average"] for name in "ab"], want)

    other = built(weights("c", "b", "a"))
    other.load_state_dict(old.state_dict())
    models.assert_identical([other.state_dict()[f"{name}/square_average"] for name in "ab"], want)


def test_variables_of_one_name_are_distinguished_by_their_order():
    variables = [*weights("w"), *weights("w", shape=(2,))]
    old = trained(variables)
    new = built(variables)
    assert load(saved(old), new) == []
    assert set(old.state_dict()) >= {"w/square_average", "w#1/square_average"}
    assert_same_state(new, old.state_dict())


def test_a_slot_whose_shape_does_not_fit_starts_afresh_and_the_rest_is_loaded():
    old = trained([*weights("a"), *weights("b", shape=(2, 5))])
    new = trained([*weights("a"), *weights("b", shape=(5, 2))], calls=2)
    (warning,) = load(saved(old), new)
    assert "in the place of b has shape (2, 5), where (5, 2) is needed" in warning
    assert new.load_report.initialized == new.load_report.dropped == ("b/square_average",)
    state = new.state_dict()
    np.testing.assert_array_equal(state["a/square_average"], old.state_dict()["a/square_average"])
    assert not np.any(state["b/square_average"])
    assert state["iteration"] == CALLS
