"""Test that late variables are added as in one build of all, or not at all."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.tools.states import (
    EVERYTHING,
    assert_same_state,
    built,
    on_tensorflow,
    step,
    trained,
    weights,
)
from tests.tools.subclass_variables import Traced, traced

JOINED = {
    "in front": ("bc", "abc"),
    "between": ("ac", "abc"),
    "behind": ("ab", "abc"),
    "on their own": ("ab", "c"),
}
OPTIONS = {
    "plain": {},
    "momentum and centered": {"momentum": 0.5, "centered": True},
    "every slot": EVERYTHING,
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("first", "then"), JOINED.values(), ids=JOINED)
def test_added_variables_are_placed_as_in_one_build_of_all(first, then, options):
    variables = dict(zip("abc", weights(*"abc"), strict=True))
    joined = traced([variables[name] for name in first], **options)
    before = joined.state_dict()
    old_ids = {id(v) for v in joined.variables}
    joined.add_variables([variables[name] for name in then])
    at_once = traced([variables[name] for name in "abc"], numbered=False, **options)
    # Keras numbers unnamed variables anew in each optimizer.
    names = [[v.path for v in o.variables if "/variable" not in v.path] for o in (joined, at_once)]
    assert [name.split("/")[-1] for name in names[0]] == [n.split("/")[-1] for n in names[1]]
    assert [v.shape for v in joined.variables] == [v.shape for v in at_once.variables]
    assert old_ids <= {id(v) for v in joined.variables}
    state = joined.state_dict()
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert list(state) == list(at_once.state_dict())

    at_once.set_weights([keras.ops.convert_to_numpy(v.value) for v in joined.variables])
    assert_same_state(at_once, state)
    assert len(joined.traces) == len(joined.by_key) == 3


@on_tensorflow
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("first", "then"), JOINED.values(), ids=JOINED)
def test_a_checkpoint_with_added_variables_fits_a_fresh_build(tmp_path, first, then, options):
    import tensorflow as tf

    variables = dict(zip("abc", weights(*"abc"), strict=True))
    joined = traced([variables[name] for name in first], **options)
    joined.add_variables([variables[name] for name in then])
    for i, variable in enumerate(joined.variables):
        variable.assign(keras.ops.cast(keras.ops.full(variable.shape, i + 1), variable.dtype))
    path = tf.train.Checkpoint(optimizer=joined).save(str(tmp_path / "checkpoint"))
    fresh = traced([variables[name] for name in "abc"], numbered=False, **options)
    tf.train.Checkpoint(optimizer=fresh).restore(path).assert_consumed()
    assert_same_state(fresh, joined.state_dict())


def test_a_variable_added_after_the_build_stays_when_others_are_added():
    optimizer = trained(weights("a"))
    late = optimizer.add_variable((), name="late")
    optimizer.add_variables(weights("b"))
    assert optimizer.variables[-1] is late
    assert "late" in optimizer.state_dict()


def identities(optimizer: Any) -> tuple[Any, ...]:
    """The attributes, variables and indices that a refused call must not change."""
    # The list of variables may be a new object; its content may not change.
    attributes = {
        name: id(value) for name, value in vars(optimizer).items() if name != "_variables"
    }
    variables = [id(v) for v in optimizer.variables]
    return attributes, variables, dict(optimizer._trainable_variables_indices)


class Halting(Traced):
    """An optimizer whose `build` fails half-way for a weight called `bad`."""

    def build(self, variables: Any) -> None:
        """Raise after Keras's part is done."""
        super().build(variables)
        if any(v.name == "bad" for v in variables):
            raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_refused_variables_leave_the_optimizer_unchanged(error):
    variables = weights("a", "b")
    optimizer = Halting(0.5, momentum=0.5, jit_compile=False)
    optimizer.error = error
    optimizer.build(variables)
    step(optimizer, variables, range(3))
    before, state = identities(optimizer), optimizer.state_dict()
    with pytest.raises(type(error)):
        optimizer.add_variables([*variables, *weights("bad")])
    for wrong in ("x", None):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            optimizer.add_variables([*variables, *weights("c"), wrong])
    assert identities(optimizer) == before
    assert_same_state(optimizer, state)
    step(optimizer, variables, range(3, 5))
    optimizer.add_variables(weights("d"))
    assert "d/trace" in optimizer.state_dict()

    fresh = Halting(0.5)
    fresh.error = error
    before = identities(fresh)
    with pytest.raises(type(error)):
        fresh.add_variables(weights("bad"))
    assert identities(fresh) == before
    assert not fresh.built


def test_a_build_that_fails_leaves_nothing_behind():
    optimizer = keras_rmsprop.RMSprop(momentum=0.5)
    before = identities(optimizer)
    with pytest.raises((TypeError, AttributeError)):
        optimizer.build([*weights("a"), "no variable"])
    assert identities(optimizer) == before
    optimizer.build(weights("a"))
    assert len(optimizer.variables) == 4


@on_tensorflow
def test_an_optimizer_that_refused_variables_can_be_saved_in_a_checkpoint(tmp_path):
    import tensorflow as tf

    variables = weights("a")
    optimizer = trained(variables, momentum=0.5)
    with pytest.raises(AttributeError):
        optimizer.add_variables([*variables, *weights("b"), None])
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    fresh = built(variables, momentum=0.5)
    tf.train.Checkpoint(optimizer=fresh).restore(path).assert_consumed()
    assert_same_state(fresh, optimizer.state_dict())
