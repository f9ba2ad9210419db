"""Check that an optimizer can have a state, and that it is not damaged."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_rmsprop._math._lazy import Progress
from keras_rmsprop._state._form import Array, State


def why_impossible(state: State) -> str | None:
    """Return why no optimizer can have this state, or None if one can.

    Infinite or NaN averages are possible: diverged training saves them.
    """
    fields = {
        "calls": state.calls is None or is_count(state.calls),
        "accumulation_steps": is_count(state.accumulation_steps) and state.accumulation_steps > 0,
        "learning_rate": state.learning_rate is None or _is_number(state.learning_rate),
        "skipped_steps": state.skipped_steps is None or is_count(state.skipped_steps),
        "centered": isinstance(state.centered, bool),
        "lr_in_momentum": isinstance(state.lr_in_momentum, bool),
        "rho": len(state.rho) == len(state.slots)
        and all(_is_number(rho) and rho < 1.0 for rho in state.rho),
        "groups": len(state.patterns) in (0, len(state.slots))
        and isinstance(state.rates, Mapping)
        and all(pattern is None or isinstance(pattern, str) for pattern in state.patterns)
        and all(
            isinstance(p, str) and _is_number(rate) and rate <= float(np.finfo(np.float32).max)
            for p, rate in state.rates.items()
        ),
        "names": all(isinstance(name, str) for name in state.names or ()),
        "subclass variables": all(
            isinstance(v.label, str)
            and (v.position is None or is_count(v.position))
            and (v.position is None or v.position < len(state.slots))
            for v in state.subclass_variables
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
        # A float8 scale has at most an accumulator.
        unexplained = set(slots) & {"gradient_average", *Progress._fields}
        return "there are averages but no average of squares" if unexplained else None
    if np.any(square_average < 0):
        return "the average of squares is negative"
    if centered != ("gradient_average" in slots):
        return "the average of gradients does not match the option `centered`"
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
    # Partial sums of logarithms of numbers <= 1: they only decrease, and rows lag behind.
    if logs is not None and not (np.all(row_logs <= 0) and np.all(row_logs >= logs)):  # type: ignore[operator]
        return "a row has seen more corrections than were made"
    return None


def is_count(value: Any) -> bool:
    """Whether a value is an integer that a counter can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number >= 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # The bound is not infinity, because a large int does not fit into a float.
    return is_number and 0 <= value <= sys.float_info.max


def damaged_file_error(reason: str) -> ValueError:
    """Return the error that refuses a damaged file."""
    return ValueError(
        f"The optimizer state in the file is damaged: {reason}. Nothing of it was loaded, and the "
        "optimizer is as it was; use an earlier checkpoint."
    )


def is_numeric(value: Array) -> bool:
    """Whether an array holds numbers."""
    # bfloat16 and float8 are not NumPy's own dtypes, and their kind does not say "float".
    return value.dtype.kind in "iuf" or value.dtype.name.startswith(("bfloat", "float8"))
