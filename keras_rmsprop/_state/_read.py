"""Read an optimizer's state, and find the variables that a subclass has added."""

import itertools
import re
import threading
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_rmsprop._state._form import (
    KINDS,
    Array,
    State,
    SubclassVariable,
    arrays_in,
    checksum_of,
    storable,
)
from keras_rmsprop._variables import _pairing
from keras_rmsprop._variables._gate import Gate
from keras_rmsprop._variables._ledger import Entry
from keras_rmsprop._variables._roster import ParameterVariables, ProgressVariables, Roster


class OptimizerParts(NamedTuple):
    """The parts of an optimizer that its state is read from and loaded into."""

    name: str
    built: bool
    roster: Roster
    # The learning rate's variable, None for a schedule or callable.
    rate: Any
    accumulation_steps: int
    centered: bool
    lr_in_momentum: bool
    # One for each variable.
    rho: Sequence[float]
    # The patterns of the groups.
    patterns: Sequence[str]
    initial_square_average: float
    # All variables of the optimizer, and what each was created for.
    variables: Sequence[Any]
    entries: Sequence[Entry]
    # Blocks the steps of other threads.
    gate: Gate
    # Whether there may be steps that it does not block: those inside graphs.
    steps_in_graphs: bool


# While a graph may change the state: the maximum number of reads, how many in a row must agree, and
# the seconds to wait before each.
READS, AGREEING, PAUSE = 50, 3, 0.001


def state_of(parts: OptimizerParts) -> State:
    """Read an optimizer's state at a single step, even while another thread makes steps."""
    with parts.gate.read():
        state = _read(parts)
        # The gate does not block steps inside graphs, which another thread may run.
        if not parts.steps_in_graphs or threading.active_count() == 1:
            return state
        agreeing = 1
        for _ in range(READS):
            # A half-written step may be waiting for a core.
            time.sleep(PAUSE)
            again = _read(parts)
            is_same = _fingerprint(again) == _fingerprint(state)
            state, agreeing = again, agreeing + 1 if is_same else 1
            if agreeing == AGREEING:
                return state
    warnings.warn(
        f"The state of {parts.name} changed faster than it could be read, so that its arrays "
        "may be those of neighbouring steps. Read it between two steps.",
        stacklevel=3,
    )
    return state


def _fingerprint(state: State) -> tuple[Any, ...]:
    return state.calls, state.skipped_steps, checksum_of(arrays_in(state))


def _read(parts: OptimizerParts) -> State:
    counters = parts.roster.counters
    rate = parts.rate
    return State(
        calls=int(array_of(counters.calls)),
        accumulation_steps=parts.accumulation_steps,
        learning_rate=None if rate is None else float(array_of(rate)),
        skipped_steps=None if counters.skipped is None else int(array_of(counters.skipped)),
        centered=parts.centered,
        lr_in_momentum=parts.lr_in_momentum,
        rho=tuple(parts.rho),
        names=names_of(parts),
        slots=tuple(
            {kind: storable(array_of(v)) for kind, v in slots.items()} for slots in slots_of(parts)
        ),
        subclass_variables=tuple(
            SubclassVariable(label, i, array_of(v))
            for (i, label), v in subclass_variables_by_label(parts).items()
        ),
        patterns=patterns_of(parts) if parts.patterns else (),
        rates=rates_of(parts),
    )


def patterns_of(parts: OptimizerParts) -> tuple[str | None, ...]:
    """Return the pattern of each variable's group, None for those without."""
    patterns = (None, *parts.patterns)
    return tuple(patterns[group] for group in parts.roster.members)


def rates_of(parts: OptimizerParts) -> dict[str, float]:
    """Return the learning rate factors by pattern."""
    rates = parts.roster.counters.rates
    if rates is None:
        return {}
    return dict(zip(parts.patterns, array_of(rates).tolist(), strict=True))


def slots_in(parameter: ParameterVariables, progress: ProgressVariables | None) -> dict[str, Any]:
    """Return the existing slots by kind."""
    fields = parameter._asdict() | ({} if progress is None else progress._asdict())
    return {kind: v for kind, v in fields.items() if kind in KINDS and v is not None}


def slots_of(parts: OptimizerParts) -> list[dict[str, Any]]:
    """Return the slots of each built variable by kind."""
    return list(map(slots_in, parts.roster.parameters, parts.roster.progress))


def subclass_variables(parts: OptimizerParts) -> list[Any]:
    """Return the variables that a subclass has added."""
    return list(subclass_variables_by_label(parts).values())


def subclass_variables_by_label(parts: OptimizerParts) -> dict[tuple[int | None, str], Any]:
    """Return the variables that a subclass has added, by the position of their weight and a label.

    The label is the name that a variable was added with, numbered if there are several.
    """
    entries = {id(entry.variable): entry for entry in parts.entries}
    numbers = parts.roster.group_numbers
    watch = parts.roster.watch
    table = None if watch is None else watch.table
    known = [*parts.roster.counters, parts.rate, numbers, table]
    known += [v for slots in slots_of(parts) for v in slots.values()]
    known_ids = set(map(id, known))
    found: dict[tuple[int | None, str], Any] = {}
    for variable in parts.variables:
        if id(variable) in known_ids:
            continue
        entry = entries.get(id(variable))
        weight, name = (None, None) if entry is None else (entry.weight, entry.name)
        position = None if weight is None else parts.roster.position(weight)
        # Keras generates missing names, with numbers that depend on the process.
        label = name or re.sub(r"^variable_\d+$", "variable", variable.name)
        taken = SCALARS if position is None else KINDS
        labels = itertools.chain([label], (f"{label}#{i}" for i in itertools.count(1)))
        label = next(x for x in labels if x not in taken and (position, x) not in found)
        found[position, label] = variable
    return found


# The names in `to_dict` that do not belong to a variable.
SCALARS = ("iteration", "learning_rate", "skipped_steps")


def names_of(parts: OptimizerParts) -> tuple[str, ...]:
    """Return the variables' names, with numbers appended to repeated ones."""
    return _pairing.numbered(_pairing.path_of(each.weight) for each in parts.roster.parameters)


def array_of(variable: Any) -> Array:
    """Return a copy of a variable's value."""
    if not isinstance(variable, np.ndarray):
        # `np.array` of a Keras variable would raise a deprecation warning in NumPy.
        variable = ops.convert_to_numpy(ops.convert_to_tensor(variable))
    # A copy, because torch's arrays share the memory that the next step writes to.
    return np.array(variable)
