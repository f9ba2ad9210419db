"""Test that every invalid file is refused as damaged, whatever is wrong with it."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import keras_rmsprop
from keras_rmsprop import _state
from keras_rmsprop._state._form import KINDS, checksum_of
from tests.tools.states import (
    EVERYTHING,
    SHAPE,
    Store,
    assert_same_state,
    built,
    load,
    saved,
    trained,
    weights,
)
from tests.tools.subclass_variables import traced


def resealed(store: Store) -> Store:
    """Give a changed store the checksum of its content, as a crafted file would have."""
    rest = {key: value for key, value in store.items() if key != "checksum"}
    return rest | {"checksum": np.asarray(checksum_of(rest), np.uint32)}


def described(store: Store, **fields: Any) -> Store:
    """Change fields of the description; `...` removes one, None becomes null."""
    description = json.loads(store["description"].tobytes()) | fields
    kept = {key: value for key, value in description.items() if value is not ...}
    return store | {"description": np.frombuffer(json.dumps(kept).encode(), np.uint8)}


def fields(**changes: Any) -> Callable[[Store], Store]:
    return lambda store: described(store, **changes)


def slot(value: Any, kind: str = "square_average") -> Callable[[Store], Store]:
    return lambda store: store | {f"0.{kind}": np.asarray(value)}


FULL = np.full(SHAPE, 0.5, "float32")
CRAFTED: dict[str, Callable[[Store], Store]] = {
    "a count beyond all memory": fields(slots=10**12),
    "a count that is no number": fields(slots="2"),
    "no count": fields(slots=...),
    "more names than slots": fields(names=["a", "b", "c"]),
    "names that are one": fields(names="ab"),
    "names that are numbers": fields(names=[1, 2]),
    "no names": fields(names=None),
    "a rate of NaN": fields(learning_rate=float("nan")),
    "an infinite rate": fields(learning_rate=float("inf")),
    "a negative rate": fields(learning_rate=-1.0),
    "a rate of text": fields(learning_rate="0.1"),
    "a negative counter": fields(calls=-1),
    "a counter beyond int64": fields(calls=2**63),
    "a counter of a thousand digits": fields(calls=10**1000),
    "half a step": fields(calls=0.5),
    "a counter that is true": fields(calls=True),
    "no accumulation steps": fields(accumulation_steps=0),
    "negative skipped steps": fields(skipped_steps=-1),
    "a rho of one": fields(rho=1.0),
    "a rho of nothing": fields(rho=None),
    "centered by text": fields(centered="yes"),
    "centered without means": fields(centered=True),
    "an unknown field": fields(news=1),
    "a format of zero": fields(format=0),
    "a format of text": fields(format="2"),
    "no format": fields(format=...),
    "variables of a subclass that are not there": fields(own=[["scale", None]]),
    "a subclass's list that is none": fields(own=5),
    "a square below zero": slot(-FULL),
    "complex numbers": slot(FULL.astype("complex64")),
    "text": slot(np.full(SHAPE, b"x")),
    "dates": slot(np.zeros(SHAPE, "datetime64[s]")),
    "a mean that was not asked for": slot(FULL, "gradient_average"),
    "slots of two shapes": slot(FULL[0], "momentum"),
    "an unknown slot": slot(FULL, "velocity"),
    "a slot of no variable": lambda store: store | {"2.square_average": FULL},
    "a slot of a negative variable": lambda store: store | {"-1.square_average": FULL},
    "a slot without a number": lambda store: store | {"square_average": FULL},
    "a number written oddly": lambda store: store | {"00.momentum": FULL},
    "a row seen more often than updated": lambda store: slot(9, "updates")(
        slot([1, 2, 10, 3], "row_updates")(store)
    ),
    "a row seen a negative number of times": lambda store: slot(9, "updates")(
        slot([1, 2, -1, 3], "row_updates")(store)
    ),
    "rows without their total": slot([1, 2, 3, 3], "row_updates"),
    "corrections without counts": slot(-0.5, "correction"),
    "a description of other numbers": lambda store: (
        store | {"description": store["description"].astype("float32")}
    ),
    "a description that nests without end": lambda store: (
        store | {"description": np.frombuffer(b"[" * 100_000, np.uint8)}
    ),
    "a description of other bytes": lambda store: (
        store | {"description": np.frombuffer(b"\xff\xfe", np.uint8)}
    ),
}


@pytest.mark.parametrize("craft", CRAFTED.values(), ids=CRAFTED)
def test_a_crafted_file_is_refused_as_damaged_and_changes_nothing(craft):
    variables = weights("a", "b")
    store = resealed(craft(saved(trained(variables))))
    optimizer = trained(variables, calls=2)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="is damaged"):
        optimizer.load_own_variables(store)
    assert_same_state(optimizer, before)


def test_a_file_with_objects_is_refused_as_damaged():
    store = saved(trained(weights("a"))) | {"0.square_average": np.full(SHAPE, object())}
    with pytest.raises(ValueError, match="is damaged"):
        built(weights("a")).load_own_variables(store)


DAMAGED = {
    "another dtype of as many bytes": lambda array: array.view("int32"),
    "the bytes the other way round": lambda array: array.view(array.dtype.newbyteorder()),
    "another shape": lambda array: array.reshape(SHAPE[::-1]),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_the_checksum_covers_dtype_and_shape(damage):
    store = saved(trained(weights("a")))
    store["0.square_average"] = damage(store["0.square_average"])
    with pytest.raises(ValueError, match="is damaged: it is not what was saved"):
        built(weights("a")).load_own_variables(store)


def test_a_checksum_that_is_not_an_integer_is_refused_as_damaged():
    # Large integers are infinite in float16, so such a checksum would match almost any content.
    store = saved(trained(weights("a")))
    store["0.square_average"] = store["0.square_average"] + 1
    store["checksum"] = np.asarray(np.inf, np.float16)
    with pytest.raises(ValueError, match="is damaged: it has no checksum"):
        built(weights("a")).load_own_variables(store)


def test_arrays_of_the_other_byte_order_load_as_the_same_numbers():
    old, new = trained(weights("a")), built(weights("a"))
    store = saved(old)
    array = store["0.square_average"]
    store["0.square_average"] = array.astype(array.dtype.newbyteorder())
    assert load(store, new) == []
    assert_same_state(new, old.state_dict())


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_the_state_of_a_training_that_diverged_is_loaded(value):
    variables = weights("a", "b")
    optimizer = trained(variables, momentum=0.5)
    for slots in optimizer._roster.parameters:
        slots.square_average.assign(np.full(SHAPE, value, "float32"))
        slots.momentum.assign(np.full(SHAPE, -value, "float32"))
    fresh = built(variables, momentum=0.5)
    assert load(saved(optimizer), fresh) == []
    assert_same_state(fresh, optimizer.state_dict())


def test_a_number_too_large_for_its_variable_is_refused():
    store = saved(trained(weights("a")))
    optimizer = trained(weights("a"), calls=2)
    before = optimizer.state_dict()
    for change in ({"learning_rate": 1e300}, {"calls": 2**62, "accumulation_steps": 1}):
        if change.get("calls", 2**63) <= np.iinfo(optimizer._iterations.dtype).max:
            continue
        with pytest.raises(ValueError, match="is too large"):
            optimizer.load_own_variables(resealed(described(store, **change)))
    assert_same_state(optimizer, before)


WRONG_DICTS = {
    "a square below zero": {"a/square_average": -FULL},
    "a rate of NaN": {"learning_rate": np.nan},
    "a negative counter": {"iteration": -1},
    "half a step": {"iteration": 0.5},
    "a counter for each row": {"iteration": np.ones(3)},
}


@pytest.mark.parametrize("wrong", WRONG_DICTS.values(), ids=WRONG_DICTS)
def test_an_invalid_state_dict_is_refused(wrong):
    optimizer = trained(weights("a"))
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="Nothing was loaded"):
        optimizer.load_state_dict(before | wrong)
    assert_same_state(optimizer, before)


# Arbitrary content.

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
FIELDS = (*_state.State._fields, "format", "unheard of")
DTYPES = ("float32", "float64", "float16", "int8", "uint32", "int64", "bool", "complex64", "S2")
SHAPES = st.sampled_from([(), (0,), (1,), (4,), (3,), SHAPE, (4, 3, 1), (2, 2)])


@st.composite
def changes(draw: st.DrawFn) -> list[Callable[[Store], Store]]:
    """Draw changes of a store."""
    done: list[Callable[[Store], Store]] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            name, value = draw(st.sampled_from(FIELDS)), draw(ANYTHING)
            done.append(fields(**{name: value}))
            continue
        keys = [f"{i}.{kind}" for i in ("0", "1", "7", "own") for kind in (*KINDS, "0")]
        key = draw(st.sampled_from([*keys, "description", "checksum", "0"]))
        array = np.full(draw(SHAPES), draw(st.sampled_from([0, 1, -1, 7, 200]))).astype(
            draw(st.sampled_from(DTYPES))
        )
        done.append(lambda store, key=key, array=array: store | {key: array})
    return done


FOUNDATIONS = {
    "plain": lambda: trained(weights("a", "b"), calls=2),
    "everything": lambda: trained(weights("a", "b"), calls=2, **EVERYTHING),
    "subclass": lambda: traced(weights("a", "b")),
}
STORES = {name: saved(make()) for name, make in FOUNDATIONS.items()}


@settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.sampled_from(sorted(STORES)), changes(), st.booleans())
@example("plain", [fields(names=["a", "b"], slots=True)], True)
def test_a_file_of_any_content_is_loaded_or_refused_as_damaged(name, done, sealed):
    store = dict(STORES[name])
    for change in done:
        try:
            store = change(store)
        except (ValueError, TypeError):  # An earlier change has destroyed the description.
            return
    if sealed and all(array.dtype != object for array in store.values()):
        store = resealed(store)
    for optimizer in (OPTIMIZER, keras_rmsprop.RMSprop()):
        before, refusal = optimizer.state_dict(), None
        try:
            load(store, optimizer)
        except ValueError as error:
            refusal = str(error)
        if refusal is not None:
            assert any(word in refusal for word in ("is damaged", "later version", "too large"))
            assert_same_state(optimizer, before)
    state = OPTIMIZER.state_dict()
    assert state["iteration"] >= 0
    assert 0.0 <= state["learning_rate"] < np.inf
    assert not any(np.any(state[f"{v}/square_average"] < 0) for v in "ab")


# Shared by all examples: what one of them leaves behind must not affect the next.
OPTIMIZER = built(weights("a", "b"), momentum=0.5)
