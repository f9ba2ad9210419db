"""What the engines share: the op-by-op way to run a step, and when a step can be compiled."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import keras

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
    "is_rows",
    "read_counters",
    "refuse",
    "run_plainly",
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
