"""The op-by-op way to run a step, the same on every backend: read, step, say what to write."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keras_rmsprop import _step
from keras_rmsprop._rule import Parameter, Tensor

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop


def run_plainly(
    optimizer: "RMSprop",
    gradients: Sequence[Tensor | None],
    read: Callable[[Any], Tensor],
) -> list[tuple[Any, Tensor]]:
    """Run one step and return the (variable, value) pairs to be written.

    Args:
        optimizer: a built optimizer.
        gradients: for each built variable a dense gradient or None.
        read: gives a variable's current value.
    """
    variables = optimizer._parameters
    before = [
        Parameter(*(None if variable is None else read(variable) for variable in parameter))
        for parameter in variables
    ]
    after, calls = _step.step(
        optimizer._plan(),
        optimizer._numbers(),
        read(optimizer._iterations),
        optimizer._current_learning_rate(),
        before,
        gradients,
        optimizer._update_hook(),
    )
    changes = [
        (variable, new)
        for owners, olds, news in zip(variables, before, after, strict=True)
        for variable, old, new in zip(owners, olds, news, strict=True)
        if new is not old
    ]
    return [*changes, (optimizer._iterations, calls)]
