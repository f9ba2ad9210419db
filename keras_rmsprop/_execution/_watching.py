"""Sample the statistics of steps: what the engines share.

They are computed before the step, from what it will read, and written after it, so that a step that
fails leaves them as they were.
"""

from collections.abc import Callable, Sequence
from typing import Any

from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._op_by_op import tensor_of
from keras_rmsprop._math import _sample
from keras_rmsprop._math._rule import Tensor
from keras_rmsprop._variables._watch import Watch

Gradients = Sequence[Any]


def run_watched(
    step: Step,
    gradients: Gradients,
    run: Callable[[Step, Gradients], None],
    table_after: Callable[[Step, Watch, Gradients, Any], Tensor | None],
    assign: Callable[[Any, Tensor], None],
) -> None:
    """Make a step, and sample it if it is due.

    Args:
        step: the step, with a `watch`.
        gradients: a gradient or None for each variable.
        run: makes the step.
        table_after: returns the table after the step, given its learning rate; None if an eager
            step is not sampled.
        assign: assigns a value to a variable.
    """
    watch = step.watch
    assert watch is not None
    rate = step.rate.get_next()
    # A user's callable may count.
    step = step._replace(rate=step.rate._replace(get_next=lambda: rate))
    table = table_after(step, watch, gradients, rate)
    run(step, gradients)
    if table is not None:
        assign(watch.table, table)


def is_due(step: Step, watch: Watch, read_calls: Callable[[], int], counts: bool = True) -> bool:
    """Whether an eager step is sampled.

    Args:
        step: the step.
        watch: what is watched of it.
        read_calls: returns the number of calls so far, perhaps waiting for the device.
        counts: whether to count the calls of this process, and read only if that says so.
    """
    if counts and not watch.may_be_due():
        return False
    return watch.is_due(read_calls(), step.plan.accumulation_steps)


def is_due_in_trace(step: Step, watch: Watch, calls: Tensor) -> Tensor:
    """Return, as a tensor, whether a step is sampled, given the number of calls so far."""
    return watch.calls_left(calls, step.plan.accumulation_steps) == 0


def sampled_op_by_op(
    step: Step, watch: Watch, gradients: Gradients, rate: Any, read: Callable[[Any], Tensor]
) -> Tensor:
    """Return the table after a step that is sampled, given dense gradients."""
    roster = step.roster
    return _sample.sampled(
        step.plan,
        step.numbers,
        roster.counters.read(read),
        tensor_of(rate, read),
        [parameter.read(read) for parameter in roster.parameters],
        gradients,
        watch.watched,
        read(watch.table),
        by_rule=step.update is None,
    )
