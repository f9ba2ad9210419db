"""Run a step op by op, and write its results: the path that all engines share."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import ops

from keras_rmsprop._execution import _interrupts
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._math import _step
from keras_rmsprop._math._rule import Tensor


def assign(variable: Any, value: Any) -> None:
    """Assign a value to a variable."""
    variable.assign(value)


def tensor_of(rate: Any, read: Callable[[Any], Tensor]) -> float | Tensor:
    """Return the learning rate from `Rate.get_next`, reading it if it is a variable."""
    return read(rate) if isinstance(rate, keras.Variable) else rate


def compute_op_by_op(
    step: Step, gradients: Sequence[Tensor | None], rate: Any, read: Callable[[Any], Tensor]
) -> list[tuple[Any, Tensor]]:
    """Compute one step and return the (variable, value) pairs to write.

    Args:
        step: the step to make.
        gradients: a dense gradient or None for each built variable.
        rate: the result of `step.rate.get_next()`.
        read: returns a variable's current value.
    """
    owners = step.roster.parameters
    before = [parameter.read(read) for parameter in owners]
    counters = step.roster.counters.read(read)
    after, counted = _step.step(
        step.plan,
        step.numbers,
        counters,
        tensor_of(rate, read),
        before,
        gradients,
        step.update,
    )
    return changes([*owners, step.roster.counters], [*before, counters], [*after, counted])


def run_with_hook(
    step: Step,
    gradients: Sequence[Tensor | None],
    rate: Any,
    read: Callable[[Any], Tensor],
    assign: Callable[[Any, Tensor], None],
) -> None:
    """Compute and write one step with a subclass's hook, which may assign to variables itself.

    A trace runs the hook even for a call that may turn out to have no effect. Its writes to the
    subclass's own variables are then undone with `where`. If the hook raises, all variables are
    restored.

    Args:
        step: the step to make, with a hook.
        gradients: a dense gradient or None for each built variable.
        rate: the result of `step.rate.get_next()`.
        read: returns a variable's current value, as an object that survives assignment.
        assign: assigns a value to a variable.
    """
    assert step.hook is not None
    variables, plan, counter = step.hook.variables, step.plan, step.roster.counters.calls
    kept = [(v, read(v)) for v in step.hook.assignable]
    calls = read(counter)
    try:
        pairs = compute_op_by_op(step, gradients, rate, read)
        if variables and (plan.skip_nonfinite or plan.accumulation_steps > 1):
            counted = next((new for owner, new in pairs if owner is counter), calls)
            completes = counted % plan.accumulation_steps == 0
            made = ops.logical_and(counted > calls, completes)
            if _step.known_value(made) is None:
                before = {id(v): old for v, old in kept}
                pairs += [(v, ops.where(made, read(v), before[id(v)])) for v in variables]
        for variable, value in pairs:
            assign(variable, value)
    except BaseException:
        for variable, value in kept:
            assign(variable, value)
        raise


def changes(
    variables: Sequence[Sequence[Any]],
    before: Sequence[Sequence[Tensor]],
    after: Sequence[Sequence[Tensor]],
) -> list[tuple[Any, Tensor]]:
    """Pair each variable whose tensor a step replaced with the new tensor."""
    return [
        (owner, new)
        for owners, olds, news in zip(variables, before, after, strict=True)
        for owner, old, new in zip(owners, olds, news, strict=True)
        if new is not old
    ]


def write_all_or_nothing(
    pairs: Iterable[tuple[Any, Any]],
    read: Callable[[Any], Any],
    assign: Callable[[Any, Any], None],
) -> None:
    """Assign each value to its variable, or roll all of them back if one assignment fails.

    Args:
        pairs: variables and their new values, already computed.
        read: returns a variable's current value, as an object that survives assignment.
        assign: assigns a value to a variable.
    """
    kept: list[tuple[Any, Any]] = []
    with _interrupts.deferred():
        try:
            for variable, value in pairs:
                kept.append((variable, read(variable)))
                assign(variable, value)
        except BaseException:
            for variable, value in reversed(kept):
                # Restore the others even if one variable cannot be written.
                with contextlib.suppress(Exception):
                    assign(variable, value)
            raise
