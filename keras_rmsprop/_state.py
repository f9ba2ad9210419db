"""The optimizer's state as plain arrays: what is saved, and what becomes of it on loading?

A state is loaded in three moves, so that nothing is lost on the way: it is read into a `State`,
whatever its source; `plan_load` decides what every variable of the optimizer shall hold; only
then is anything assigned.

State follows the weights. It is paired by the variable's position, as Keras pairs weights, and
by the kind of slot; where other variables were saved than there are, `_pairing` tells which is
which. What the optimizer has and the state does not starts afresh; what the state has and the
optimizer does not is dropped; both are said. Only what is damaged is refused.
"""

import functools
import itertools
import json
import math
import re
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from keras import backend, ops
from numpy.typing import NDArray

from keras_rmsprop import _pairing
from keras_rmsprop._deferred import ROW_FIELDS, Progress, catch_up
from keras_rmsprop._execution import engine
from keras_rmsprop._pairing import Identity
from keras_rmsprop._rule import Coefficients, Parameter

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop

Array = NDArray[Any]

# The kinds of slots, by the names under which they are saved.
KINDS = (*Parameter._fields[1:], *Progress._fields)

# How this version writes its files; a reader refuses a later one. Format 1 had no variables of a
# subclass's own, and its checksum did not cover shapes and dtypes.
FORMAT = 2


class _Entries(NamedTuple):
    # Variables that now hold what the state held, converted where its convention differs.
    restored: tuple[str, ...]
    # Variables that the state did not have, and that start afresh.
    initialized: tuple[str, ...]
    # Entries of the state that the optimizer has no use for.
    dropped: tuple[str, ...]


class LoadReport(_Entries):
    """What became of a loaded state, by the names that `state_dict` gives.

    A tuple of `restored`, `initialized` and `dropped`. Beside it `notes` are sentences that say
    what else there is to know: which variables were told by their names or shapes, because others
    were saved than there are, and which shapes did not fit.
    """

    notes: tuple[str, ...]

    def __new__(
        cls,
        restored: tuple[str, ...],
        initialized: tuple[str, ...],
        dropped: tuple[str, ...],
        notes: tuple[str, ...] = (),
    ) -> "LoadReport":
        """Make a report of these entries."""
        report = super().__new__(cls, restored, initialized, dropped)
        report.notes = notes
        return report


class Own(NamedTuple):
    """A variable that a subclass has added."""

    # The name it was added with, numbered where there are several.
    label: str
    # The position of the weight that it belongs to, if any.
    position: int | None
    value: Array


class State(NamedTuple):
    """An optimizer's state, with what is needed to read it in another configuration."""

    # Calls of `apply`, None if the state does not say, and how many of them make a step.
    calls: int | None
    accumulation_steps: int
    learning_rate: float | None
    skipped_steps: int | None
    # Whether square averages are about the mean, and what momentum buffers hold.
    centered: bool
    lr_in_momentum: bool
    # How the averages decay, which rows of a lazy optimizer may still have to make up for.
    rho: float
    # The variables' names in their order; None in files of Keras's own class.
    names: tuple[str, ...] | None
    # For each variable its slots, by kind.
    slots: tuple[dict[str, Array], ...]
    own: tuple[Own, ...] = ()


class Plan(NamedTuple):
    """What a load is going to assign, and the report of it."""

    assignments: list[tuple[Any, Any]]
    report: LoadReport


class Passed(NamedTuple):
    """The state of a file that is not taken."""

    # Its entries.
    entries: tuple[str, ...]
    # Why, in words to warn with; None where nothing is lost.
    reason: str | None


class Loads:
    """What an optimizer remembers of loads, in an object that Keras does not track."""

    def __init__(self) -> None:
        self.report: LoadReport | None = None


class _ForeignStateError(Exception):
    """The file is another optimizer's."""


# How often to read a state at most while a graph may change it, how many reads in a row must
# agree, and for how many seconds to wait before each.
READS = 50
AGREEING = 3
PAUSE = 0.001


def state_of(optimizer: "RMSprop") -> State:
    """Read an optimizer's state, that of one step also while another thread makes steps."""
    with optimizer._gate.read():
        state = _read(optimizer)
        # The gate holds back steps that Python makes; a graph's can come from another thread.
        if not engine.STEPS_IN_GRAPHS or threading.active_count() == 1:
            return state
        agreeing = 1
        for _ in range(READS):
            # A step may have written a part and be waiting for a core.
            time.sleep(PAUSE)
            again = _read(optimizer)
            is_same = _fingerprint(again) == _fingerprint(state)
            state, agreeing = again, agreeing + 1 if is_same else 1
            if agreeing == AGREEING:
                return state
    warnings.warn(
        f"The state of {optimizer.name} changed faster than it could be read, so that its arrays "
        "may be those of neighbouring steps. Read it between two steps.",
        stacklevel=3,
    )
    return state


def _fingerprint(state: State) -> tuple[Any, ...]:
    return state.calls, state.skipped_steps, _checksum(_arrays(state))


def _read(optimizer: "RMSprop") -> State:
    counters = optimizer._counters
    rate = optimizer._rate_variable
    return State(
        calls=int(array_of(counters.calls)),
        accumulation_steps=optimizer.gradient_accumulation_steps or 1,
        learning_rate=None if rate is None else float(array_of(rate)),
        skipped_steps=None if counters.skipped is None else int(array_of(counters.skipped)),
        centered=optimizer.centered,
        lr_in_momentum=optimizer.lr_in_momentum,
        rho=optimizer.rho,
        names=_names(optimizer),
        slots=tuple(
            {kind: array_of(v) for kind, v in slots.items()} for slots in _all_slots(optimizer)
        ),
        own=tuple(Own(label, i, array_of(v)) for (i, label), v in _own(optimizer).items()),
    )


def write_state(state: State, store: Any) -> None:
    """Put a state into the store of a Keras file: arrays, and their description as JSON."""
    arrays = _arrays(state)
    description = {"format": FORMAT, **state._asdict(), "slots": len(state.slots)}
    description["own"] = [[own.label, own.position] for own in state.own]
    arrays["description"] = np.frombuffer(json.dumps(description).encode(), np.uint8)
    # A third entry beside the slots: Keras's own class, which counts them and has two of its own,
    # then skips the file with a warning rather than fail on it.
    arrays["format"] = np.asarray(FORMAT, np.uint32)
    arrays["checksum"] = np.asarray(_checksum(arrays), np.uint32)
    for key, value in arrays.items():
        store[key] = value


def _arrays(state: State) -> dict[str, Array]:
    """The arrays of a state by names that a file can have."""
    slots = {
        f"{position}.{kind}": value
        for position, each in enumerate(state.slots)
        for kind, value in each.items()
    }
    # Labels are anything a subclass likes; the names of arrays in a file are not.
    return slots | {f"own.{i}": _storable(own.value) for i, own in enumerate(state.own)}


def read_file(store: Any, optimizer: "RMSprop") -> State | Passed:
    """Read what a Keras file holds of an optimizer, this package's or Keras's own RMSprop.

    An optimizer that is not built takes nothing, and none takes what is empty or another's.

    Raises: ValueError if the file is damaged, or of a later version.
    """
    arrays = _arrays_of(store)
    skipping = f"Skipping variable loading for optimizer {optimizer.name!r}"
    goes_on = "The optimizer goes on with the state it has."
    if not optimizer.built:
        reason = (
            f"{skipping}: it is not built yet, so it starts afresh, at step 0 and with its own "
            "learning rate. To resume the training that was saved, load the whole model with "
            "`keras.saving.load_model`, or call `optimizer.build(model.trainable_variables)` "
            "before `load_weights`."
        )
        return Passed(tuple(sorted(arrays)), reason if _has_steps(arrays) else None)
    if not arrays:
        return Passed((), f"{skipping}: the file holds no optimizer state. {goes_on}")
    if not _is_described(arrays):
        try:
            return _read_keras_state(arrays, optimizer)
        except _ForeignStateError as why:
            reason = f"{skipping}: the file holds the state of another optimizer, {why}. {goes_on}"
            return Passed(tuple(sorted(arrays)), reason)
    state = _read_described_state(arrays)
    if not state.slots and int(array_of(optimizer._counters.calls)) > 0:
        reason = f"{skipping}: the file holds the state of one that was not built. {goes_on}"
        return Passed(tuple(to_dict(state)), reason)
    return state


def _arrays_of(store: Any) -> dict[str, Array]:
    try:
        return {str(key): np.array(store[key]) for key in store.keys()}  # noqa: SIM118
    except (LookupError, ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        raise _damage("an entry cannot be read") from error


def _is_described(arrays: Mapping[str, Array]) -> bool:
    """Whether arrays of a file are this package's, and not Keras's own."""
    return "description" in arrays


def _has_steps(arrays: Mapping[str, Array]) -> bool:
    """Whether what a file holds has come from training, so that not taking it is a loss."""
    if not _is_described(arrays):
        counts = [value for value in arrays.values() if value.shape == ()]
        return any(value.dtype.kind in "iu" and value > 0 for value in counts)
    if _format_of(_description(arrays)) > FORMAT:
        return True
    state = _read_described_state(arrays)
    return bool(state.calls or state.skipped_steps)


def _damage(reason: str) -> ValueError:
    return ValueError(
        f"The optimizer state in the file is damaged: {reason}. Nothing of it was loaded, and the "
        "optimizer is as it was; use an earlier checkpoint."
    )


def _read_described_state(arrays: Mapping[str, Array]) -> State:
    """Read the arrays that `write_state` wrote.

    Raises: ValueError if they are damaged, or of a later version.
    """
    fields = _description(arrays)
    version = _format_of(fields)
    # Judged first, because a later version may take its checksum in another way.
    if version > FORMAT:
        raise ValueError(
            f"The optimizer state was saved by a later version of keras_rmsprop, in format "
            f"{version}; this version reads formats up to {FORMAT}. Upgrade keras_rmsprop to load "
            "it. Nothing of it was loaded."
        )
    rest = {key: value for key, value in arrays.items() if key != "checksum"}
    checksum = arrays.get("checksum")
    if any(value.dtype.kind not in "iuf" for value in arrays.values()):
        raise _damage("it holds what are no numbers")
    # HDF5 files carry no checksum of their own: a flipped bit would become a weight's average.
    take = _checksum if version > 1 else _checksum_of_format_1
    if checksum is None or checksum.size != 1 or checksum.reshape(()) != take(rest):
        raise _damage("it is not what was saved")
    del rest["description"]
    rest.pop("format", None)
    try:
        state = _from_fields(fields, rest)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _damage("its description is none of this package's") from error
    reason = why_impossible(state)
    if reason is not None:
        raise _damage(reason)
    return state


def _description(arrays: Mapping[str, Array]) -> dict[str, Any]:
    array = arrays["description"]
    try:
        # The bytes of anything else, such as of pointers to objects, mean nothing.
        fields = json.loads(array.tobytes()) if array.dtype == np.uint8 else None
    except (ValueError, RecursionError) as error:
        raise _damage("its description cannot be read") from error
    if not isinstance(fields, dict):
        raise _damage("its description cannot be read")
    return fields


def _format_of(fields: Mapping[str, Any]) -> int:
    version = fields.get("format")
    if not _is_count(version) or version == 0:
        raise _damage("its description names no format")
    return int(version)  # type: ignore[arg-type]


def _from_fields(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> State:
    """Put a state together from its description and its arrays; errors of any kind mean damage."""
    fields = {key: value for key, value in fields.items() if key != "format"}
    names, own = fields["names"], fields.pop("own", [])
    # The count is bounded by what the file holds before anything is made of it.
    if not isinstance(names, list) or fields["slots"] != len(names):
        raise ValueError("The count of variables is not that of their names.")
    slots: list[dict[str, Array]] = [{} for _ in names]
    values: dict[int, Array] = {}
    for key, value in arrays.items():
        position, _, kind = key.partition(".")
        if position == "own":
            values[int(kind)] = value
        elif kind in KINDS:
            slots[_index(position, len(slots))][kind] = value
        else:
            raise ValueError(f"There is no slot {key}.")
    if sorted(values) != list(range(len(own))):
        raise ValueError("The variables of a subclass are not those described.")
    entries = [Own(label, position, values[i]) for i, (label, position) in enumerate(own)]
    return State(**(fields | {"names": tuple(names), "slots": tuple(slots), "own": tuple(entries)}))


def _index(text: str, count: int) -> int:
    index = int(text)
    if not 0 <= index < count or str(index) != text:
        raise ValueError(f"There is no variable {text}.")
    return index


def why_impossible(state: State) -> str | None:
    """Why no optimizer can have this state, None if one can.

    Averages that are infinite or NaN are possible: a training that diverges saves them.
    """
    fields = {
        "calls": state.calls is None or _is_count(state.calls),
        "accumulation_steps": _is_count(state.accumulation_steps) and state.accumulation_steps > 0,
        "learning_rate": state.learning_rate is None or _is_number(state.learning_rate),
        "skipped_steps": state.skipped_steps is None or _is_count(state.skipped_steps),
        "centered": isinstance(state.centered, bool),
        "lr_in_momentum": isinstance(state.lr_in_momentum, bool),
        "rho": _is_number(state.rho) and state.rho < 1.0,
        "names": all(isinstance(name, str) for name in state.names or ()),
        "own": all(
            isinstance(own.label, str)
            and (own.position is None or _is_count(own.position))
            and (own.position is None or own.position < len(state.slots))
            for own in state.own
        ),
    }
    wrong = [name for name, right in fields.items() if not right]
    if wrong:
        return f"no optimizer has such {' and '.join(wrong)}"
    for position, slots in enumerate(state.slots):
        reason = _why_impossible_slots(slots, state.centered)
        if reason is not None:
            name = position if state.names is None else repr(state.names[position])
            return f"of variable {name}, {reason}"
    return None


def _why_impossible_slots(slots: Mapping[str, Array], centered: bool) -> str | None:
    weight_shaped = {kind: value for kind, value in slots.items() if kind not in Progress._fields}
    if len({value.shape for value in weight_shaped.values()}) > 1:
        return "the slots have different shapes"
    square_average = slots.get("square_average")
    if square_average is None:
        # A float8 scale has an accumulator at most.
        unexplained = set(slots) & {"gradient_average", *Progress._fields}
        return "there are averages without one of squares" if unexplained else None
    if np.any(square_average < 0):
        return "the average of squares lies below zero"
    if centered != ("gradient_average" in slots):
        return "the average of gradients is not what its options ask for"
    return _why_impossible_progress(slots, square_average.shape)


def _why_impossible_progress(slots: Mapping[str, Array], shape: tuple[int, ...]) -> str | None:
    progress = Progress(*(slots.get(field) for field in Progress._fields))
    counts, rows = progress.updates, progress.row_updates
    logs, row_logs = progress.correction, progress.row_corrections
    for whole, of_rows in ((counts, rows), (logs, row_logs)):
        if whole is None and of_rows is None:
            continue
        if whole is None or of_rows is None or counts is None:
            return "the counts of rows are incomplete"
        if whole.shape != () or of_rows.shape != shape[:1] or not shape:
            return "the counts of rows have other shapes than the rows"
    if counts is not None and not (np.all(rows >= 0) and np.all(rows <= counts)):
        return "a row has seen more updates than were made"
    if counts is not None and not counts < 2**63:
        return "there are too many updates"
    # Sums of logarithms of numbers up to 1, of which a row has seen the first ones.
    if logs is not None and not (np.all(row_logs <= 0) and np.all(row_logs >= logs)):  # type: ignore[operator]
        return "a row has seen more corrections than were made"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number, not below zero."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Any integer is below infinity, but a float holds none above its own largest.
    return is_number and 0 <= value <= sys.float_info.max


def _checksum(arrays: Mapping[str, Array]) -> int:
    """CRC-32 of arrays: their names, dtypes, shapes and bytes."""
    checksum = 0
    for key in sorted(arrays):
        array = arrays[key]
        header = f"{key} {array.dtype.name} {array.shape} "
        checksum = zlib.crc32(header.encode(), checksum)
        checksum = zlib.crc32(_bytes_of(array), checksum)
    return checksum


def _checksum_of_format_1(arrays: Mapping[str, Array]) -> int:
    """CRC-32 of the names and the bytes of arrays."""
    checksum = 0
    for key in sorted(arrays):
        checksum = zlib.crc32(key.encode(), checksum)
        checksum = zlib.crc32(_bytes_of(arrays[key]), checksum)
    return checksum


def _bytes_of(array: Array) -> memoryview:
    # A file may have been written with the bytes of each number in the other order.
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return native.reshape(-1).view("u1").data


def _storable(value: Array) -> Array:
    """A subclass's array in a dtype of NumPy's own, which every kind of file keeps."""
    return value if value.dtype.kind in "iuf" else value.astype(np.float32)


def _read_keras_state(arrays: Mapping[str, Array], optimizer: "RMSprop") -> State:
    """Read what `keras.optimizers.RMSprop` saves: arrays in the order of its variables.

    The order is iteration, learning rate unless scheduled, then for all variables each of
    average, accumulator, velocity, momentum and average_gradient, as far as its options ask
    for them. Which they were is not saved, and must follow from this optimizer's own.

    Adagrad saves arrays of the same shapes. Its accumulators start at 0.1 and only grow, which
    tells it where one of them has not moved yet; otherwise it cannot be told from RMSprop.

    Raises: _ForeignStateError if they are another optimizer's; ValueError if no optimizer has
        such counts or rates.
    """
    if not all(map(str.isdecimal, arrays)) or not all(map(_is_numeric, arrays.values())):
        raise _ForeignStateError(f"with the entries {_some(sorted(arrays))}")
    values = [arrays[key] for key in sorted(arrays, key=int)]
    layout = _keras_layout(values, optimizer)
    start = 2 if layout.has_rate else 1
    slots: list[dict[str, Array]] = [{} for _ in range(layout.variables)]
    for i, value in enumerate(values[start:]):
        kind = layout.kinds[i // layout.variables]
        slots[i % layout.variables][kind] = value.astype(_wide(value))
    centered = "gradient_average" in layout.kinds
    for slot in slots if centered else ():
        _center(slot)
    accumulates = "accumulator" in layout.kinds
    state = State(
        calls=int(values[0]) if values[0].dtype.kind in "iu" else -1,
        accumulation_steps=(optimizer.gradient_accumulation_steps or 1) if accumulates else 1,
        learning_rate=float(values[1]) if layout.has_rate else None,
        skipped_steps=None,
        centered=centered,
        lr_in_momentum=True,
        rho=optimizer.rho,
        names=None,
        slots=tuple(slots),
    )
    reason = why_impossible(state)
    if reason is not None:
        raise _damage(reason)
    return state


def _is_numeric(value: Array) -> bool:
    # NumPy knows the kinds of its own dtypes; bfloat16 and float8 are others'.
    return value.dtype.kind in "iuf" or value.dtype.name.startswith(("bfloat", "float8"))


class _Layout(NamedTuple):
    """What the arrays in a file of Keras's are."""

    has_rate: bool
    kinds: tuple[str, ...]
    # Of how many variables.
    variables: int


def _keras_layout(values: list[Array], optimizer: "RMSprop") -> _Layout:
    """Tell what arrays are by their shapes.

    Raises: _ForeignStateError unless exactly one answer suits the optimizer best.
    """
    weights = [tuple(parameter.weight.shape) for parameter in optimizer._parameters]
    own = {kind for parameter in optimizer._parameters for kind in _slots(parameter, None)}
    own_rate = optimizer._rate_variable is not None
    fits = [
        layout
        for has_rate in (own_rate, not own_rate)
        for kinds in _subsets_with_square_average()
        for layout in _layouts(values, has_rate, kinds)
    ]
    exact = [fit for fit in fits if _shapes(values, fit) == weights[: fit.variables]]
    whole = [fit for fit in exact if fit.variables == len(weights)]
    # The same options; the same options and fewer layers; fewer options; any; the same options
    # and other layers.
    for chosen in (
        [fit for fit in whole if set(fit.kinds) == own],
        [fit for fit in exact if set(fit.kinds) == own],
        [fit for fit in whole if set(fit.kinds) <= own],
        whole,
        [
            fit
            for fit in fits
            if set(fit.kinds) == own
            and fit.has_rate == own_rate
            # A scalar among the variables is more likely a counter of another optimizer's.
            and set(_shapes(values, fit)) & set(weights)
            and () not in _shapes(values, fit)
        ],
    ):
        if len({fit[1:] for fit in chosen}) == 1:
            return chosen[0]
        if chosen:
            break
    raise _ForeignStateError(
        f"{len(values)} arrays without names, and which they are cannot be told from their shapes: "
        f"{_some([str(value.shape) for value in values], 12)}, where the variables have shapes "
        f"{_some(list(map(str, weights)), 12)}. If they are RMSprop's, load them into an optimizer "
        "with the options (momentum, centered, use_ema, gradient_accumulation_steps) that they "
        "were saved with"
    )


def _layouts(values: list[Array], has_rate: bool, kinds: set[str]) -> Iterable[_Layout]:
    """The ways to take arrays as these kinds of slots, each of the same variables."""
    shapes = [value.shape for value in values]
    start = 1 + has_rate
    count, rest = divmod(len(values) - start, len(kinds))
    if count < 1 or rest or shapes[:start] != [()] * start:
        return
    layout = _Layout(has_rate, tuple(kind for kind in _KERAS_ORDER if kind in kinds), count)
    repeats = shapes[start:] == _shapes(values, layout) * len(kinds)
    if repeats and _could_be_square_averages(values, layout):
        yield layout


def _shapes(values: list[Array], layout: _Layout) -> list[tuple[int, ...]]:
    start = 1 + layout.has_rate
    return [value.shape for value in values[start : start + layout.variables]]


def _could_be_square_averages(values: list[Array], layout: _Layout) -> bool:
    """Whether the arrays that would be averages of squares can be.

    They are not negative, which tells RMSprop's from the averages and momentum buffers of other
    optimizers; and they start at zero, not at 0.1 as Adagrad's sums do. (A first step with
    gradients of 1 takes them to 0.1 as well.)
    """
    start = 1 + layout.has_rate + layout.variables * layout.kinds.index("square_average")
    averages = values[start : start + layout.variables]
    if any(np.any(value < 0) for value in averages):
        return False
    smallest = min((value.min() for value in averages if value.size), default=0.0)
    return bool(values[0] == 1 or np.float32(smallest) != np.float32(0.1))


_KERAS_ORDER = ("average", "accumulator", "square_average", "momentum", "gradient_average")


def _subsets_with_square_average() -> list[set[str]]:
    subsets: list[set[str]] = [{"square_average"}]
    for kind in ("average", "accumulator", "momentum", "gradient_average"):
        subsets += [subset | {kind} for subset in subsets]
    return subsets


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
    for name, slots in zip(names, state.slots, strict=True):
        named |= {f"{name}/{kind}": value for kind, value in slots.items()}
    return named | {_own_name(own.label, own.position, names): own.value for own in state.own}


def _own_name(label: str, position: int | None, names: Sequence[str]) -> str:
    return label if position is None else f"{names[position]}/{label}"


def from_dict(named: Mapping[str, Any], optimizer: "RMSprop", strict: bool) -> State:
    """Read the arrays that `to_dict` named, for an optimizer with the same variables.

    Raises: ValueError naming entries that are missing or unknown, if `strict`, or that do not
        fit or that no optimizer can have.
    """
    here = state_of(optimizer)
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
            kind: _given(named[f"{name}/{kind}"], own.get(kind), f"The saved {kind} of {name!r}")
            for kind in KINDS
            if f"{name}/{kind}" in named
        }
        for name, own in zip(names, here.slots, strict=True)
    ]
    own = [
        each._replace(value=_given(named[name], each.value, f"The saved {name}"))
        for each in here.own
        if (name := _own_name(each.label, each.position, names)) in named
    ]
    calls, rate, skipped = (
        None if key not in named else _scalar(named[key], key)
        for key in ("iteration", "learning_rate", "skipped_steps")
    )
    state = here._replace(
        calls=None if calls is None else int(calls),
        # Which options the state was made with shows in its slots.
        accumulation_steps=here.accumulation_steps if _any_has(slots, "accumulator") else 1,
        centered=_any_has(slots, "gradient_average"),
        learning_rate=None if rate is None else float(rate),
        skipped_steps=None if skipped is None else int(skipped),
        slots=tuple(slots),
        own=tuple(own),
    )
    reason = why_impossible(state)
    if reason is not None:
        raise ValueError(f"The state is none of this optimizer's: {reason}. {_NOTHING}")
    return state


_NOTHING = "Nothing was loaded: the optimizer is as it was."


def _given(value: Any, own: Array | None, subject: str) -> Array:
    """Return an entry of a user's as an array, or refuse it."""
    array = np.asarray(value)
    if own is not None and array.shape != own.shape:
        raise ValueError(
            f"{subject} has shape {array.shape}, but the variable has shape {own.shape}. {_NOTHING}"
        )
    if array.dtype.kind != "b" and not _is_numeric(array):
        raise ValueError(f"{subject} holds no numbers, received dtype {array.dtype}. {_NOTHING}")
    return array


def _scalar(value: Any, name: str) -> float:
    number = _given(value, np.zeros(()), f"The saved {name}").item()
    if name != "learning_rate" and not (math.isfinite(number) and number == int(number)):
        raise ValueError(f"The saved {name} is no whole number, received {number!r}. {_NOTHING}")
    return number


def _renamed(named: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Give entries the variables' present names, where only the model's prefix differs."""
    saved = tuple(dict.fromkeys(key.rpartition("/")[0] for key in named if "/" in key))
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


def plan_load(optimizer: "RMSprop", state: State) -> Plan:
    """Decide what every variable of a built optimizer is to hold, without assigning anything.

    Raises: ValueError if a counter or the rate is too large for its variable.
    """
    names = _names(optimizer)
    own_slots = _all_slots(optimizer)
    pairs = _pairing.pair(_identities(state), _identities_here(optimizer, names))
    assignments: list[tuple[Any, Any]] = []
    restored: list[str] = []
    initialized: list[str] = []
    notes = _notes(pairs, names)
    used: set[str] = set()

    def assign(variable: Any, name: str, value: Any, fresh: Callable[[], Any]) -> None:
        (initialized if value is None else restored).append(name)
        assignments.append((variable, fresh() if value is None else value))

    steps = optimizer.gradient_accumulation_steps or 1
    calls, skipped = optimizer._counters
    in_step = steps == state.accumulation_steps
    # With other accumulation steps the steps made so far still count as steps.
    count = state.calls
    if count is not None and not in_step:
        count = count // state.accumulation_steps * steps
    assign(calls, "iteration", _counted(count, calls, "iteration"), lambda: 0)
    dropped: list[str] = []
    rate = optimizer._rate_variable
    if rate is not None:
        held = _held(state.learning_rate, rate)
        assign(rate, "learning_rate", held, lambda: array_of(rate))
    elif state.learning_rate is not None:
        dropped.append("learning_rate")
    if skipped is not None:
        count = _counted(state.skipped_steps, skipped, "skipped_steps")
        assign(skipped, "skipped_steps", count, lambda: 0)
    elif state.skipped_steps is not None:
        dropped.append("skipped_steps")

    for name, source, parameter, own in zip(
        names, pairs.sources, optimizer._parameters, own_slots, strict=True
    ):
        saved = {} if source is None else state.slots[source]
        slots = _converted(state, optimizer, saved, own) if saved else {}
        if not in_step:
            slots.pop("accumulator", None)
        for kind, variable in own.items():
            value = _fitting(slots.get(kind), variable)
            if value is not None:
                used.add(f"{source}.{kind}")
            fresh = functools.partial(_fresh, optimizer, kind, parameter)
            assign(variable, f"{name}/{kind}", value, fresh)
    notes += _misfits(state, pairs, names, optimizer)

    saved_own = {(own.position, own.label): own for own in state.own}
    for (position, label), variable in _own(optimizer).items():
        source = None if position is None else pairs.sources[position]
        entry = None
        if (position is None) == (source is None):
            entry = saved_own.get((source, label))
        value = _fitting(None if entry is None else entry.value, variable)
        if entry is not None and value is not None:
            del saved_own[source, label]
        name = _own_name(label, position, names)
        # What it starts from only the subclass knows.
        assign(variable, name, value, functools.partial(array_of, variable))

    saved_names = state.names or tuple(f"variable {i}" for i in range(len(state.slots)))
    dropped += [
        f"{saved_names[position]}/{kind}"
        for position, slots in enumerate(state.slots)
        for kind in slots
        if f"{position}.{kind}" not in used
        # Became part of the square average, where that is no longer about the mean or decays
        # at every step.
        and not (
            kind in ("gradient_average", *Progress._fields) and f"{position}.square_average" in used
        )
    ]
    dropped += [_own_name(own.label, own.position, saved_names) for own in saved_own.values()]
    report = LoadReport(tuple(restored), tuple(initialized), tuple(dropped), tuple(notes))
    return Plan(assignments, report)


def _identities(state: State) -> list[Identity]:
    """What tells the saved variables."""
    names = state.names or (None,) * len(state.slots)
    return [
        Identity(name, next((v.shape for k, v in slots.items() if k not in Progress._fields), None))
        for name, slots in zip(names, state.slots, strict=True)
    ]


def _identities_here(optimizer: "RMSprop", names: Sequence[str]) -> list[Identity]:
    """What tells the optimizer's variables."""
    return [
        Identity(name, tuple(parameter.weight.shape))
        for name, parameter in zip(names, optimizer._parameters, strict=True)
    ]


def _notes(pairs: _pairing.Pairs, names: Sequence[str]) -> list[str]:
    """Say which variables something else than their positions told."""
    told = {"names": pairs.by_name, "shapes": pairs.by_shape}
    return [
        f"other variables were saved than there are; these were told by their {what}: "
        f"{_some([names[i] for i in positions])}"
        for what, positions in told.items()
        if positions
    ]


def _misfits(
    state: State, pairs: _pairing.Pairs, names: Sequence[str], optimizer: "RMSprop"
) -> list[str]:
    """Say which variables start afresh because those in their places have other shapes."""
    if len(state.slots) != len(names):
        return []
    identities = zip(names, _identities(state), _identities_here(optimizer, names), strict=True)
    return [
        f"the state in the place of {name} has shape {saved.shape}, where {here.shape} is needed"
        for (name, saved, here), source in zip(identities, pairs.sources, strict=True)
        if source is None and saved.shape != here.shape
    ]


def _counted(count: int | None, variable: Any, name: str) -> int | None:
    """Return a count, or refuse it: assigned to its variable it must stay what it is."""
    dtype = backend.standardize_dtype(variable.dtype)
    if count is not None and count > np.iinfo(dtype).max:
        raise ValueError(
            f"The saved {name} of {count} is too large for a variable of dtype {dtype}. {_NOTHING}"
        )
    return count


def _held(rate: float | None, variable: Any) -> float | None:
    """Return a rate, or refuse it: assigned to its variable it must not become infinite."""
    dtype = backend.standardize_dtype(variable.dtype)
    if rate is not None and rate > float(np.finfo(np.float32).max) and dtype != "float64":
        raise ValueError(
            f"The saved learning rate of {rate} is too large for a variable of dtype {dtype}. "
            f"{_NOTHING}"
        )
    return rate


def _fitting(value: Array | None, variable: Any) -> Array | None:
    """Return an array as the value of a variable, None if it has another shape."""
    if value is None or value.shape != tuple(variable.shape):
        return None
    # A value beyond the narrower dtype becomes infinite, as it does in training.
    with np.errstate(over="ignore", invalid="ignore"):
        return value.astype(backend.standardize_dtype(variable.dtype), copy=False)


def message(report: LoadReport) -> str | None:
    """Say in words what was not restored, or None if everything was."""
    parts = []
    if report.initialized:
        parts.append(f"these start afresh: {_some(report.initialized)}")
    if report.dropped:
        parts.append(f"these were saved but are not needed: {_some(report.dropped)}")
    if not parts:
        return None
    return (
        f"The optimizer's state was loaded in part: {len(report.restored)} variables were "
        f"restored; {'; '.join([*parts, *report.notes])}. See `optimizer.load_report`."
    )


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _converted(
    state: State, optimizer: "RMSprop", slots: Mapping[str, Array], own: Mapping[str, Any]
) -> dict[str, Array]:
    """A variable's slots in the optimizer's own convention, where `own` are its variables."""
    converted = dict(slots)
    counts = [kind for kind in own if kind in Progress._fields]
    if set(counts) != set(slots) & set(Progress._fields) or state.rho != optimizer.rho:
        _settle(converted, state.rho)
        # What is up to date may count from zero.
        converted |= {kind: np.zeros(tuple(own[kind].shape)) for kind in counts}
    if state.centered and not optimizer.centered and "square_average" in converted:
        # E[g²] is the second moment about the mean, and the mean's square.
        mean = converted["gradient_average"]
        converted["square_average"] = converted["square_average"] + mean**2
    if "momentum" in converted and state.lr_in_momentum != optimizer.lr_in_momentum:
        rate = state.learning_rate
        buffer = converted.pop("momentum")
        # One buffer holds steps, the other directions; without a rate there is no telling.
        if rate:
            converted["momentum"] = buffer / rate if state.lr_in_momentum else buffer * rate
    return converted


def _settle(slots: dict[str, Array], rho: float) -> None:
    """Bring rows whose decay is put off up to date, and take their progress away."""
    fields = [slots.pop(field, None) for field in Progress._fields]
    progress = Progress(*fields)
    if progress.row_updates is None or "square_average" not in slots:
        return
    coefficients = Coefficients.of(rho=rho, momentum=0.0, epsilon=0.0)
    # torch's tensors and NumPy's arrays do not multiply.
    kinds = ("square_average", "gradient_average")
    s, m = (ops.convert_to_tensor(slots[kind]) if kind in slots else None for kind in kinds)
    averages = Parameter(None, s, m)
    settled, _ = catch_up(coefficients, progress, averages)
    for kind in kinds:
        if kind in slots:
            slots[kind] = array_of(getattr(settled, kind))


def _center(slots: dict[str, Array]) -> None:
    """Take Keras's E[g²] about the mean; rounding can have left it a little below zero."""
    slots["square_average"] = np.maximum(
        slots["square_average"] - slots["gradient_average"] ** 2, 0.0
    )


def _fresh(optimizer: "RMSprop", kind: str, parameter: Parameter) -> Array:
    """The value with which a slot starts that a state did not have."""
    if kind == "average":
        # The average of the weights starts as a copy of them, as it does on the first step.
        return array_of(parameter.weight).astype(_wide(array_of(parameter.weight)))
    if kind in Progress._fields:
        return np.zeros(tuple(parameter.weight.shape[:1]) if kind in ROW_FIELDS else ())
    start = optimizer.initial_square_average if kind == "square_average" else 0.0
    return np.full(tuple(parameter.weight.shape), start)


def _slots(parameter: Parameter, progress: Progress | None) -> dict[str, Any]:
    """The slots that there are, by kind."""
    fields = parameter._asdict() | ({} if progress is None else progress._asdict())
    return {kind: v for kind, v in fields.items() if kind in KINDS and v is not None}


def _all_slots(optimizer: "RMSprop") -> list[dict[str, Any]]:
    """The slots of each of the optimizer's variables."""
    return list(map(_slots, optimizer._parameters, optimizer._progress))


def own_variables(optimizer: "RMSprop") -> list[Any]:
    """Return the variables that a subclass has added."""
    return list(_own(optimizer).values())


def _own(optimizer: "RMSprop") -> dict[tuple[int | None, str], Any]:
    """The variables that a subclass has added, by the position of their weight and a label.

    The label is the name that it was added with, numbered where there are several.
    """
    entries = {id(entry.variable): entry for entry in optimizer._ledger.entries}
    known = [*optimizer._counters, optimizer._rate_variable]
    known += [v for slots in _all_slots(optimizer) for v in slots.values()]
    known_ids = set(map(id, known))
    found: dict[tuple[int | None, str], Any] = {}
    for variable in optimizer._variables:
        if id(variable) in known_ids:
            continue
        entry = entries.get(id(variable))
        weight, name = (None, None) if entry is None else (entry.weight, entry.name)
        position = None if weight is None else optimizer._roster.position(weight)
        # Without a name Keras makes one up, and numbers it in each process anew.
        label = name or re.sub(r"^variable_\d+$", "variable", variable.name)
        taken = _SCALARS if position is None else KINDS
        labels = itertools.chain([label], (f"{label}#{i}" for i in itertools.count(1)))
        label = next(x for x in labels if x not in taken and (position, x) not in found)
        found[position, label] = variable
    return found


# The names of `to_dict` that belong to no variable.
_SCALARS = ("iteration", "learning_rate", "skipped_steps")


def _names(optimizer: "RMSprop") -> tuple[str, ...]:
    """The variables' names, each made the only one of its kind by its number."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for parameter in optimizer._parameters:
        name = _pairing.path_of(parameter.weight)
        seen[name] = seen.get(name, -1) + 1
        names.append(f"{name}#{seen[name]}" if seen[name] else name)
    return tuple(names)


def array_of(variable: Any) -> Array:
    """Return the value of a variable, copied."""
    if not isinstance(variable, np.ndarray):
        # Keras's variables turn into arrays only with a deprecation warning of NumPy's.
        variable = ops.convert_to_numpy(ops.convert_to_tensor(variable))
    # A copy, because torch's arrays share the memory that the next step writes to.
    return np.array(variable)


def _wide(array: Array) -> Any:
    """The dtype in which an array's values are kept as a slot."""
    return np.float64 if array.dtype == np.float64 else np.float32
