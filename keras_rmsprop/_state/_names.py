"""Convert the state to and from named arrays, for `state_dict` and `load_state_dict`."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_rmsprop._state._form import (
    GROUPS_PREFIX,
    KINDS,
    NOTHING_LOADED,
    Array,
    State,
    rate_name,
    subclass_variable_name,
)
from keras_rmsprop._state._read import OptimizerParts, state_of
from keras_rmsprop._state._sanity import is_numeric, why_impossible
from keras_rmsprop._variables import _pairing


def to_dict(state: State) -> dict[str, Array]:
    """Name every array of a state: `iteration`, and `<variable>/<kind>` for the slots."""
    names = state.names or ()
    named: dict[str, Array] = {}
    if state.calls is not None:
        named["iteration"] = np.asarray(state.calls)
    if state.learning_rate is not None:
        named["learning_rate"] = np.asarray(state.learning_rate)
    if state.skipped_steps is not None:
        named["skipped_steps"] = np.asarray(state.skipped_steps)
    named |= {rate_name(pattern): np.asarray(rate) for pattern, rate in state.rates.items()}
    for name, slots in zip(names, state.slots, strict=True):
        named |= {f"{name}/{kind}": value for kind, value in slots.items()}
    return named | {
        subclass_variable_name(v.label, v.position, names): v.value
        for v in state.subclass_variables
    }


def from_dict(named: Mapping[str, Any], parts: OptimizerParts, strict: bool) -> State:
    """Read the arrays that `to_dict` named, for an optimizer with the same variables.

    Raises: ValueError naming entries that are missing or unknown (if `strict`), do not fit, or
        have impossible values.
    """
    here = state_of(parts)
    names = here.names or ()
    expected = to_dict(here)
    named = _renamed(named, names)
    missing, unknown = sorted(set(expected) - set(named)), sorted(set(named) - set(expected))
    if strict and (missing or unknown):
        raise ValueError(
            f"The state does not match the optimizer. Missing: {missing}. Unknown: {unknown}. "
            "Nothing was loaded. Pass strict=False to load what matches."
        )
    slots: list[dict[str, Array]] = [
        {
            kind: _checked_array(
                named[f"{name}/{kind}"], current.get(kind), f"The saved {kind} of {name!r}"
            )
            for kind in KINDS
            if f"{name}/{kind}" in named
        }
        for name, current in zip(names, here.slots, strict=True)
    ]
    subclass_variables = [
        each._replace(value=_checked_array(named[name], each.value, f"The saved {name}"))
        for each in here.subclass_variables
        if (name := subclass_variable_name(each.label, each.position, names)) in named
    ]
    calls, rate, skipped = (
        None if key not in named else _scalar(named[key], key)
        for key in ("iteration", "learning_rate", "skipped_steps")
    )
    state = here._replace(
        calls=None if calls is None else int(calls),
        # The slots show which options the state was made with.
        accumulation_steps=here.accumulation_steps if _any_has(slots, "accumulator") else 1,
        centered=_any_has(slots, "gradient_average"),
        learning_rate=None if rate is None else float(rate),
        skipped_steps=None if skipped is None else int(skipped),
        slots=tuple(slots),
        subclass_variables=tuple(subclass_variables),
        rates={
            pattern: float(_scalar(named[key], "learning_rate"))
            for pattern in here.rates
            if (key := rate_name(pattern)) in named
        },
    )
    reason = why_impossible(state)
    if reason is not None:
        raise ValueError(f"The state cannot be this optimizer's: {reason}. {NOTHING_LOADED}")
    return state


def _checked_array(value: Any, current: Array | None, subject: str) -> Array:
    """Return a user's entry as an array, or refuse it."""
    array = np.asarray(value)
    if current is not None and array.shape != current.shape:
        raise ValueError(
            f"{subject} has shape {array.shape}, but the variable has shape {current.shape}. "
            f"{NOTHING_LOADED}"
        )
    if array.dtype.kind != "b" and not is_numeric(array):
        raise ValueError(
            f"{subject} holds no numbers, received dtype {array.dtype}. {NOTHING_LOADED}"
        )
    return array


def _scalar(value: Any, name: str) -> float:
    number = _checked_array(value, np.zeros(()), f"The saved {name}").item()
    if name != "learning_rate" and not (math.isfinite(number) and number == int(number)):
        raise ValueError(
            f"The saved {name} is not an integer, received {number!r}. {NOTHING_LOADED}"
        )
    return number


def _renamed(named: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Give entries the variables' present names, where only the model's prefix differs."""
    # The factors of groups go by patterns, and not by variables.
    slots = [key for key in named if "/" in key and not key.startswith(GROUPS_PREFIX)]
    saved = tuple(dict.fromkeys(key.rpartition("/")[0] for key in slots))
    left, right = _pairing.most_common_terms(saved, names)
    present = dict(zip(right, names, strict=True))
    owners = {old: present.get(term, old) for old, term in zip(saved, left, strict=True)}
    renamed = {}
    for key, value in named.items():
        owner, slash, kind = key.rpartition("/")
        renamed[owners.get(owner, owner) + slash + kind] = value
    return renamed


def _any_has(slots: Iterable[Mapping[str, Any]], kind: str) -> bool:
    return any(kind in each for each in slots)
