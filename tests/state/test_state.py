"""What becomes of the optimizer's state on loading, whatever has changed since it was saved?"""

import json
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import _state
from keras_rmsprop._state._file import FORMAT
from tests.conftest import BACKEND, since_keras
from tests.state.data import write as written
from tests.tools import models
from tests.tools.models import Array

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own")

SHAPE = (4, 3)
RATE = 2.0**-6
CALLS = 7

Store = dict[str, Array]


def weights(*names: str, shape: tuple[int, ...] = SHAPE) -> list[keras.Variable]:
    """Return variables of these names, each with values of its own name's, in floatx."""
    return [
        keras.Variable(_rng(name).normal(size=shape), dtype=keras.config.floatx(), name=name)
        for name in names
    ]


def built(variables: Sequence[keras.Variable], **options: Any) -> keras_rmsprop.RMSprop:
    """Return an optimizer of these variables that has made no step."""
    # How a step is run is not the question here, and compiling it takes seconds.
    optimizer = keras_rmsprop.RMSprop(**({"learning_rate": RATE, "jit_compile": False} | options))
    optimizer.build(variables)
    return optimizer


def step(optimizer: Any, variables: Sequence[keras.Variable], calls: Sequence[int]) -> None:
    """Apply the gradients of these calls, each variable's the same in any company."""
    for call in calls:
        gradients = [_rng(f"{v.name} {call}").normal(size=v.shape) for v in variables]
        optimizer.apply([keras.ops.cast(g, keras.config.floatx()) for g in gradients], variables)


def trained(
    variables: Sequence[keras.Variable], calls: int = CALLS, **options: Any
) -> keras_rmsprop.RMSprop:
    """Return an optimizer of these variables that has been called a few times."""
    optimizer = built(variables, **options)
    step(optimizer, variables, range(calls))
    return optimizer


def saved(optimizer: Any) -> Store:
    """Return what the optimizer puts into a Keras file."""
    store: Store = {}
    optimizer.save_own_variables(store)
    return {key: np.array(value) for key, value in store.items()}


def load(store: Store, optimizer: keras_rmsprop.RMSprop) -> list[str]:
    """Load, and return what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.load_own_variables(store)
    return [str(each.message) for each in caught if each.category is UserWarning]


def assert_same_state(got: keras_rmsprop.RMSprop, want: dict[str, Array]) -> None:
    """Fail unless the optimizer holds these arrays to the last bit."""
    state = got.state_dict()
    assert state.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(list(name.encode()))


# --- The same optimizer ----------------------------------------------------------------------

EVERYTHING = {
    "momentum": 0.5,
    "centered": True,
    "use_ema": True,
    "gradient_accumulation_steps": 3,
    "skip_nonfinite": True,
}
SAME = {
    "plain": {},
    "every slot": EVERYTHING,
    "bias corrected": {"bias_correction": True},
    "scheduled": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(RATE, 3, 0.5)},
    "lazy": {"lazy": True},
}


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_what_was_saved_is_restored_whole_and_goes_on_to_the_last_bit(options):
    variables, copies = weights("a", "b"), weights("a", "b")
    optimizer = trained(variables, **options)
    other = built(copies, **options)
    for variable, copy in zip(variables, copies, strict=True):
        copy.assign(variable)

    assert load(saved(optimizer), other) == []
    assert_same_state(other, optimizer.state_dict())
    assert other.load_report == (tuple(optimizer.state_dict()), (), ())
    for one, its_own in (optimizer, variables), (other, copies):
        step(one, its_own, range(CALLS, CALLS + 4))
    models.assert_identical(models.values(copies), models.values(variables))
    assert_same_state(other, optimizer.state_dict())


def test_no_load_no_report():
    assert built(weights("a")).load_report is None


# --- Other options ---------------------------------------------------------------------------

# An option, and the kinds of slots that it needs.
OPTIONS = {
    "momentum": ({"momentum": 0.5}, ["a/momentum", "b/momentum"]),
    "centered": ({"centered": True}, ["a/gradient_average", "b/gradient_average"]),
    "ema": ({"use_ema": True}, ["a/average", "b/average"]),
    "accumulation": ({"gradient_accumulation_steps": 2}, ["a/accumulator", "b/accumulator"]),
    "skip_nonfinite": ({"skip_nonfinite": True}, ["skipped_steps"]),
}


@pytest.mark.parametrize(("option", "slots"), OPTIONS.values(), ids=OPTIONS)
def test_adding_an_option_keeps_everything_else(option, slots):
    variables = weights("a", "b")
    before = trained(variables, learning_rate=2 * RATE)
    after = built(variables, **option)
    (warning,) = load(saved(before), after)
    assert sorted(after.load_report.initialized) == slots
    assert sorted(after.load_report.restored) == sorted(before.state_dict())
    assert after.load_report.dropped == ()
    assert "start afresh" in warning
    assert all(slot in warning for slot in slots)
    assert int(after.iterations) == CALLS
    state = after.state_dict()
    for name, value in before.state_dict().items():
        calls = CALLS * option.get("gradient_accumulation_steps", 1)
        np.testing.assert_array_equal(state[name], calls if name == "iteration" else value)


@pytest.mark.parametrize(("option", "slots"), OPTIONS.values(), ids=OPTIONS)
def test_removing_an_option_keeps_everything_else(option, slots):
    variables = weights("a", "b")
    before = trained(variables, calls=8, learning_rate=2 * RATE, **option)
    after = built(variables)
    caught = load(saved(before), after)
    assert after.load_report.initialized == ()
    if "centered" in option:
        # The mean has gone into the average of squares, so nothing is lost.
        assert caught == []
        assert after.load_report.dropped == ()
    else:
        assert sorted(after.load_report.dropped) == slots
        assert len(caught) == 1
        assert "not needed" in caught[0]
    assert int(after.iterations) == int(before.iterations)
    state, old = after.state_dict(), before.state_dict()
    assert state["learning_rate"] == old["learning_rate"]
    for name in ("a", "b"):
        want = old[f"{name}/square_average"] + old.get(f"{name}/gradient_average", 0.0) ** 2
        np.testing.assert_array_equal(state[f"{name}/square_average"], want)


def test_an_average_of_the_weights_that_is_added_starts_as_a_copy_of_them():
    variables = weights("a")
    before = trained(variables)
    after = built(variables, use_ema=True)
    load(saved(before), after)
    models.assert_identical([after.state_dict()["a/average"]], models.values(variables))


@pytest.mark.parametrize("steps", [None, 2, 4], ids="to {}".format)
def test_other_accumulation_steps_keep_the_steps_made_and_drop_the_sum_begun(steps):
    variables = weights("a")
    before = trained(variables, gradient_accumulation_steps=3)
    after = built(variables, gradient_accumulation_steps=steps)
    load(saved(before), after)
    assert int(before.iterations) == int(after.iterations) == CALLS // 3
    assert after.load_report.dropped == ("a/accumulator",)
    assert not np.any(after.state_dict().get("a/accumulator", 0.0))
    # A whole number of steps, so that the next sum begins with the next call.
    assert after.state_dict()["iteration"] == CALLS // 3 * (steps or 1)


@pytest.mark.parametrize("lr_in_momentum", [False, True], ids="to {}".format)
@pytest.mark.usefixtures("float64")
def test_a_buffer_of_steps_and_one_of_directions_are_taken_into_each_other(lr_in_momentum):
    variables, copies = weights("a"), weights("a")
    start = models.values(variables)
    before = trained(variables, momentum=0.75, lr_in_momentum=not lr_in_momentum)
    after = built(copies, momentum=0.75, lr_in_momentum=lr_in_momentum)
    copies[0].assign(variables[0])
    assert load(saved(before), after) == []
    # Under a constant rate the two make the same steps.
    for one, its_own in (before, variables), (after, copies):
        step(one, its_own, range(CALLS, CALLS + 4))
    models.assert_same(models.values(copies), models.values(variables), start, steps=CALLS + 4)


def test_a_buffer_that_cannot_be_taken_over_starts_afresh():
    variables = weights("a")
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 3, 0.5)
    before = trained(variables, momentum=0.75, learning_rate=schedule)
    after = built(variables, momentum=0.75, learning_rate=schedule, lr_in_momentum=False)
    (warning,) = load(saved(before), after)
    assert after.load_report.initialized == after.load_report.dropped == ("a/momentum",)
    assert "a/momentum" in warning
    assert not np.any(after.state_dict()["a/momentum"])


def test_a_rate_that_a_schedule_replaces_is_said_to_be_dropped():
    variables = weights("a")
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 3, 0.5)
    after = built(variables, learning_rate=schedule)
    load(saved(trained(variables)), after)
    assert after.load_report.dropped == ("learning_rate",)
    back = built(variables, learning_rate=RATE)
    load(saved(after), back)
    assert back.load_report.initialized == ("learning_rate",)
    assert back.state_dict()["learning_rate"] == RATE


@on_tensorflow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
def test_a_lazy_state_is_settled_for_a_dense_optimizer_and_up_to_date_in_the_reverse(centered):
    import tensorflow as tf

    def touch(optimizer: Any, table: keras.Variable, row: int) -> None:
        rows = tf.IndexedSlices(tf.fill((1, SHAPE[1]), tf.constant(0.5, "float64")), [row])
        optimizer.apply([rows], [table])

    (table,) = weights("a")
    lazy = built([table], lazy=True, centered=centered)
    dense = built([table], centered=centered)
    for optimizer in (lazy, dense):
        for row in (0, 1, 1, 2):
            touch(optimizer, table, row)

    to_dense = built([table], centered=centered)
    assert load(saved(lazy), to_dense) == []
    to_lazy = built([table], lazy=True, centered=centered)
    assert load(saved(dense), to_lazy) == []
    assert to_lazy.state_dict()["a/updates"] == 0
    for loaded in (to_dense, to_lazy):
        state = loaded.state_dict()
        for name, value in dense.state_dict().items():
            np.testing.assert_allclose(state[name], value, rtol=1e-14, err_msg=name)


# --- Other variables -------------------------------------------------------------------------

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


def test_as_many_variables_of_the_same_shapes_go_by_position_whatever_their_names():
    old = trained(weights("b", "a"))
    new = built(weights("a", "b"))
    assert load(saved(old), new) == []
    # As weights are: a file of the model gives the first weight to the first.
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


def test_names_that_keras_made_up_tell_nothing_where_positions_cannot_either():
    old = trained([in_layer("dense"), in_layer("dense_1"), in_layer("dense_2")])
    new = built([in_layer("dense_1")])
    (warning,) = load(saved(old), new)
    assert "start afresh" in warning
    assert new.load_report.initialized == ("dense_1/a/square_average",)
    # Of its shape there is only one, so that it cannot be another.
    old = trained([in_layer("dense"), in_layer("dense_1", shape=(3,))])
    new = built([in_layer("dense_1")])
    load(saved(old), new)
    assert new.load_report.notes == (
        "other variables were saved than there are; these were matched by their shapes: dense_1/a",
    )
    want = old.state_dict()["dense/a/square_average"]
    models.assert_identical([new.state_dict()["dense_1/a/square_average"]], [want])


def test_the_report_says_which_variables_their_names_told():
    old = trained(weights("a", "b", "c"))
    new = built(weights("c", "b"))
    (warning,) = load(saved(old), new)
    (note,) = new.load_report.notes
    assert note.endswith("these were matched by their names: c, b")
    assert note in warning


def test_names_are_the_same_with_and_without_the_models_name():
    # Loading a model takes its name off its variables' paths.
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


def test_variables_of_one_name_are_told_apart_by_their_order():
    variables = [*weights("w"), *weights("w", shape=(2,))]
    old = trained(variables)
    new = built(variables)
    assert load(saved(old), new) == []
    assert set(old.state_dict()) >= {"w/square_average", "w#1/square_average"}
    assert_same_state(new, old.state_dict())


def test_a_slot_whose_shape_does_not_fit_starts_afresh_and_the_rest_is_taken():
    old = trained([*weights("a"), *weights("b", shape=(2, 5))])
    new = trained([*weights("a"), *weights("b", shape=(5, 2))], calls=2)
    (warning,) = load(saved(old), new)
    assert "in the place of b has shape (2, 5), where (5, 2) is needed" in warning
    assert new.load_report.initialized == new.load_report.dropped == ("b/square_average",)
    state = new.state_dict()
    np.testing.assert_array_equal(state["a/square_average"], old.state_dict()["a/square_average"])
    assert not np.any(state["b/square_average"])
    assert state["iteration"] == CALLS


# --- Before the optimizer is built -----------------------------------------------------------


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
def test_an_optimizer_that_is_not_built_takes_nothing_from_a_file(tmp_path, optimizer_class):
    fresh = unbuilt(tmp_path, optimizer_class)
    start = fresh.get_weights()
    got = models.go_on(fresh)
    assert float(fresh.optimizer.learning_rate) == RATE / 4
    assert int(fresh.optimizer.iterations) == 2 * models.BATCHES
    # As if the weights had come without any state.
    other = models.model()
    other.set_weights(start)
    want = models.fit(other, optimizer_class(RATE / 4, momentum=0.5), run_eagerly=True)
    models.assert_identical(got, want)


def test_what_is_not_taken_is_said_with_the_way_to_take_it():
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
def test_a_file_without_a_training_says_nothing_to_an_optimizer_that_is_not_built(store):
    new = keras_rmsprop.RMSprop(RATE)
    assert load(store(), new) == []
    assert float(new.learning_rate) == RATE


def _untrained(optimizer: Any) -> Any:
    optimizer.build(weights("a"))
    return optimizer


@pytest.mark.parametrize("store", [dict, lambda: saved(keras_rmsprop.RMSprop())])
def test_a_file_without_state_leaves_a_trained_optimizer_as_it_is(store):
    optimizer = trained(weights("a"))
    before = optimizer.state_dict()
    (warning,) = load(store(), optimizer)
    assert "The optimizer goes on with the state it has." in warning
    assert_same_state(optimizer, before)
    assert optimizer.load_report.restored == optimizer.load_report.initialized == ()


def test_a_model_that_was_saved_before_its_first_step_is_opened_without_a_word(tmp_path):
    network = models.model()
    network.compile(keras_rmsprop.RMSprop(RATE), loss="mse")
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.built


# --- Files of Keras's own RMSprop ------------------------------------------------------------

KERAS_OPTIONS = {
    "plain": {},
    "momentum": {"momentum": 0.5},
    "centered": {"centered": True},
    "ema": {"use_ema": True, "ema_momentum": 0.5},
    "accumulation": {"gradient_accumulation_steps": 3},
    "scheduled": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(RATE, 3, 0.5)},
    "everything": {
        "momentum": 0.5,
        "centered": True,
        "use_ema": True,
        "gradient_accumulation_steps": 3,
    },
}


def keras_trained(variables: Sequence[keras.Variable], **options: Any) -> Any:
    """Return Keras's own optimizer, called a few times."""
    theirs = keras.optimizers.RMSprop(**({"learning_rate": RATE} | options))
    theirs.build(variables)
    step(theirs, variables, range(CALLS))
    return theirs


@pytest.mark.parametrize("options", KERAS_OPTIONS.values(), ids=KERAS_OPTIONS)
def test_a_training_begun_with_keras_goes_on_as_keras_would(options):
    variables, copies = weights("a", "b"), weights("a", "b")
    start = models.values(variables)
    theirs = keras_trained(variables, **options)
    ours = built(copies, **options)
    for variable, copy in zip(variables, copies, strict=True):
        copy.assign(variable)
    assert load(saved(theirs), ours) == []
    for one, its_own in (theirs, variables), (ours, copies):
        step(one, its_own, range(CALLS, CALLS + 5))
    models.assert_same(models.values(copies), models.values(variables), start, steps=CALLS + 5)
    assert int(ours.iterations) == int(theirs.iterations)


def test_keras_state_of_fewer_layers_and_options_is_taken_as_far_as_it_goes():
    theirs = keras_trained(weights("a"), momentum=0.5)
    ours = built(weights("a", "b"), momentum=0.5)
    (warning,) = load(saved(theirs), ours)
    assert ours.load_report.initialized == ("b/square_average", "b/momentum")
    assert "b/momentum" in warning

    ours = built(weights("a"), momentum=0.5)
    (warning,) = load(saved(keras_trained(weights("a"))), ours)
    assert ours.load_report.initialized == ("a/momentum",)


def _adam(variables: Sequence[keras.Variable]) -> Any:
    return _stepped(keras.optimizers.Adam(RATE), variables)


def _sgd(variables: Sequence[keras.Variable]) -> Any:
    return _stepped(keras.optimizers.SGD(RATE, momentum=0.5), variables)


def _rmsprop(variables: Sequence[keras.Variable]) -> Any:
    return keras_trained(variables, momentum=0.5)


def _stepped(optimizer: Any, variables: Sequence[keras.Variable]) -> Any:
    optimizer.build(variables)
    step(optimizer, variables, range(CALLS))
    return optimizer


# What saved the arrays, and the momentum of the optimizer that is given them.
OTHERS = {
    "momentum that may be a mean": (_rmsprop, 0.0),
    "moments of Adam": (_adam, 0.0),
    "moments of Adam, as many": (_adam, 0.5),
    "momentum of SGD, as many": (_sgd, 0.0),
    "momentum of SGD": (_sgd, 0.5),
    "LossScaleOptimizer": (lambda variables: _scaling(keras.optimizers, variables), 0.0),
    "LossScaleOptimizer of this one": (lambda variables: _scaling(keras_rmsprop, variables), 0.0),
    "sums of Adagrad that has not moved": (
        lambda variables: _build(keras.optimizers.Adagrad(RATE), variables),
        0.0,
    ),
}


def _build(optimizer: Any, variables: Sequence[keras.Variable]) -> Any:
    optimizer.build(variables)
    return optimizer


def _scaling(package: Any, variables: Sequence[keras.Variable]) -> Any:
    scaling = keras.optimizers.LossScaleOptimizer(package.RMSprop(RATE))
    scaling.build(variables)
    step(scaling.inner_optimizer, variables, range(CALLS))
    return scaling


@pytest.mark.parametrize(("other", "momentum"), OTHERS.values(), ids=OTHERS)
def test_arrays_that_could_be_anything_are_dropped_with_one_warning(other, momentum):
    variables = weights("a", "b")
    theirs = other(variables)
    ours = trained(variables, calls=2, momentum=momentum)
    before = ours.state_dict()
    (warning,) = load(saved(theirs), ours)
    assert "state of another optimizer" in warning
    assert_same_state(ours, before)
    assert ours.load_report == ((), (), tuple(sorted(saved(theirs))))


# --- state_dict ------------------------------------------------------------------------------


def test_a_state_dict_is_arrays_by_name_and_a_snapshot():
    variables = weights("a", "b")
    optimizer = trained(variables, momentum=0.5, skip_nonfinite=True)
    state = optimizer.state_dict()
    assert set(state) == {
        "iteration",
        "learning_rate",
        "skipped_steps",
        *(f"{name}/{kind}" for name in "ab" for kind in ("square_average", "momentum")),
    }
    assert all(type(value) is np.ndarray for value in state.values())
    before = {name: value.copy() for name, value in state.items()}
    step(optimizer, variables, range(CALLS, CALLS + 2))
    models.assert_identical(state.values(), before.values())


def test_a_state_dict_goes_by_name_into_another_order():
    old = trained(weights("a", "b"), **EVERYTHING)
    new = built(weights("b", "a"), **EVERYTHING)
    new.load_state_dict(old.state_dict())
    for name, value in old.state_dict().items():
        np.testing.assert_array_equal(new.state_dict()[name], value)


def test_a_state_dict_of_lists_and_numbers_is_taken():
    optimizer = built(weights("a", shape=(2,)))
    optimizer.load_state_dict(
        {"iteration": 3, "learning_rate": 0.5, "a/square_average": [1.0, 2.0]}
    )
    assert int(optimizer.iterations) == 3
    np.testing.assert_array_equal(optimizer.state_dict()["a/square_average"], [1.0, 2.0])


def test_a_strict_state_dict_names_what_is_missing_and_what_is_unknown():
    optimizer = trained(weights("a"), momentum=0.5)
    before = optimizer.state_dict()
    state = dict(before, surplus=np.zeros(2))
    del state["a/momentum"]
    with pytest.raises(ValueError, match=r"Missing: \['a/momentum'\]. Unknown: \['surplus'\]"):
        optimizer.load_state_dict(state)
    assert_same_state(optimizer, before)


def test_a_state_dict_that_is_not_strict_loads_what_matches():
    optimizer = trained(weights("a"), momentum=0.5)
    state = optimizer.state_dict()
    with pytest.warns(UserWarning, match="afresh: iteration, learning_rate, a/momentum"):
        optimizer.load_state_dict({"a/square_average": state["a/square_average"]}, strict=False)
    assert optimizer.load_report.restored == ("a/square_average",)
    assert set(optimizer.load_report.initialized) == {"iteration", "learning_rate", "a/momentum"}
    assert int(optimizer.iterations) == 0
    assert not np.any(optimizer.state_dict()["a/momentum"])


def test_a_state_dict_about_the_mean_is_taken_about_zero_where_there_is_no_mean():
    variables = weights("a")
    old = trained(variables, centered=True).state_dict()
    new = built(variables)
    new.load_state_dict(old, strict=False)
    want = old["a/square_average"] + old["a/gradient_average"] ** 2
    np.testing.assert_array_equal(new.state_dict()["a/square_average"], want)


def test_a_state_dict_needs_a_built_optimizer():
    with pytest.raises(ValueError, match="must be built first"):
        keras_rmsprop.RMSprop().load_state_dict({})


WRONG = {
    "a shape": (np.zeros((3, 4)), r"shape \(3, 4\).*shape \(4, 3\)"),
    "text": (np.full(SHAPE, "x"), "holds no numbers"),
    "objects": (np.full(SHAPE, object()), "holds no numbers"),
}


@pytest.mark.parametrize(("value", "message"), WRONG.values(), ids=WRONG)
def test_a_state_dict_with_a_wrong_entry_is_refused_whole(value, message):
    optimizer = trained(weights("a"), momentum=0.5)
    before = optimizer.state_dict()
    state = {name: array + 1 for name, array in before.items()} | {"a/momentum": value}
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert_same_state(optimizer, before)


# --- More variables for a built optimizer ----------------------------------------------------


def test_added_variables_leave_the_state_there_is_and_start_afresh():
    variables = weights("b", "c")
    optimizer = trained(variables, momentum=0.5, use_ema=True)
    before = optimizer.state_dict()
    more = weights("a")
    optimizer.add_variables(more)
    state = optimizer.state_dict()
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value)
    assert set(state) - set(before) == {"a/square_average", "a/momentum", "a/average"}
    assert not np.any(state["a/square_average"])
    models.assert_identical([state["a/average"]], models.values(more))


@pytest.mark.usefixtures("float64")
def test_each_variable_goes_on_with_its_own_slots_whatever_order_they_are_added_in():
    options = {"momentum": 0.5, "centered": True, "gradient_accumulation_steps": 2}
    variables = weights("a", "b", "c")
    joined = trained(variables[:0:-1], calls=3, **options)
    joined.add_variables(variables)
    step(joined, variables, range(3, 9))

    # Variables do not act on each other, so two optimizers do what the joined one does.
    copies = weights("a", "b", "c")
    early = trained(copies[1:], calls=3, **options)
    late = built(copies[:1], **options)
    late.load_state_dict(late.state_dict() | {"iteration": 3})
    step(early, copies[1:], range(3, 9))
    step(late, copies[:1], range(3, 9))
    models.assert_identical(models.values(variables), models.values(copies))


def test_variables_added_to_an_optimizer_that_is_not_built_build_it():
    variables = weights("a")
    optimizer = keras_rmsprop.RMSprop()
    optimizer.add_variables(variables)
    assert optimizer.built
    assert "a/square_average" in optimizer.state_dict()


def test_layers_unfrozen_during_training_join_in_fit_and_come_back_from_a_file(tmp_path):
    network = models.model()
    hidden = network.layers[0]
    hidden.trainable = False
    models.fit(network, keras_rmsprop.RMSprop(RATE, momentum=0.5))
    frozen = models.values(hidden.weights)
    before = network.optimizer.state_dict()

    hidden.trainable = True
    network.optimizer.add_variables(network.trainable_variables)
    for name, value in before.items():
        np.testing.assert_array_equal(network.optimizer.state_dict()[name], value)
    models.fit(network, network.optimizer)
    assert np.any(models.values(hidden.weights)[0] != frozen[0])
    assert int(network.optimizer.iterations) == 4 * models.BATCHES

    network.save_weights(tmp_path / "all.weights.h5")
    want = models.go_on(network)
    other = models.model()
    other.compile(keras_rmsprop.RMSprop(RATE, momentum=0.5), loss="mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "all.weights.h5")
    models.assert_identical(models.go_on(other), want)


# --- Files -----------------------------------------------------------------------------------


def test_a_file_holds_numbers_and_json_and_nothing_that_could_run():
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
    # One that is not built takes no state, so that it need not read it.
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
    """A saved model of which one slot has another shape than its weight."""
    network = models.model()
    models.fit(network, keras_rmsprop.RMSprop(RATE), epochs=1)
    state = _state.state_of(network.optimizer._holder())
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
def test_a_truncated_file_is_an_error_and_leaves_the_optimizer(tmp_path, share):
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


# --- Files of this version, which later ones must read ---------------------------------------


def read(name: str) -> keras.Model:
    """Return a model with the weights and the optimizer of a file that version 0.1 wrote."""
    network = written.network()
    network.compile(written.optimizer(name), loss="mse")
    network.optimizer.build(network.trainable_variables)
    network.load_weights(written.HERE / f"{name}.weights.h5")
    models.assert_identical(network.get_weights(), written.weights())
    assert network.optimizer.load_report.initialized == ()
    assert network.optimizer.load_report.dropped == ()
    return network


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_weights_written_by_version_0_1_are_read(name):
    assert_same_state(read(name).optimizer, written.state(name))


def test_lazy_weights_written_by_version_0_1_are_read():
    optimizer = read("lazy").optimizer
    want = written.state("lazy")
    if BACKEND == "tensorflow":
        assert_same_state(optimizer, want)
        return
    # Where there are no sparse gradients, what the rows have missed is made up for.
    state = optimizer.state_dict()
    for name, shape in written.SHAPES.items():
        missed = want[f"{name}/updates"] - want[f"{name}/row_updates"]
        corrections = want[f"{name}/correction"] - want[f"{name}/row_corrections"]
        decay = (0.9**missed * np.exp(corrections)).reshape(-1, *[1] * (len(shape) - 1))
        square_average = want[f"{name}/square_average"]
        np.testing.assert_allclose(
            state[f"{name}/square_average"], decay * square_average, rtol=1e-6
        )


@since_keras("3.13", "knows the `quantization_config` of the file's layers")
def test_a_model_written_by_version_0_1_is_read_in_safe_mode():
    network = keras.saving.load_model(written.HERE / "everything.keras", safe_mode=True)
    models.assert_identical(network.get_weights(), written.weights())
    # Without the model's name, which loading takes off.
    state = written.state("everything")
    assert_same_state(
        network.optimizer, {name.removeprefix("model/"): state[name] for name in state}
    )
    config = network.optimizer.get_config()
    assert config == config | written.OPTIMIZERS["everything"]


def test_keras_drops_all_state_for_one_changed_option() -> None:
    """What this package mends: the step counter goes too."""
    variables = [keras.Variable([1.0, 2.0])]
    theirs = keras.optimizers.RMSprop(0.1)
    theirs.apply([keras.ops.ones((2,))], variables)
    store: dict[str, Any] = {}
    for i, variable in enumerate(theirs.variables):
        store[str(i)] = np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(variable)))
    changed = keras.optimizers.RMSprop(0.1, momentum=0.5)
    changed.build(variables)
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        changed.load_own_variables(store)
    assert int(changed.iterations) == 0
    ours = keras_rmsprop.RMSprop(0.1, momentum=0.5)
    ours.build(variables)
    with pytest.warns(UserWarning, match="loaded in part"):
        ours.load_own_variables(store)
    assert int(ours.iterations) == 1
