"""What the engines share: the op-by-op way to run a step, and when a step can be compiled."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import keras
from keras import ops

# Keras has no public way to ask for the scope; tests/test_optimizer.py checks that it exists.
from keras.src.backend.common.stateless_scope import in_stateless_scope

from keras_rmsprop import _interrupts, _step
from keras_rmsprop._rule import Parameter, Tensor

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop

__all__ = [
    "FLOATING",
    "as_written",
    "changes",
    "in_stateless_scope",
    "is_recorded",
    "is_rows",
    "let_averages_be_swapped",
    "read_counters",
    "refuse",
    "run_plainly",
    "run_with_hook",
    "shape_of",
    "why_op_by_op",
    "write_whole",
]

# The dtypes of weights and slots that every backend's compiler takes.
FLOATING = frozenset({"float16", "bfloat16", "float32", "float64"})

_Function = TypeVar("_Function", bound=Callable[..., Any])


def as_written(function: _Function) -> _Function:
    """Return the function, where nothing rewrites Python's code."""
    return function


def is_recorded() -> bool:
    """Return False: Python runs here, and nothing records it."""
    return False


def let_averages_be_swapped(_: Any) -> None:
    """Do nothing: Keras swaps weights with wider averages by itself here."""


def is_rows(_: Any) -> bool:
    """Whether a gradient is the rows of a table and their ids, where it never is."""
    return False


def shape_of(gradient: Any) -> tuple[int, ...]:
    """Return the gradient's shape, where it is always known."""
    shape: tuple[int, ...] = gradient.shape
    return shape


def run_plainly(
    optimizer: "RMSprop",
    plan: _step.Plan,
    gradients: Sequence[Tensor | None],
    rate: Any,
    read: Callable[[Any], Tensor],
) -> list[tuple[Any, Tensor]]:
    """Run one step and return the (variable, value) pairs to be written.

    Args:
        optimizer: a built optimizer.
        plan: what its step does.
        gradients: for each built variable a dense gradient or None.
        rate: its `learning_rate`, asked for once in a step, because a callable may give a new
            one each time.
        read: gives a variable's current value.
    """
    variables = optimizer._parameters
    before = [
        Parameter(*(None if owner is None else read(owner) for owner in owners))
        for owners in variables
    ]
    counters = read_counters(optimizer, read)
    after, counted = _step.step(
        plan,
        optimizer._numbers(),
        counters,
        read(rate) if isinstance(rate, keras.Variable) else rate,
        before,
        gradients,
        optimizer._update_hook(),
    )
    return changes([*variables, optimizer._counters], [*before, counters], [*after, counted])


def run_with_hook(
    optimizer: "RMSprop",
    plan: _step.Plan,
    gradients: Sequence[Tensor | None],
    rate: Any,
    read: Callable[[Any], Tensor],
    assign: Callable[[Any, Tensor], None],
) -> None:
    """Run and write one step of a subclass whose own code changes variables on the way.

    Where a trace has to see a step that may turn out without effect, what that code wrote to
    variables of its own is undone by selection; where it raises, everything is as it was.

    Args:
        optimizer: a built optimizer with an update hook.
        plan: what its step does.
        gradients: for each built variable a dense gradient or None.
        rate: its `learning_rate`, asked for once.
        read: gives a variable's current value as something that outlives an assignment.
        assign: gives a variable a value.
    """
    own = optimizer._own_variables()
    # That code may assign to any of them.
    kept = [(v, read(v)) for v in (*optimizer._roster.weights, *optimizer.variables)]
    calls = read(optimizer._counters.calls)
    try:
        pairs = run_plainly(optimizer, plan, gradients, rate, read)
        if own and (plan.skip_nonfinite or plan.accumulation_steps > 1):
            counter = optimizer._counters.calls
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


def read_counters(optimizer: "RMSprop", read: Callable[[Any], Tensor]) -> _step.Counters:
    """Read the variables that count the steps."""
    return _step.Counters(*(v if v is None else read(v) for v in optimizer._counters))


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


def why_op_by_op(optimizer: "RMSprop", plan: _step.Plan) -> str | None:
    """Why the step must run op by op, None if it may be compiled.

    An `update_step` or a constraint of a user's may do anything, such as print or count.
    """
    if optimizer._update_hook() is not None:
        return f"{type(optimizer).__name__} has an `update_step` of its own"
    for constraint in plan.constraints:
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
