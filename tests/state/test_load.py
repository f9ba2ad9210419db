"""Test how state is loaded when options have changed since it was saved."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.tools import models
from tests.tools.states import (
    CALLS,
    EVERYTHING,
    RATE,
    SHAPE,
    assert_same_state,
    built,
    load,
    on_tensorflow,
    saved,
    step,
    trained,
    weights,
)

SAME = {
    "plain": {},
    "every slot": EVERYTHING,
    "bias corrected": {"bias_correction": True},
    "scheduled": {"learning_rate": keras.optimizers.schedules.ExponentialDecay(RATE, 3, 0.5)},
    "lazy": {"lazy": True},
}


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_saved_state_is_restored_completely_and_training_goes_on_bit_for_bit(options):
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


def test_without_a_load_there_is_no_report():
    assert built(weights("a")).load_report is None


# An option, and the state that it adds.
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
        # The mean is added to the average of squares, so nothing is lost.
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
def test_other_accumulation_steps_keep_the_step_count_and_drop_the_incomplete_sum(steps):
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
def test_a_buffer_of_steps_and_one_of_directions_are_converted_into_each_other(lr_in_momentum):
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


def test_a_buffer_that_cannot_be_converted_starts_afresh():
    variables = weights("a")
    schedule = keras.optimizers.schedules.ExponentialDecay(RATE, 3, 0.5)
    before = trained(variables, momentum=0.75, learning_rate=schedule)
    after = built(variables, momentum=0.75, learning_rate=schedule, lr_in_momentum=False)
    (warning,) = load(saved(before), after)
    assert after.load_report.initialized == after.load_report.dropped == ("a/momentum",)
    assert "a/momentum" in warning
    assert not np.any(after.state_dict()["a/momentum"])


def test_a_rate_that_a_schedule_replaces_is_reported_as_dropped():
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
def test_lazy_and_dense_state_are_converted_into_each_other(centered):
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


def test_keras_drops_all_state_for_one_changed_option() -> None:
    # Even the step counter is lost; this package keeps it.
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
