"""The optimizer's state as plain arrays: what is saved, and what becomes of it on loading?

A state is loaded in three moves, so that nothing is lost on the way: it is read into a `State`,
whatever its source; `plan_load` decides what every variable of the optimizer shall hold, or
refuses; only then is anything assigned.

State follows the weights. It is paired by the variable's position, as Keras pairs weights, and
by the kind of slot; the variables' names only tell when the order has changed. What the
optimizer has and the state does not starts afresh; what the state has and the optimizer does
not is dropped; both are said.
"""

import functools
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from keras import backend, ops
from numpy.typing import NDArray

from keras_rmsprop._deferred import ROW_FIELDS, Progress, catch_up
from keras_rmsprop._rule import Coefficients, Parameter

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop

Array = NDArray[Any]

# The kinds of slots, by the names under which they are saved.
KINDS = (*Parameter._fields[1:], *Progress._fields)

# How this version writes its files; a reader refuses a later one.
FORMAT = 1


class LoadReport(NamedTuple):
    """What became of a loaded state, by the names that `state_dict` gives."""

    # Variables that now hold what the state held, converted where its convention differs.
    restored: tuple[str, ...]
    # Variables that the state did not have, and that start afresh.
    initialized: tuple[str, ...]
    # Entries of the state that the optimizer has no use for.
    dropped: tuple[str, ...]


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


class Plan(NamedTuple):
    """What a load is going to assign, and the report of it."""

    assignments: list[tuple[Any, Any]]
    report: LoadReport


def state_of(optimizer: "RMSprop") -> State:
    """Read a built optimizer's state."""
    counters = optimizer._counters
    rate = optimizer._rate_variable
    return State(
        calls=int(_array(counters.calls)),
        accumulation_steps=optimizer.gradient_accumulation_steps or 1,
        learning_rate=None if rate is None else float(_array(rate)),
        skipped_steps=None if counters.skipped is None else int(_array(counters.skipped)),
        centered=optimizer.centered,
        lr_in_momentum=optimizer.lr_in_momentum,
        rho=optimizer.rho,
        names=_names(optimizer),
        slots=tuple(
            {kind: _array(v) for kind, v in slots.items()} for slots in _all_slots(optimizer)
        ),
    )


def write_state(state: State, store: Any) -> None:
    """Put a state into the store of a Keras file: arrays, and their description as JSON."""
    arrays = {
        f"{position}.{kind}": value
        for position, slots in enumerate(state.slots)
        for kind, value in slots.items()
    }
    description = {"format": FORMAT, **state._asdict(), "slots": len(state.slots)}
    arrays["description"] = np.frombuffer(json.dumps(description).encode(), np.uint8)
    arrays["checksum"] = np.asarray(_checksum(arrays), np.uint32)
    for key, value in arrays.items():
        store[key] = value


def read_state(arrays: Mapping[str, Array], optimizer: "RMSprop") -> State:
    """Read a state from the arrays of a Keras file, this package's or of Keras's own RMSprop.

    Raises: ValueError if the file is damaged, of a later version, or of another optimizer.
    """
    if is_described(arrays):
        return read_described_state(arrays)
    return _read_keras_state(arrays, optimizer)


def is_described(arrays: Mapping[str, Array]) -> bool:
    """Whether arrays of a file are this package's, and not Keras's own."""
    return "description" in arrays


def read_described_state(arrays: Mapping[str, Array]) -> State:
    """Read the arrays that `write_state` wrote.

    Raises: ValueError if they are damaged, or of a later version.
    """
    damaged = ValueError(
        "The optimizer state in the file is damaged: it is not what was saved. Nothing of it was "
        "loaded; use an earlier checkpoint."
    )
    arrays = dict(arrays)
    checksum = arrays.pop("checksum", None)
    try:
        fields = json.loads(arrays["description"].tobytes())
        version = fields.pop("format")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged from error
    # Judged first, because a later version may take its checksum in another way.
    if version > FORMAT:
        raise ValueError(
            f"The optimizer state was saved by a later version of keras_rmsprop, in format "
            f"{version}; this version reads formats up to {FORMAT}. Upgrade keras_rmsprop to load "
            "it. Nothing of it was loaded."
        )
    # HDF5 files carry no checksum of their own: a flipped bit would become a weight's average.
    if checksum is None or checksum != _checksum(arrays):
        raise damaged
    del arrays["description"]
    slots: list[dict[str, Array]] = [{} for _ in range(fields.pop("slots"))]
    for key, value in arrays.items():
        position, _, kind = key.partition(".")
        slots[int(position)][kind] = value
    return State(**(fields | {"names": tuple(fields["names"]), "slots": tuple(slots)}))


def _checksum(arrays: Mapping[str, Array]) -> int:
    """CRC-32 of the names and the bytes of arrays."""
    checksum = 0
    for key in sorted(arrays):
        checksum = zlib.crc32(key.encode(), checksum)
        checksum = zlib.crc32(
            np.ascontiguousarray(arrays[key]).reshape(-1).view("u1").data, checksum
        )
    return checksum


def _read_keras_state(arrays: Mapping[str, Array], optimizer: "RMSprop") -> State:
    """Read what `keras.optimizers.RMSprop` saves: arrays in the order of its variables.

    The order is iteration, learning rate unless scheduled, then for all variables each of
    average, accumulator, velocity, momentum and average_gradient, as far as its options ask
    for them. Which they were is not saved, and must follow from this optimizer's own.
    """
    if not all(map(str.isdecimal, arrays)):
        raise ValueError(
            "The file holds the state of another optimizer, with the entries "
            f"{_some(sorted(arrays))}. Nothing was loaded."
        )
    values = [arrays[key] for key in sorted(arrays, key=int)]
    has_rate, kinds, count = _keras_layout(values, optimizer)
    start = 2 if has_rate else 1
    slots: list[dict[str, Array]] = [{} for _ in range(count)]
    for i, value in enumerate(values[start:]):
        slots[i % count][kinds[i // count]] = value.astype(_wide(value))
    centered = "gradient_average" in kinds
    for slot in slots if centered else ():
        _center(slot)
    accumulates = "accumulator" in kinds
    return State(
        calls=int(values[0]),
        accumulation_steps=(optimizer.gradient_accumulation_steps or 1) if accumulates else 1,
        learning_rate=float(values[1]) if has_rate else None,
        skipped_steps=None,
        centered=centered,
        lr_in_momentum=True,
        rho=optimizer.rho,
        names=None,
        slots=tuple(slots),
    )


def _keras_layout(values: list[Array], optimizer: "RMSprop") -> tuple[bool, tuple[str, ...], int]:
    """Tell what arrays are by their shapes: with a rate? which kinds? of how many variables?

    Raises: ValueError unless exactly one answer suits the optimizer best.
    """
    shapes = [value.shape for value in values]
    weights = [tuple(parameter.weight.shape) for parameter in optimizer._parameters]
    own = {kind for parameter in optimizer._parameters for kind in _slots(parameter, None)}
    own_rate = optimizer._rate_variable is not None
    fits = [
        (has_rate, tuple(kind for kind in _KERAS_ORDER if kind in kinds), count)
        for has_rate in (own_rate, not own_rate)
        for kinds in _subsets_with_square_average()
        for count in range(len(weights), 0, -1)
        if shapes == [()] * (1 + has_rate) + weights[:count] * len(kinds)
        and _could_be_square_averages(values, 1 + has_rate, kinds, count)
    ]
    whole = [fit for fit in fits if fit[2] == len(weights)]
    # The same options; the same options and fewer layers; fewer options; any.
    for chosen in (
        [fit for fit in whole if set(fit[1]) == own],
        [fit for fit in fits if set(fit[1]) == own],
        [fit for fit in whole if set(fit[1]) <= own],
        whole,
    ):
        if len({fit[1:] for fit in chosen}) == 1:
            return chosen[0]
        if chosen:
            break
    raise ValueError(
        f"The file holds the state of another optimizer, {len(shapes)} arrays without names, "
        f"and which they are cannot be told from their shapes: {shapes}, where the variables "
        f"have shapes {weights}. Load it into an optimizer with the options (momentum, centered, "
        "use_ema, gradient_accumulation_steps) that it was saved with. Nothing was loaded."
    )


def _could_be_square_averages(values: list[Array], start: int, kinds: set[str], count: int) -> bool:
    """Whether the arrays that would be averages of squares are: they cannot be negative.

    It tells RMSprop's from the averages and momentum buffers of other optimizers.
    """
    start += count * [kind for kind in _KERAS_ORDER if kind in kinds].index("square_average")
    return not any(np.any(value < 0) for value in values[start : start + count])


_KERAS_ORDER = ("average", "accumulator", "square_average", "momentum", "gradient_average")


def _subsets_with_square_average() -> list[set[str]]:
    subsets: list[set[str]] = [{"square_average"}]
    for kind in ("average", "accumulator", "momentum", "gradient_average"):
        subsets += [subset | {kind} for subset in subsets]
    return subsets


def to_dict(state: State) -> dict[str, Array]:
    """Name every array of a state: `iteration`, and `<variable>/<kind>` for the slots."""
    named: dict[str, Array] = {}
    if state.calls is not None:
        named["iteration"] = np.asarray(state.calls)
    if state.learning_rate is not None:
        named["learning_rate"] = np.asarray(state.learning_rate)
    if state.skipped_steps is not None:
        named["skipped_steps"] = np.asarray(state.skipped_steps)
    for name, slots in zip(state.names or (), state.slots, strict=True):
        named |= {f"{name}/{kind}": value for kind, value in slots.items()}
    return named


def from_dict(named: Mapping[str, Any], optimizer: "RMSprop", strict: bool) -> State:
    """Read the arrays that `to_dict` named, for an optimizer with the same variables.

    Raises: ValueError naming entries that are missing or unknown, if `strict`.
    """
    here = state_of(optimizer)
    named = _renamed(named, here.names or ())
    expected = set(to_dict(here))
    missing, unknown = sorted(expected - set(named)), sorted(set(named) - expected)
    if strict and (missing or unknown):
        raise ValueError(
            f"The state does not match the optimizer. Missing: {missing}. Unknown: {unknown}. "
            "Nothing was loaded. Pass strict=False to load what matches."
        )
    slots: list[dict[str, Array]] = [
        {kind: np.asarray(named[f"{name}/{kind}"]) for kind in KINDS if f"{name}/{kind}" in named}
        for name in here.names or ()
    ]
    calls, rate, skipped = map(named.get, ("iteration", "learning_rate", "skipped_steps"))
    return here._replace(
        calls=None if calls is None else int(calls),
        # Which options the state was made with shows in its slots.
        accumulation_steps=here.accumulation_steps if _any_has(slots, "accumulator") else 1,
        centered=_any_has(slots, "gradient_average"),
        learning_rate=None if rate is None else float(rate),
        skipped_steps=None if skipped is None else int(skipped),
        slots=tuple(slots),
    )


def _renamed(named: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Give entries the variables' present names, where only the model's prefix differs."""
    saved = tuple(dict.fromkeys(key.rpartition("/")[0] for key in named if "/" in key))
    common = _in_common_terms(saved, names)
    if common is None:
        return dict(named)
    present = dict(zip(common[1], names, strict=True))
    owners = {old: present.get(term, old) for old, term in zip(saved, common[0], strict=True)}
    renamed = {}
    for key, value in named.items():
        owner, slash, kind = key.rpartition("/")
        renamed[owners.get(owner, owner) + slash + kind] = value
    return renamed


def _any_has(slots: Iterable[Mapping[str, Any]], kind: str) -> bool:
    return any(kind in each for each in slots)


def plan_load(optimizer: "RMSprop", state: State) -> Plan:
    """Decide what every variable of a built optimizer is to hold, without assigning anything.

    Raises: ValueError if a slot's shape is not its variable's, naming both, or if its values
        are no numbers.
    """
    names = _names(optimizer)
    sources = _paired(state, names)
    assignments: list[tuple[Any, Any]] = []
    restored: list[str] = []
    initialized: list[str] = []
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
    assign(calls, "iteration", count, lambda: 0)
    dropped: list[str] = []
    rate = optimizer._rate_variable
    if rate is not None:
        assign(rate, "learning_rate", state.learning_rate, lambda: _array(rate))
    elif state.learning_rate is not None:
        dropped.append("learning_rate")
    if skipped is not None:
        assign(skipped, "skipped_steps", state.skipped_steps, lambda: 0)
    elif state.skipped_steps is not None:
        dropped.append("skipped_steps")

    for position, (name, parameter, own) in enumerate(
        zip(names, optimizer._parameters, _all_slots(optimizer), strict=True)
    ):
        source = sources[position]
        saved = {} if source is None else state.slots[source]
        slots = _converted(state, optimizer, saved, own) if saved else {}
        if not in_step:
            slots.pop("accumulator", None)
        for kind, variable in own.items():
            value = slots.get(kind)
            if value is not None:
                used.add(f"{source}.{kind}")
                value = _fitting(value, variable, f"The saved {kind} of {name!r}")
            assign(
                variable,
                f"{name}/{kind}",
                value,
                functools.partial(_fresh, optimizer, kind, parameter),
            )

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
    return Plan(assignments, LoadReport(tuple(restored), tuple(initialized), tuple(dropped)))


def _fitting(value: Array, variable: Any, subject: str) -> Array:
    """Return an array as the value of a variable, or refuse it: assigning must not fail."""
    shape = tuple(variable.shape)
    if value.shape != shape:
        raise ValueError(
            f"{subject} has shape {value.shape}, but the variable has shape {shape}. Nothing was "
            "loaded: the optimizer is as it was."
        )
    try:
        return value.astype(backend.standardize_dtype(variable.dtype), copy=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{subject} holds no numbers, received dtype {value.dtype}. Nothing was loaded: the "
            "optimizer is as it was."
        ) from error


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
        f"restored; {'; '.join(parts)}. See `optimizer.load_report`."
    )


def _some(names: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _paired(state: State, names: tuple[str, ...]) -> list[int | None]:
    """For each variable the position of its state, or None where there is none.

    By position, unless the names say that the same variables stand in another order.
    """
    by_position = [i if i < len(state.slots) else None for i in range(len(names))]
    common = None if state.names is None else _in_common_terms(state.names, names)
    if common is None:
        return by_position
    saved, names = common
    if saved[: len(names)] == names[: len(saved)]:
        return by_position
    positions = {name: i for i, name in enumerate(saved)}
    return [positions.get(name) for name in names]


def _in_common_terms(
    saved: tuple[str, ...], names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Take names to where all of one side are known to the other; None if that cannot be.

    A variable's path begins with the model's name or does not, which a loaded model changes.
    """
    for left in (saved, _without_prefix(saved)):
        for right in (names, _without_prefix(names)):
            if set(left) <= set(right) or set(right) <= set(left):
                return left, right
    return None


def _without_prefix(names: tuple[str, ...]) -> tuple[str, ...]:
    """Take the first part off paths that all have in common."""
    parts = [name.partition("/") for name in names]
    if len({first for first, _, _ in parts}) == 1 and all(rest for _, _, rest in parts):
        return tuple(rest for _, _, rest in parts)
    return names


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
            slots[kind] = _array(getattr(settled, kind))


def _center(slots: dict[str, Array]) -> None:
    """Take Keras's E[g²] about the mean; rounding can have left it a little below zero."""
    slots["square_average"] = np.maximum(
        slots["square_average"] - slots["gradient_average"] ** 2, 0.0
    )


def _fresh(optimizer: "RMSprop", kind: str, parameter: Parameter) -> Array:
    """The value with which a slot starts that a state did not have."""
    if kind == "average":
        # The average of the weights starts as a copy of them, as it does on the first step.
        return _array(parameter.weight).astype(_wide(_array(parameter.weight)))
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


def _names(optimizer: "RMSprop") -> tuple[str, ...]:
    """The variables' names, each made the only one of its kind by its number."""
    names: list[str] = []
    seen: dict[str, int] = {}
    for parameter in optimizer._parameters:
        weight = parameter.weight
        # A raw tf.Variable has no path.
        name = str(getattr(weight, "path", None) or weight.name)
        seen[name] = seen.get(name, -1) + 1
        names.append(f"{name}#{seen[name]}" if seen[name] else name)
    return tuple(names)


def _array(variable: Any) -> Array:
    if not isinstance(variable, np.ndarray):
        # Keras's variables turn into arrays only with a deprecation warning of NumPy's.
        variable = ops.convert_to_numpy(ops.convert_to_tensor(variable))
    # A copy, because torch's arrays share the memory that the next step writes to.
    return np.array(variable)


def _wide(array: Array) -> Any:
    """The dtype in which an array's values are kept as a slot."""
    return np.float64 if array.dtype == np.float64 else np.float32
