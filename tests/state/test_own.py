"""What becomes of the variables that a subclass adds, and of those that join late?"""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.state.test_state import (
    EVERYTHING,
    assert_same_state,
    built,
    load,
    on_tensorflow,
    saved,
    step,
    trained,
    weights,
)
from tests.tools import models


class Traced(keras_rmsprop.RMSprop):
    """Keeps variables of its own: for each weight, for all, without a name, and as attributes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = self.add_variable((), name="scale")
        self.table = keras.Variable(np.ones(3, "float32"), name="table")

    def build(self, variables: Any) -> None:
        """Create them."""
        if self.built:
            return
        self.before = self.add_variable((2,), name="before")
        super().build(variables)
        self.traces = self.add_optimizer_variables(variables, "trace")
        # A name that a slot has, too.
        self.one, self.momentum_too = self.add_optimizer_variables(variables, ["one", "momentum"])
        self.by_key = {
            self._var_key(v): self.add_variable_from_reference(v, "keyed") for v in variables
        }
        self.unnamed = [self.add_variable((2,)) for _ in range(2)]


OWN = {"scale", "table", "before", "variable", "variable#1"}


def traced(variables: Any, numbered: bool = True, **options: Any) -> Traced:
    """Return a built one, each of its variables full of its own number."""
    optimizer = Traced(**({"learning_rate": 0.5, "jit_compile": False} | options))
    optimizer.build(variables)
    if numbered:
        for i, variable in enumerate(optimizer.variables):
            variable.assign(keras.ops.cast(keras.ops.full(variable.shape, i + 1), variable.dtype))
    return optimizer


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
def test_the_variables_of_a_subclass_come_back_from_a_file(options):
    optimizer = traced(weights("a", "b"), **options)
    fresh = traced(weights("a", "b"), numbered=False, **options)
    assert load(saved(optimizer), fresh) == []
    assert_same_state(fresh, optimizer.state_dict())


def test_the_variables_of_a_subclass_follow_their_weights_and_what_is_new_stays():
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
    """As a user would write it: it keeps the average of the gradients it was given."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Count in the gradient, and go on as usual."""
        trace = self.traces[self._get_variable_index(variable)]
        self.assign(trace, 0.5 * keras.ops.convert_to_tensor(trace) + 0.5 * gradient)
        super().update_step(gradient, variable, learning_rate)


def test_a_model_with_a_subclass_is_saved_whole(tmp_path):
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


# --- More variables --------------------------------------------------------------------------

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
def test_variables_that_join_stand_as_one_build_of_all_would_have_them(first, then, options):
    variables = dict(zip("abc", weights(*"abc"), strict=True))
    joined = traced([variables[name] for name in first], **options)
    before = joined.state_dict()
    held = {id(v) for v in joined.variables}
    joined.add_variables([variables[name] for name in then])
    at_once = traced([variables[name] for name in "abc"], numbered=False, **options)
    # Keras numbers the variables without a name anew in each optimizer.
    names = [[v.path for v in o.variables if "/variable" not in v.path] for o in (joined, at_once)]
    assert [name.split("/")[-1] for name in names[0]] == [n.split("/")[-1] for n in names[1]]
    assert [v.shape for v in joined.variables] == [v.shape for v in at_once.variables]
    assert held <= {id(v) for v in joined.variables}
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
def test_a_checkpoint_after_variables_joined_fits_a_fresh_build(tmp_path, first, then, options):
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


def test_a_variable_added_after_the_build_stays_when_others_join():
    optimizer = trained(weights("a"))
    late = optimizer.add_variable((), name="late")
    optimizer.add_variables(weights("b"))
    assert optimizer.variables[-1] is late
    assert "late" in optimizer.state_dict()


def held(optimizer: Any) -> tuple[Any, ...]:
    """What must not change where nothing may."""
    # The list of variables may be another one; what is in it may not.
    attributes = {
        name: id(value) for name, value in vars(optimizer).items() if name != "_variables"
    }
    variables = [id(v) for v in optimizer.variables]
    return attributes, variables, dict(optimizer._trainable_variables_indices)


class Halting(Traced):
    """Its `build` fails half-way for a weight called `bad`."""

    def build(self, variables: Any) -> None:
        """Fail after Keras's part is done."""
        super().build(variables)
        if any(v.name == "bad" for v in variables):
            raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_variables_that_are_refused_leave_the_optimizer_as_it_was(error):
    variables = weights("a", "b")
    optimizer = Halting(0.5, momentum=0.5, jit_compile=False)
    optimizer.error = error
    optimizer.build(variables)
    step(optimizer, variables, range(3))
    before, state = held(optimizer), optimizer.state_dict()
    with pytest.raises(type(error)):
        optimizer.add_variables([*variables, *weights("bad")])
    for wrong in ("x", None):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            optimizer.add_variables([*variables, *weights("c"), wrong])
    assert held(optimizer) == before
    assert_same_state(optimizer, state)
    step(optimizer, variables, range(3, 5))
    optimizer.add_variables(weights("d"))
    assert "d/trace" in optimizer.state_dict()

    fresh = Halting(0.5)
    fresh.error = error
    before = held(fresh)
    with pytest.raises(type(error)):
        fresh.add_variables(weights("bad"))
    assert held(fresh) == before
    assert not fresh.built


def test_a_build_that_fails_leaves_nothing_behind():
    optimizer = keras_rmsprop.RMSprop(momentum=0.5)
    before = held(optimizer)
    with pytest.raises((TypeError, AttributeError)):
        optimizer.build([*weights("a"), "no variable"])
    assert held(optimizer) == before
    optimizer.build(weights("a"))
    assert len(optimizer.variables) == 4


@on_tensorflow
def test_an_optimizer_that_refused_variables_is_saved_in_checkpoints(tmp_path):
    import tensorflow as tf

    variables = weights("a")
    optimizer = trained(variables, momentum=0.5)
    with pytest.raises(AttributeError):
        optimizer.add_variables([*variables, *weights("b"), None])
    path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
    fresh = built(variables, momentum=0.5)
    tf.train.Checkpoint(optimizer=fresh).restore(path).assert_consumed()
    assert_same_state(fresh, optimizer.state_dict())


# --- What is excluded from weight decay ------------------------------------------------------

EXCLUDED = {
    "by pattern": lambda _: {"var_names": ["bias"]},
    "by variable": lambda network: {"var_list": [network.layers[0].kernel]},
    "by both": lambda network: {"var_list": [network.layers[0].kernel], "var_names": ["bias"]},
}


def decayed(network: Any) -> list[bool]:
    return [network.optimizer._use_weight_decay(v) for v in network.trainable_variables]


@pytest.mark.parametrize("built_first", [False, True], ids="built={}".format)
@pytest.mark.parametrize("excluded", EXCLUDED.values(), ids=EXCLUDED)
def test_what_was_excluded_from_weight_decay_is_saved_with_the_model(
    tmp_path, excluded, built_first
):
    network = models.model()
    network.compile(keras_rmsprop.RMSprop(0.01, weight_decay=0.1), loss="mse", run_eagerly=True)
    network.optimizer.exclude_from_weight_decay(**excluded(network))
    if built_first:
        models.go_on(network, epochs=1)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    want = decayed(network)
    assert decayed(loaded) == want != [True] * 4
    # A copy of the copy, and a call that comes after.
    again = keras_rmsprop.RMSprop.from_config(loaded.optimizer.get_config())
    again.build(loaded.trainable_variables)
    assert [again._use_weight_decay(v) for v in loaded.trainable_variables] == want
    assert models.go_on(loaded, epochs=1)


@pytest.mark.parametrize(
    "optimizer_class", [keras.optimizers.RMSprop, keras_rmsprop.RMSprop], ids=["Keras", "ours"]
)
def test_variables_are_excluded_again_after_loading(tmp_path, optimizer_class):
    network = models.model()
    network.compile(optimizer_class(0.01, weight_decay=0.1), loss="mse")
    network.optimizer.exclude_from_weight_decay(var_names=["kernel"])
    network.optimizer.build(network.trainable_variables)
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    try:
        loaded.optimizer.exclude_from_weight_decay(var_names=["bias"])
    except ValueError:
        assert keras.__version__ > "3.15.1"
    else:
        assert decayed(loaded) == [True, False, True, False]


def test_a_config_without_exclusions_is_that_of_before():
    optimizer = keras_rmsprop.RMSprop(weight_decay=0.1)
    assert "exclude_from_weight_decay" not in optimizer.get_config()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert optimizer.get_config()["exclude_from_weight_decay"]["names"] == ["bias"]
    optimizer.exclude_from_weight_decay()
    assert "exclude_from_weight_decay" not in optimizer.get_config()
