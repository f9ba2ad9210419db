"""Test that the arrays that a program holds stay readable after any further steps."""

import copy
from typing import Any

import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins
from tests.tools.twins import Training

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

import jax
import jax.numpy as jnp

from tests.tools.steps_jax import SLOTS, arrays

ALIASES = [lambda x: jax.device_put(x, jax.devices()[0]), lambda x: x.addressable_data(0)]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_that_jax_made_of_a_weight_stays_readable_after_later_steps(alias):
    training = Training(SLOTS)
    for t in range(3):
        training.step(t)
    aliases = [alias(v.value) for v in training.variables]
    values = [np.array(v.value) for v in training.variables]
    for t in range(3, 10):
        training.step(t)
    models.assert_identical(aliases, values)


@pytest.mark.parametrize("index", range(6), ids="field {}".format)
def test_a_snapshot_stays_readable(compiled_calls, index):
    training, other = Training(SLOTS), Training(SLOTS)
    for t in range(4):
        training.step(t)
        other.step(t)
    snapshot = training.optimizer._roster.parameters[1][index].value
    value = np.array(snapshot)
    for t in range(4, 8):
        training.step(t)
        other.step(t)
    assert len(compiled_calls) == 12
    np.testing.assert_array_equal(snapshot, value)
    # A snapshot does not change a bit of the training either.
    models.assert_identical(training.state(), other.state())


def test_all_variables_kept_at_every_step_stay_readable(compiled_calls):
    training = Training(SLOTS)
    kept = []
    for t in range(7):
        training.step(t)
        kept.append((arrays(training), models.values(arrays(training))))
    assert len(compiled_calls) == 5
    for snapshot, values in kept:
        models.assert_identical(snapshot, values)


def test_the_arrays_of_the_step_before_can_be_put_back():
    training = Training(SLOTS)
    for t in range(4):
        training.step(t)
    owners = [*training.variables, *training.optimizer.variables]
    before = arrays(training)
    training.step(4)
    once = training.state()
    for _ in range(3):
        for owner, array in zip(owners, before, strict=True):
            owner.assign(array)
        training.step(4)
        models.assert_identical(training.state(), once)


def test_arrays_that_a_user_deleted_are_not_written_to():
    training, other = Training(SLOTS), Training(SLOTS)
    for t in range(4):
        training.step(t)
        other.step(t)
    held = arrays(training)
    training.step(4)
    for array in held:
        if all(array is not now for now in arrays(training)):
            array.delete()
    del held, array
    training.step(5)
    other.step(4)
    other.step(5)
    models.assert_identical(training.state(), other.state())


@pytest.mark.parametrize("export", [np.asarray, jnp.from_dlpack, memoryview])
@pytest.mark.parametrize("field", ["weight", "square_average"])
def test_a_view_keeps_its_values(compiled_calls, export, field):
    training = Training({})
    for t in range(3):
        training.step(t)
    view = export(getattr(training.optimizer._roster.parameters[1], field).value)
    value = np.array(view)
    for t in range(3, 7):
        training.step(t)
    np.testing.assert_array_equal(np.asarray(view), value)
    assert compiled_calls


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_that_jax_made_of_a_slot_stays_readable_after_later_steps(alias):
    training = Training({})
    for t in range(3):
        training.step(t)
    array = alias(training.optimizer._square_averages[1].value)
    value = np.array(array)
    for t in range(3, 7):
        training.step(t)
        np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("owner", ["weight", "square_average"])
def test_an_alias_does_not_keep_other_memory_from_being_reused(owner):
    training = Training({})
    for t in range(5):
        training.step(t)
    alias = ALIASES[0](getattr(training.optimizer._roster.parameters[1], owner).value)
    other = training.optimizer._roster.parameters[0]
    seen = []
    for t in range(5, 9):
        training.step(t)
        seen.append(getattr(other, owner).value.unsafe_buffer_pointer())
    assert seen[0] == seen[2] != seen[1] == seen[3]
    del alias


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_of_an_older_weight_can_be_put_back(alias):
    training, other = Training({}), Training({})
    for each in (training, other):
        for t in range(3):
            each.step(t)
        before = each.variables[1].value
        array = alias(before) if each is training else jnp.copy(before)
        del before
        each.step(3)
        each.variables[1].assign(array)
        del array
        for t in range(4, 7):
            each.step(t)
    models.assert_identical(training.state(), other.state())


def test_memory_of_an_assigned_numpy_array_is_not_written_to():
    training = Training({}, dtypes=("float32", "float32"))
    for t in range(3):
        training.step(t)
    memory = np.zeros(6 + 64, "float32")
    start = (-memory.ctypes.data % 64) // 4
    mine = memory[start : start + 6].reshape(2, 3)  # Aligned, so that JAX may share it.
    training.variables[1].assign(mine)
    for t in range(3, 7):
        training.step(t)
    assert not memory.any()


def test_weights_and_gradients_that_are_held_are_never_overwritten(compiled_calls):
    training = Training({})
    for t in range(2):
        training.step(t)
    weights = [variable.value for variable in training.variables]
    gradients = [jnp.ones(shape) for shape in twins.SHAPES]
    values = models.values([*weights, *gradients])
    for _ in range(4):
        training.apply(gradients)
    assert compiled_calls
    models.assert_identical([*weights, *gradients], values)


def test_two_variables_may_share_an_array():
    training, other = Training({}), Training({})
    for each in (training, other):
        for t in range(3):
            each.step(t)
        zero = jnp.zeros((2, 3))
        slot = each.optimizer._square_averages[1]
        each.variables[1].assign(zero)
        slot.assign(zero if each is training else jnp.copy(zero))
        del zero
        for t in range(3, 6):
            each.step(t)
    models.assert_identical(training.state(), other.state())


def test_two_optimizers_may_move_the_same_variables():
    def trajectory(mode: Any) -> list[Any]:
        training = Training({"jit_compile": mode})
        second = keras_rmsprop.RMSprop(0.05, centered=True, jit_compile=mode)
        for t in range(8):
            training.step(t)
            second.apply([jnp.ones(shape) for shape in twins.SHAPES], training.variables)
        return training.state()

    for mine, theirs in zip(trajectory("auto"), trajectory(False), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-9)


# As with Keras's class, the copy of an optimizer is not built and starts afresh.
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_copy_in_the_middle_of_training_leaves_the_original_unchanged():
    training = Training(SLOTS)
    for t in range(5):
        training.step(t)
    before = training.state()
    twin = copy.deepcopy(training)
    for t in range(5, 8):
        twin.step(t)
    models.assert_identical(training.state(), before)
    assert int(twin.optimizer._iterations) == 3


@pytest.mark.parametrize("how", ["overwrites", "finalizes"])
def test_a_weight_that_was_set_to_its_average_stays_readable(compiled_calls, how):
    overwrites = {"ema_overwrite_frequency": 1} if how == "overwrites" else {}
    training = Training({"use_ema": True, "ema_momentum": 0.5, **overwrites})
    for t in range(3):
        training.step(t)
    if how == "finalizes":
        training.optimizer.finalize_variable_values(training.variables)
    weights = [variable.value for variable in training.variables]
    values = models.values(weights)
    training.step(3)
    assert compiled_calls
    models.assert_identical(weights, values)


def test_a_weight_that_a_user_set_to_the_slots_own_array_stays_readable(compiled_calls):
    training = Training({"use_ema": True})
    for t in range(3):
        training.step(t)
    average = training.optimizer._model_variables_moving_average[1]
    training.variables[1].assign(average)
    training.step(3)
    training.step(4)
    assert len(compiled_calls) == 4
    assert all(np.isfinite(x).all() for x in training.state())


@pytest.mark.parametrize("jitted", [False, True], ids="jitted={}".format)
def test_stateless_apply_leaves_the_variables_and_its_arguments_unchanged(
    float64, compiled_calls, jitted
):
    training, other = Training(SLOTS), Training({**SLOTS, "jit_compile": False})
    for t in range(3):
        training.step(t)
        other.step(t)
    compiled_calls.clear()
    optimizer = training.optimizer
    apply = jax.jit(optimizer.stateless_apply) if jitted else optimizer.stateless_apply
    gradients = [jnp.ones(shape) for shape in twins.SHAPES]
    slots = [v.value for v in optimizer.variables]
    weights = [v.value for v in training.variables]
    before = models.values([*weights, *slots])
    for _ in range(2):
        new_weights, new_slots = apply(slots, gradients, weights)
    assert not compiled_calls
    models.assert_identical([*weights, *slots], before)
    assert all(v.value is w for v, w in zip(training.variables, weights, strict=True))
    other.apply(gradients)
    for mine, theirs in zip([*new_weights, *new_slots], other.state(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-15)
