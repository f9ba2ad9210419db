"""What the engines share: the op-by-op way to run a step, and when a step can be compiled."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import ops

from keras_rmsprop._execution import _interrupts
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._math import _step
from keras_rmsprop._math._rule import Tensor

# The dtypes of weights and slots that every backend's compiler takes.
FLOATING = frozenset({"float16", "bfloat16", "float32", "float64"})


# A compilation that takes more seconds than this is logged at INFO.
LONG_COMPILATION = 1.0


def assign(variable: Any, value: Any) -> None:
    """Give a variable a value."""
    variable.assign(value)


def tensor_of(rate: Any, read: Callable[[Any], Tensor]) -> float | Tensor:
    """The learning rate that `Rate.ask` gave, read where it is a variable."""
    return read(rate) if isinstance(rate, keras.Variable) else rate


def run_plainly(
    step: Step, gradients: Sequence[Tensor | None], rate: Any, read: Callable[[Any], Tensor]
) -> list[tuple[Any, Tensor]]:
    """Run one step and return the (variable, value) pairs to be written.

    Args:
        step: what is to be done.
        gradients: for each built variable a dense gradient or None.
        rate: what `step.rate.ask()` gave.
        read: gives a variable's current value.
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
    """Run and write one step of a subclass whose own code changes variables on the way.

    Where a trace has to see a step that may turn out without effect, what that code wrote to
    variables of its own is undone by selection; where it raises, everything is as it was.

    Args:
        step: what is to be done, with a hook.
        gradients: for each built variable a dense gradient or None.
        rate: what `step.rate.ask()` gave.
        read: gives a variable's current value as something that outlives an assignment.
        assign: gives a variable a value.
    """
    assert step.hook is not None
    own, plan, counter = step.hook.own, step.plan, step.roster.counters.calls
    kept = [(v, read(v)) for v in step.hook.reach]
    calls = read(counter)
    try:
        pairs = run_plainly(step, gradients, rate, read)
        if own and (plan.skip_nonfinite or plan.accumulation_steps > 1):
            counted = next((new for owner, new in pairs if owner is counter), calls)
            completes = counted % plan.accumulation_steps == 0
            made = ops.logical_and(counted > calls, completes)
            if _step.known(made) is None:
                before = {id(v): old for v, old in kept}
                pairs += [(v, ops.where(made, read(v), before[id(v)])) for v in own]
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
    """Pair every variable whose tensor a step replaced with the new tensor."""
    return [
        (owner, new)
        for owners, olds, news in zip(variables, before, after, strict=True)
        for owner, old, new in zip(owners, olds, news, strict=True)
        if new is not old
    ]


def write_whole(
    pairs: Iterable[tuple[Any, Any]],
    keep: Callable[[Any], Any],
    assign: Callable[[Any, Any], None],
) -> None:
    """Assign each value to its variable, or none of them if that fails half-way.

    Args:
        pairs: variables and their new values, all computed.
        keep: gives a variable's value as something that outlives the assignment.
        assign: gives a variable a value.
    """
    kept: list[tuple[Any, Any]] = []
    with _interrupts.deferred():
        try:
            for variable, value in pairs:
                kept.append((variable, keep(variable)))
                assign(variable, value)
        except BaseException:
            for variable, value in reversed(kept):
                # One that cannot be written must not keep the others from what they held.
                with contextlib.suppress(Exception):
                    assign(variable, value)
            raise


def why_op_by_op(step: Step) -> str | None:
    """Why the step must run op by op, None if it may be compiled.

    An `update_step` or a constraint of a user's may do anything, such as print or count.
    """
    if step.hook is not None:
        return f"{step.hook.owner} has an `update_step` of its own"
    for constraint in step.plan.constraints:
        if constraint is not None and not type(constraint).__module__.startswith("keras.src."):
            return f"the constraint {type(constraint).__name__} is not one of Keras's own"
    return None


def refuse(reason: str) -> None:
    """Refuse to run op by op where the user insists on a compiled step.

    Raises: ValueError with the reason.
    """
    raise ValueError(
        f"`jit_compile=True` asks for a compiled step, but {reason}. Nothing has changed. Pass "
        '`jit_compile="auto"` to run such a step op by op.'
    )
