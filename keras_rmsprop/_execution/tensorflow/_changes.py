"""Compute one step as a list of changes: variables with their new values or rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._op_by_op import changes, tensor_of
from keras_rmsprop._execution.tensorflow._lazy import Table, close_table, open_table
from keras_rmsprop._execution.tensorflow._rows import is_inside_xla
from keras_rmsprop._execution.tensorflow._values import Gradients, Pairs, read
from keras_rmsprop._math import _sample, _step
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._math._table import Watched
from keras_rmsprop._variables._roster import (
    CounterVariables,
    ParameterVariables,
    ProgressVariables,
)


class StepVariables(NamedTuple):
    """The variables that a step reads and writes, or a stand-in for each."""

    parameters: Sequence[ParameterVariables]
    counters: CounterVariables
    progress: Sequence[ProgressVariables | None]
    # None for a schedule or callable: the step then receives the rate as an argument.
    rate: Any

    @classmethod
    def of(cls, step: Step) -> "StepVariables":
        roster = step.roster
        return cls(roster.parameters, roster.counters, roster.progress, step.rate.variable)


def changes_op_by_op(step: Step, gradients: Gradients, rate: Any) -> Pairs:
    """Compute one step op by op."""
    return changes_of_step(
        StepVariables.of(step),
        step.plan,
        step.numbers,
        tensor_of(rate, read),
        gradients,
        update=step.update,
    )


def changes_of_step(
    state: StepVariables,
    plan: _step.Plan,
    numbers: _step.Numbers,
    rate: Any,
    gradients: Gradients,
    *,
    update: _step.Update | None = None,
    flags: dict[int, tf.Tensor] | None = None,
    trace_once: _step.TraceOnce | None = None,
) -> Pairs:
    """Compute one step; return each variable that changes with its new value or rows."""
    tables, before = _read_parameters(state, plan, numbers, gradients)
    owners = list(state.parameters)
    counters = state.counters.read(read)
    after, counted = _step.step(
        plan,
        numbers,
        counters,
        rate,
        before,
        _gradients_of(tables, gradients),
        update,
        _row_masks(tables),
        flags,
        trace_once,
    )
    made = counted.calls - counters.calls
    pairs: Pairs = []
    for i, table in tables.items():
        group = plan.members[i]
        form, coefficients = plan.groups[group].form, numbers.groups[group].coefficients
        pairs += close_table(form, coefficients, table, after[i], counters.calls + 1, made)
        owners[i] = _NO_VARIABLES
        before[i] = after[i] = _NOTHING
    return pairs + changes([*owners, state.counters], [*before, counters], [*after, counted])


def statistics_of_step(
    state: StepVariables,
    plan: _step.Plan,
    numbers: _step.Numbers,
    rate: Any,
    gradients: Gradients,
    watched: Watched,
    table: tf.Tensor,
    *,
    by_rule: bool = True,
    flags: dict[int, tf.Tensor] | None = None,
) -> tf.Tensor:
    """Return the table of statistics after a step that is sampled, given the table before."""
    tables, before = _read_parameters(state, plan, numbers, gradients)
    return _sample.sampled(
        plan,
        numbers,
        state.counters.read(read),
        rate,
        before,
        _gradients_of(tables, gradients),
        watched,
        table,
        by_rule=by_rule,
        row_masks=_row_masks(tables),
        flags=flags,
    )


def _read_parameters(
    state: StepVariables, plan: _step.Plan, numbers: _step.Numbers, gradients: Gradients
) -> tuple[dict[int, Table], list[Parameter]]:
    """Open the lazy tables that have a gradient, and read all weights and slots, or their rows."""
    tables = {
        i: open_table(
            numbers.groups[plan.members[i]].coefficients,
            owners,
            progress,
            gradient,
            is_inside_xla(),
        )
        for i, (owners, progress, gradient) in enumerate(
            zip(state.parameters, state.progress, gradients, strict=True)
        )
        if progress is not None and gradient is not None
    }
    parameters = [
        # A table without a gradient does not change; reading it could copy it.
        _NOTHING if progress is not None else p.read(read)
        for p, progress in zip(state.parameters, state.progress, strict=True)
    ]
    for i, table in tables.items():
        parameters[i] = table.parameter
    return tables, parameters


def _gradients_of(tables: dict[int, Table], gradients: Gradients) -> list[tf.Tensor | None]:
    return [tables[i].gradient if i in tables else g for i, g in enumerate(gradients)]


def _row_masks(tables: dict[int, Table]) -> dict[int, tf.Tensor]:
    return {i: table.row_mask for i, table in tables.items()}


_NOTHING = Parameter(None)
_NO_VARIABLES = ParameterVariables(None)
