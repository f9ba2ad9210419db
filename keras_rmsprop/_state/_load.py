"""Plan a load: the new value of every variable, and the report."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

from keras_rmsprop._math._lazy import ROW_FIELDS, Progress, catch_up
from keras_rmsprop._math._rule import Coefficients, Parameter
from keras_rmsprop._state._form import (
    NOTHING_LOADED,
    Array,
    State,
    abbreviated,
    rate_name,
    slot_dtype,
    subclass_variable_name,
)
from keras_rmsprop._state._read import (
    OptimizerParts,
    array_of,
    names_of,
    slots_of,
    subclass_variables_by_label,
)
from keras_rmsprop._variables import _pairing
from keras_rmsprop._variables._pairing import Identity
from keras_rmsprop._variables._roster import ParameterVariables


class _Entries(NamedTuple):
    # Variables restored from the state, converted if its convention differs.
    restored: tuple[str, ...]
    # Variables that the state did not have, and that start fresh.
    initialized: tuple[str, ...]
    # Entries of the state that the optimizer does not need.
    dropped: tuple[str, ...]


class LoadReport(_Entries):
    """The result of a load, by the names of `state_dict`.

    A tuple of `restored`, `initialized` and `dropped`. In addition, the sentences in `notes` say
    which variables were matched by name or shape, because the saved variables differed, which
    shapes did not fit, and which slots were rounded to bfloat16.
    """

    notes: tuple[str, ...]

    def __new__(
        cls,
        restored: tuple[str, ...],
        initialized: tuple[str, ...],
        dropped: tuple[str, ...],
        notes: tuple[str, ...] = (),
    ) -> "LoadReport":
        """Create a report of these entries."""
        report = super().__new__(cls, restored, initialized, dropped)
        report.notes = notes
        return report


class LoadPlan(NamedTuple):
    """The assignments of a load, and its report."""

    assignments: list[tuple[Any, Any]]
    report: LoadReport


class LastLoad:
    """Holds the report of the last load, in an object that Keras does not track."""

    def __init__(self) -> None:
        self.report: LoadReport | None = None


def plan_load(parts: OptimizerParts, state: State) -> LoadPlan:
    """Decide the new value of every variable of a built optimizer, without assigning it.

    Raises: ValueError if a counter or the rate is too large for its variable.
    """
    names = names_of(parts)
    own_slots = slots_of(parts)
    pairs = _pairing.pair(_identities(state), _identities_here(parts, names))
    assignments: list[tuple[Any, Any]] = []
    restored: list[str] = []
    initialized: list[str] = []
    notes = _notes(pairs, names)
    rounded: list[str] = []
    used: set[str] = set()

    def assign(variable: Any, name: str, value: Any, fresh: Callable[[], Any]) -> None:
        (initialized if value is None else restored).append(name)
        assignments.append((variable, fresh() if value is None else value))

    steps = parts.accumulation_steps
    calls, skipped, factors = parts.roster.counters
    in_step = steps == state.accumulation_steps
    # With different accumulation steps, convert the count so that completed steps stay completed.
    count = state.calls
    if count is not None and not in_step:
        count = count // state.accumulation_steps * steps
    assign(calls, "iteration", _checked_count(count, calls, "iteration"), lambda: 0)
    dropped: list[str] = []
    rate = parts.rate
    if rate is not None:
        saved_rate = _checked_rate(state.learning_rate, rate)
        assign(rate, "learning_rate", saved_rate, lambda: array_of(rate))
    elif state.learning_rate is not None:
        dropped.append("learning_rate")
    if skipped is not None:
        count = _checked_count(state.skipped_steps, skipped, "skipped_steps")
        assign(skipped, "skipped_steps", count, lambda: 0)
    elif state.skipped_steps is not None:
        dropped.append("skipped_steps")
    if factors is not None:
        rates = array_of(factors)
        for i, pattern in enumerate(parts.patterns):
            name = rate_name(pattern)
            (restored if pattern in state.rates else initialized).append(name)
            rates[i] = state.rates.get(pattern, rates[i])
        assignments.append((factors, rates))
    dropped += [rate_name(pattern) for pattern in state.rates if pattern not in parts.patterns]

    for here, (name, source, parameter, slot_variables) in enumerate(
        zip(names, pairs.sources, parts.roster.parameters, own_slots, strict=True)
    ):
        slots = {}
        if source is not None and state.slots[source]:
            slots = _converted(state, source, parts, here, slot_variables)
        if not in_step:
            slots.pop("accumulator", None)
        for kind, variable in slot_variables.items():
            value = _fitting(slots.get(kind), variable)
            if value is not None:
                used.add(f"{source}.{kind}")
                if _is_rounded(value, variable):
                    rounded.append(f"{name}/{kind}")
            fresh = functools.partial(_fresh, parts, kind, parameter)
            assign(variable, f"{name}/{kind}", value, fresh)
    notes += _misfits(state, pairs, names, parts)
    if rounded:
        notes.append(f"these were rounded to bfloat16: {abbreviated(rounded)}")

    saved_by_label = {(v.position, v.label): v for v in state.subclass_variables}
    for (position, label), variable in subclass_variables_by_label(parts).items():
        source = None if position is None else pairs.sources[position]
        entry = None
        if (position is None) == (source is None):
            entry = saved_by_label.get((source, label))
        value = _fitting(None if entry is None else entry.value, variable)
        if entry is not None and value is not None:
            del saved_by_label[source, label]
        name = subclass_variable_name(label, position, names)
        # Only the subclass knows the initial value, so keep the current one.
        assign(variable, name, value, functools.partial(array_of, variable))

    saved_names = state.names or tuple(f"variable {i}" for i in range(len(state.slots)))
    dropped += [
        f"{saved_names[position]}/{kind}"
        for position, slots in enumerate(state.slots)
        for kind in slots
        if f"{position}.{kind}" not in used
        # Not dropped if merged into the square average: the mean when uncentering, the progress of
        # rows when settling.
        and not (
            kind in ("gradient_average", *Progress._fields) and f"{position}.square_average" in used
        )
    ]
    dropped += [
        subclass_variable_name(v.label, v.position, saved_names) for v in saved_by_label.values()
    ]
    report = LoadReport(tuple(restored), tuple(initialized), tuple(dropped), tuple(notes))
    return LoadPlan(assignments, report)


def _identities(state: State) -> list[Identity]:
    """Return what identifies the saved variables."""
    names = state.names or (None,) * len(state.slots)
    return [
        Identity(name, next((v.shape for k, v in slots.items() if k not in Progress._fields), None))
        for name, slots in zip(names, state.slots, strict=True)
    ]


def _identities_here(parts: OptimizerParts, names: Sequence[str]) -> list[Identity]:
    """Return what identifies the optimizer's variables."""
    return [
        Identity(name, tuple(parameter.weight.shape))
        for name, parameter in zip(names, parts.roster.parameters, strict=True)
    ]


def _notes(pairs: _pairing.Pairs, names: Sequence[str]) -> list[str]:
    """Return notes on variables that were not matched by position."""
    matched = {"names": pairs.by_name, "shapes": pairs.by_shape}
    return [
        f"other variables were saved than there are; these were matched by their {what}: "
        f"{abbreviated([names[i] for i in positions])}"
        for what, positions in matched.items()
        if positions
    ]


def _misfits(
    state: State, pairs: _pairing.Pairs, names: Sequence[str], parts: OptimizerParts
) -> list[str]:
    """Return notes on variables that start fresh because the saved shapes differ."""
    if len(state.slots) != len(names):
        return []
    identities = zip(names, _identities(state), _identities_here(parts, names), strict=True)
    return [
        f"the state in the place of {name} has shape {saved.shape}, where {here.shape} is needed"
        for (name, saved, here), source in zip(identities, pairs.sources, strict=True)
        if source is None and saved.shape != here.shape
    ]


def _checked_count(count: int | None, variable: Any, name: str) -> int | None:
    """Return a count, or refuse it if it overflows its variable's dtype."""
    dtype = backend.standardize_dtype(variable.dtype)
    if count is not None and count > np.iinfo(dtype).max:
        raise ValueError(
            f"The saved {name} of {count} is too large for a variable of dtype {dtype}. "
            f"{NOTHING_LOADED}"
        )
    return count


def _checked_rate(rate: float | None, variable: Any) -> float | None:
    """Return a learning rate, or refuse it if it overflows its variable's dtype."""
    dtype = backend.standardize_dtype(variable.dtype)
    if rate is not None and rate > float(np.finfo(np.float32).max) and dtype != "float64":
        raise ValueError(
            f"The saved learning rate of {rate} is too large for a variable of dtype {dtype}. "
            f"{NOTHING_LOADED}"
        )
    return rate


def _fitting(value: Array | None, variable: Any) -> Array | None:
    """Cast an array to the variable's dtype; None if the shapes differ."""
    if value is None or value.shape != tuple(variable.shape):
        return None
    if backend.standardize_dtype(variable.dtype) == "bfloat16":
        # NumPy has no bfloat16; the assignment rounds to the nearest number.
        return value.astype(np.float32, copy=False)
    # Values that overflow a narrower dtype become infinite, as in training.
    with np.errstate(over="ignore", invalid="ignore"):
        return value.astype(backend.standardize_dtype(variable.dtype), copy=False)


def _is_rounded(value: Array, variable: Any) -> bool:
    """Whether some number has more digits than a bfloat16 variable can hold."""
    if backend.standardize_dtype(variable.dtype) != "bfloat16":
        return False
    return bool(np.any(np.ascontiguousarray(value, np.float32).view(np.uint32) & 0xFFFF))


def message(report: LoadReport) -> str | None:
    """Return a warning about what was not restored, or None if everything was."""
    parts = []
    if report.initialized:
        parts.append(f"these start afresh: {abbreviated(report.initialized)}")
    if report.dropped:
        parts.append(f"these were saved but are not needed: {abbreviated(report.dropped)}")
    if not parts:
        return None
    return (
        f"The optimizer's state was loaded in part: {len(report.restored)} variables were "
        f"restored; {'; '.join([*parts, *report.notes])}. See `optimizer.load_report`."
    )


def _converted(
    state: State, source: int, parts: OptimizerParts, here: int, slot_variables: Mapping[str, Any]
) -> dict[str, Array]:
    """Convert a variable's slots to the optimizer's convention.

    Args:
        state: the loaded state.
        source: the variable's position in `state`.
        parts: the parts of the optimizer.
        here: the variable's position in `parts`.
        slot_variables: its slot variables, by kind.
    """
    slots = state.slots[source]
    converted = dict(slots)
    counts = [kind for kind in slot_variables if kind in Progress._fields]
    if set(counts) != set(slots) & set(Progress._fields) or (state.rho[source] != parts.rho[here]):
        _settle(converted, state.rho[source])
        # Settled rows may count from zero.
        converted |= {kind: np.zeros(tuple(slot_variables[kind].shape)) for kind in counts}
    if state.centered and not parts.centered and "square_average" in converted:
        # E[g²] is the variance plus the squared mean.
        mean = converted["gradient_average"]
        converted["square_average"] = converted["square_average"] + mean**2
    if "momentum" in converted and state.lr_in_momentum != parts.lr_in_momentum:
        rate = state.rate_of(source)
        buffer = converted.pop("momentum")
        # One buffer is the other times the learning rate, so converting needs a nonzero rate.
        if rate:
            converted["momentum"] = buffer / rate if state.lr_in_momentum else buffer * rate
    return converted


def _settle(slots: dict[str, Array], rho: float) -> None:
    """Apply the deferred decay of rows, and remove their progress from the slots."""
    fields = [slots.pop(field, None) for field in Progress._fields]
    progress = Progress(*fields)
    if progress.row_updates is None or "square_average" not in slots:
        return
    coefficients = Coefficients.of(rho=rho, momentum=0.0, epsilon=0.0)
    # torch tensors and NumPy arrays cannot be multiplied.
    kinds = ("square_average", "gradient_average")
    s, m = (ops.convert_to_tensor(slots[kind]) if kind in slots else None for kind in kinds)
    averages = Parameter(None, s, m)
    settled, _ = catch_up(coefficients, progress, averages)
    for kind in kinds:
        if kind in slots:
            slots[kind] = array_of(getattr(settled, kind))


def _fresh(parts: OptimizerParts, kind: str, parameter: ParameterVariables) -> Array:
    """Return the initial value of a slot that a state did not have."""
    if kind == "average":
        # As on the first step, the average starts as a copy of the weights.
        return array_of(parameter.weight).astype(slot_dtype(array_of(parameter.weight)))
    if kind in Progress._fields:
        return np.zeros(tuple(parameter.weight.shape[:1]) if kind in ROW_FIELDS else ())
    start = parts.initial_square_average if kind == "square_average" else 0.0
    return np.full(tuple(parameter.weight.shape), start)
