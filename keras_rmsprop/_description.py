"""Describe an optimizer: equations, settings of groups, nearest convention, state, execution.

Nothing here computes on the device; only the learning rate, and those of groups, are read from it.
"""

import math
from typing import Any, Literal, NamedTuple

from keras import backend

from keras_rmsprop import _assignment, _state, _subclasses
from keras_rmsprop._diagnostics._format import printable
from keras_rmsprop._execution import engine
from keras_rmsprop._execution._interface import Execution, Step
from keras_rmsprop._math import _step
from keras_rmsprop._math._lazy import ROW_FIELDS, Progress
from keras_rmsprop._settings import _conventions, _describe, _footprint, _latex
from keras_rmsprop._settings._conventions import Match
from keras_rmsprop._settings._describe import Block, Rows
from keras_rmsprop._settings._footprint import Footprint
from keras_rmsprop._variables import _pairing

Format = Literal["text", "markdown", "latex"]

GROUPS_HEADING = "Settings of single variables:"


class Description(NamedTuple):
    """What `RMSprop.describe` says."""

    name: str
    blocks: list[Block]
    # None if all variables have the same settings.
    groups: Rows | None
    convention: Match
    # What will be held, in words, before the build.
    state: Footprint | str
    execution: Execution

    def as_text(self) -> str:
        """Return plain text."""
        text = _describe.as_text(printable(self.name), self.blocks)
        if self.groups is not None:
            rows = [list(map(printable, row)) for row in self.groups]
            text += "\n" + _describe.table_as_text(GROUPS_HEADING, rows)
        state = self.state if isinstance(self.state, str) else self.state.in_words()
        lines = [
            f"Convention: {self.convention.in_words(self.convention.call())}",
            f"State: {state}",
            f"Execution: {self._execution()}",
        ]
        return "\n".join([text, "", *lines])

    def as_markdown(self) -> str:
        """Return Markdown, with equations in LaTeX."""
        parts = [f"**{_describe.in_markdown(self.name)}**: RMSprop", f"$$\n{self.as_latex()}\n$$"]
        if self.groups is not None:
            parts += [GROUPS_HEADING, _describe.table_as_markdown(self.groups)]
        call = _describe.as_code(self.convention.call())
        parts.append(f"**Convention:** {self.convention.in_words(call)}")
        if isinstance(self.state, str):
            parts.append(f"**State:** {self.state}")
        else:
            scalars = f"{self.state.scalars} scalars"
            parts.append(f"**State:** {self.state.summary()}, and {scalars}.")
            parts += [_describe.table_as_markdown(self.state.table())] * bool(self.state.held)
        parts.append(f"**Execution:** {self._execution()}")
        return "\n\n".join(parts) + "\n"

    def as_latex(self) -> str:
        """Return the equations alone, in LaTeX with amsmath."""
        return _latex.aligned(self.blocks)

    def _execution(self) -> str:
        eager, inside = self.execution
        return f"with the {backend.backend()} backend, eager steps {eager}; {inside}."


# What makes each format of a description.
FORMATS = {
    "text": Description.as_text,
    "markdown": Description.as_markdown,
    "latex": Description.as_latex,
}


def describe(optimizer: Any, base: type, format: Format) -> str:  # noqa: A002 - as for its caller
    """Return a description.

    Args:
        optimizer: the optimizer.
        base: the class whose subclasses may override methods.
        format: one of `FORMATS`.

    Raises: ValueError if the format is unknown.
    """
    if format not in FORMATS:
        accepted = ", ".join(map(repr, FORMATS))
        raise ValueError(f"`format` must be one of {accepted}, received format={format!r}.")
    return FORMATS[format](description_of(optimizer, base))


def description_of(optimizer: Any, base: type) -> Description:
    """Return the description of an optimizer.

    Args:
        optimizer: the optimizer.
        base: the class whose subclasses may override methods.
    """
    settings, groups = optimizer._settings(), _assignment.groups_in_use(optimizer)
    rate = optimizer._rate()
    # A NumPy scalar keeps the dtype, which says how many digits are known.
    known = rate.source if rate.variable is None else _state.array_of(rate.variable)[()]
    weights = optimizer._roster.weights
    constrained = any(getattr(v, "constraint", None) is not None for v in weights)
    excluded = [not optimizer._use_weight_decay(weight) for weight in weights]
    rows = None
    if groups or any(excluded):
        patterns = (None, *groups)
        members = [patterns[group] for group in optimizer._roster.members]
        variables = list(zip(map(_pairing.path_of, weights), members, excluded, strict=True))
        rows = _describe.groups_table(settings, groups, variables)
    decays = any({**settings, **own}["weight_decay"] for own in ({}, *groups.values()))
    beyond = {
        _conventions.CONSTRAINTS: constrained,
        _conventions.EXCLUSIONS: decays and any(excluded),
        **dict.fromkeys(_subclasses.overridden(optimizer, base), True),
    }
    state = _footprint.in_words_before_build(settings, groups)
    return Description(
        optimizer.name,
        _describe.equations(settings, known, constrained=constrained),
        rows,
        _conventions.nearest(
            settings, known, groups, [words for words, is_so in beyond.items() if is_so]
        ),
        _state_of(optimizer) if optimizer.built else state,
        engine.how_steps_run(_step_of(optimizer, base), _subclasses.why_as_keras(optimizer, base)),
    )


def _step_of(optimizer: Any, base: type) -> Step:
    """Return the next step, without the tensors that it has in a trace."""
    derived, roster = optimizer._derive(), optimizer._roster
    plan = derived.plan()
    hook = _subclasses.hook_of(optimizer, base, roster, plan.decayed)
    rate, mode = optimizer._rate(), optimizer.jit_compile
    return Step(plan, derived.numbers, roster, rate, hook, mode, optimizer.name)


def _state_of(optimizer: Any) -> Footprint:
    parts, roster = optimizer._parts(), optimizer._roster
    slots = [each for of_one in _state.slots_of(parts) for each in of_one.items()]
    # How often a lazy table has been updated is a scalar; how often its rows have been is not.
    counts = [v for kind, v in slots if kind in _COUNTS]
    counts += [v for v in (*roster.counters, parts.rate, roster.group_numbers) if v is not None]
    own = f"variables of {type(optimizer).__name__}"
    kept = [each for each in slots if each[0] not in _COUNTS]
    kept += [(own, v) for v in _state.subclass_variables(parts)]
    updated = [p.weight for p in roster.parameters if p.square_average is not None]
    return _footprint.footprint(
        [(kind, tuple(v.shape), _step.dtype_of(v)) for kind, v in kept],
        parameters=sum(map(_elements, updated)),
        scalars=sum(map(_elements, counts)),
    )


_COUNTS = {*Progress._fields} - {*ROW_FIELDS}


def _elements(variable: Any) -> int:
    return math.prod(tuple(variable.shape))
