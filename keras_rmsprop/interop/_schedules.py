"""Find out whether two learning rates that change by themselves take the same values."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops, saving
from keras.optimizers import schedules

from keras_rmsprop import _state, conventions
from keras_rmsprop.interop._source import Array

# How far two schedules may differ, in their own size and in that of the largest rate to come:
# many compute in float32, where a cosine has no digits left as it approaches zero.
_RELATIVE, _OF_PEAK = 1e-4, 1e-6
# Steps at which schedules are compared: each of the first, then ever fewer, up to the last. One
# that takes one count at a time is compared at fewer, because a call may take a millisecond.
_LAST = 10_000_000
_EACH, _FAR = 2000, 2000
_EACH_SINGLY, _FAR_SINGLY = 300, 100
# Numbers in the configs of schedules, such as boundaries, beyond the first steps.
_MARKS = 64
# Counts are int32 in some frameworks.
_LARGEST = np.iinfo(np.int32).max


class Unknown(NamedTuple):
    """A schedule that cannot be evaluated here."""

    name: str


def from_file(serialized: Mapping[str, Any]) -> Any:
    """Return the schedule in a config from a file, or `Unknown` if it names anything else.

    A file may name any function of Keras as a learning rate, and any class. None of them is called.
    """
    name = str(serialized.get("registered_name") or serialized.get("class_name"))
    known = class_named_in(serialized)
    if known is None or any(unknown_in(serialized)):
        return Unknown(name)
    try:
        return known.from_config(serialized["config"])
    except (LookupError, TypeError, ValueError, AttributeError):
        return Unknown(name)


def class_named_in(serialized: Mapping[str, Any]) -> Any:
    """Return the class of schedules that a serialized object is of, as Keras looks it up.

    Returns: None if the class is not known here, or not one of schedules.
    """
    name, registered = serialized.get("class_name"), serialized.get("registered_name")
    known = saving.get_registered_object(registered) if isinstance(registered, str) else None
    if known is None and serialized.get("module") == "keras.optimizers.schedules":
        known = getattr(schedules, str(name), None)
    base = schedules.LearningRateSchedule
    if not isinstance(known, type) or not issubclass(known, base) or known is base:
        return None
    # By other names, such as "function", Keras looks for something else.
    return known if known.__name__ == name else None


def unknown_in(value: Any, inside: bool = False) -> Iterator[Mapping[str, Any]]:
    """Yield the serialized objects in a config that are no schedules, at any depth.

    Args:
        value: the config, or a part of it.
        inside: whether it is a part of a schedule of a user's class, which may have whatever is
            registered.
    """
    if isinstance(value, Mapping):
        schedule = class_named_in(value) if "class_name" in value else None
        is_known = schedule is not None or (inside and _is_registered(value))
        if "class_name" in value and not is_known:
            yield value
        package = getattr(schedule, "__module__", "keras").partition(".")[0]
        inside = inside or package not in ("keras", "keras_rmsprop")
        for each in value.values():
            yield from unknown_in(each, inside)
    elif isinstance(value, list):
        for each in value:
            yield from unknown_in(each, inside)


def _is_registered(serialized: Mapping[str, Any]) -> bool:
    """Whether an object is of a registered class, or is a registered function."""
    is_function = serialized.get("class_name") == "function"
    name = serialized.get("config" if is_function else "registered_name")
    known = saving.get_registered_object(name) if isinstance(name, str) else None
    if is_function:
        return known is not None and not isinstance(known, type)
    return isinstance(known, type) and known.__name__ == serialized.get("class_name")


class Moving(NamedTuple):
    """A learning rate that changes by itself."""

    # A Keras schedule, a callable without arguments, or unknown.
    rate: Any
    # By how many a step advances the count that a schedule is given.
    counts: int = 1


def difference(here: Moving, there: Moving, steps: int) -> str | None:
    """Return in what two learning rates differ from a number of steps on, None if in nothing."""
    if not (_is_schedule(here.rate) and _is_schedule(there.rate)):
        if are_alike(here.rate, there.rate):
            return None
        return (
            f"the learning rate is {_word(here.rate)} here and {_word(there.rate)} there, which "
            "cannot be compared"
        )
    if here.counts == there.counts and are_alike(here.rate, there.rate):
        return None
    found = _first_difference(here, there, steps)
    if found is None:
        return None
    return "the learning rate after {} steps is {:.7g} here and {:.7g} there".format(*found)


def are_alike(here: Any, there: Any) -> bool:
    """Whether two rates are the same callable, or schedules of one class and equal arguments."""
    if _unrounded(here) == _unrounded(there):
        return True
    if type(here) is not type(there) or not _is_schedule(here):
        return False
    if isinstance(here, conventions.CountSchedule):
        names = ("function", "jax", "gradient_accumulation_steps")
        return all(getattr(here, name) == getattr(there, name) for name in names)
    return _config_of(here) is not None and _config_of(here) == _config_of(there)


def in_float32(function: Callable[[], Any]) -> Callable[[], Any]:
    """Return a callable for a rate as TensorFlow's older optimizers use it.

    They make tensors of its values, which are in float32 if they are Python's numbers.
    """

    @functools.wraps(function)
    def rounded() -> Any:
        value = function()
        if type(value) in (int, float):
            return float(np.float32(value))
        return value if ops.is_tensor(value) else float(value)

    rounded.unrounded = function  # type: ignore[attr-defined]
    return rounded


def _unrounded(rate: Any) -> Any:
    return getattr(rate, "unrounded", rate)


def _is_schedule(rate: Any) -> bool:
    return isinstance(rate, schedules.LearningRateSchedule)


def _word(rate: Any) -> str:
    if isinstance(rate, Unknown):
        return f"the schedule {rate.name!r}, which is not known here,"
    return "a schedule" if _is_schedule(rate) else "a callable"


def _config_of(schedule: Any) -> dict[str, Any] | None:
    """Return a schedule's arguments in plain values, None if it does not tell them."""
    try:
        config = _plain(schedule.get_config())
    except (NotImplementedError, ValueError, TypeError):
        return None
    config.pop("name", None)
    return dict(config)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, bool | str | int) else float(value)


def _first_difference(here: Moving, there: Moving, steps: int) -> tuple[int, float, float] | None:
    """Return the first step at which two schedules differ, of those looked at, and both rates."""
    marks = _marks(here, there, steps)
    compared = steps + np.sort(np.concatenate([_ahead(_EACH, _FAR), marks]))
    rates = [_values(each, compared) for each in (here, there)]
    if any(each is None for each in rates):
        compared = steps + np.sort(np.concatenate([_ahead(_EACH_SINGLY, _FAR_SINGLY), marks]))
        rates = [
            _values(each, compared) if known is not None else _values_singly(each, compared)
            for each, known in zip((here, there), rates, strict=True)
        ]
    a, b = rates
    assert a is not None
    assert b is not None
    peak = max(np.max(np.abs(a)), np.max(np.abs(b)))
    same = np.isclose(a, b, rtol=_RELATIVE, atol=_OF_PEAK * peak, equal_nan=True)
    if np.all(same):
        return None
    i = int(np.argmin(same))
    return int(compared[i]), float(a[i]), float(b[i])


def _ahead(each: int, far: int) -> Array:
    return np.concatenate([np.arange(each), np.geomspace(each, _LAST, far).astype(np.int64)])


def _marks(here: Moving, there: Moving, steps: int) -> Array:
    """Return how far ahead of now, in steps, something may change by the schedules' arguments."""
    found: set[int] = set()
    for schedule, counts in (here, there):
        for number in _numbers_in(_config_of(schedule)):
            at = math.floor(number / counts) - steps
            found |= {m for m in (at, at + 1) if 0 <= m < _LARGEST}
    # As many for all schedules, because JAX compiles for each length.
    return np.resize(np.array([0, *sorted(found)], np.int64), _MARKS)


def _numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _numbers_in(each)
    elif isinstance(value, int | float) and 1.0 <= value < _LARGEST:
        yield value


def _values(moving: Moving, steps: Array) -> Array | None:
    """Return a schedule's rates after so many steps, None if it takes one count at a time."""
    counts = np.minimum(steps * moving.counts, _LARGEST)
    ends = [0, len(counts) // 2, -1]
    singly = [float(_evaluated(moving.rate, counts[i])) for i in ends]
    for evaluated in (_evaluated, _mapped):
        try:
            found = np.broadcast_to(evaluated(moving.rate, counts), counts.shape)
        except Exception:  # a user's function may do anything with an array
            continue
        if np.allclose(found[ends], singly, rtol=_RELATIVE, equal_nan=True):
            return found
    return None


def _values_singly(moving: Moving, steps: Array) -> Array:
    counts = np.minimum(steps * moving.counts, _LARGEST)
    return np.array([float(_evaluated(moving.rate, count)) for count in counts])


def _evaluated(schedule: Any, counts: Any) -> Array:
    if isinstance(schedule, conventions.CountSchedule):
        rates = schedule.function(schedule.argument(counts.astype(np.int32)))
    else:
        rates = schedule(ops.convert_to_tensor(counts))
    return np.asarray(_state.array_of(rates) if ops.is_tensor(rates) else rates, np.float64)


def _mapped(schedule: Any, counts: Array) -> Array:
    """Return a schedule's rates where it has branches, which JAX would compile for each count."""
    return np.asarray(
        _state.array_of(ops.vectorized_map(schedule, ops.convert_to_tensor(counts))), np.float64
    )
