"""Whether a step can be compiled: what the engines share."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import keras

from keras_rmsprop._execution._interface import Step
from keras_rmsprop._math._rule import Tensor
from keras_rmsprop._math._step import Plan, Transform

# The dtypes of weights and slots that every backend can compile.
FLOATING_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})

# Compilations that take longer than this, in seconds, are logged at INFO.
LONG_COMPILATION = 1.0


def why_op_by_op(step: Step) -> str | None:
    """Return why the step must run op by op, or None if it may be compiled.

    A user's `update_step` or constraint may have side effects, such as printing or counting.
    """
    if step.hook is not None:
        return f"{step.hook.subclass} has an `update_step` of its own"
    for constraint in step.plan.constraints:
        if constraint is not None and not type(constraint).__module__.startswith("keras.src."):
            return f"the constraint {type(constraint).__name__} is not one of Keras's own"
    return None


def how_eager_steps_run(step: Step, reason: str | None, otherwise: str) -> str:
    """Say how eager steps are run, as the `eager` of an `Execution`.

    Args:
        step: a step with the current settings.
        reason: why it cannot be compiled, or None.
        otherwise: how it is run if there is no reason against it, and `jit_compile` is not False.
    """
    if step.jit_compile is False:
        return "run op by op, because `jit_compile` is False"
    if reason is None:
        return otherwise
    if step.jit_compile is True:
        return f"raise an error, because `jit_compile` is True, but {reason}"
    return f"run op by op, because {reason}"


def takes_no_gradient(variable: Any) -> bool:
    """Whether the variable never has an ordinary gradient, such as an integer or a float8 scale."""
    return variable.overwrite_with_gradient or variable._dtype not in FLOATING_DTYPES


class NotTraceableError(ValueError):
    """A transform cannot be part of a compiled step.

    Attributes:
        cause: the error that the transform raised, to be raised where a step must be compiled.
    """

    def __init__(self, function: Transform, cause: Exception) -> None:
        name = getattr(function, "__name__", repr(function))
        words = f"{type(cause).__name__}: {cause}".partition("\n")[0]
        super().__init__(f"the transform `{name}` cannot be traced ({words:.200})")
        self.cause = cause
        cause.add_note(
            f"The transform `{name}` raised this while the step was being compiled. With "
            '`jit_compile="auto"`, steps whose transform cannot be compiled run op by op.'
        )


def with_traceable_transforms(plan: Plan, scope: Callable[[], AbstractContextManager[Any]]) -> Plan:
    """Return the plan with transforms that raise a NotTraceableError if they fail.

    Args:
        plan: the plan of a step that is being compiled.
        scope: makes a context in which to call a transform.
    """

    def traceable(function: Transform) -> Transform:
        @functools.wraps(function)
        def call(gradient: Tensor, weight: Tensor) -> Tensor:
            try:
                with scope():
                    return function(gradient, weight)
            except Exception as error:
                raise NotTraceableError(function, error) from error

        return call

    groups = [
        group if group.transform is None else group._replace(transform=traceable(group.transform))
        for group in plan.groups
    ]
    return plan._replace(groups=tuple(groups))


class WithoutVariables(keras.StatelessScope):
    """A scope in which variables are neither read nor assigned: a program would freeze them."""

    def get_current_value(self, variable: Any) -> Any:
        """Refuse to read."""
        raise ValueError(f"it uses the variable {variable.path!r}")

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Refuse to assign."""
        raise ValueError(f"it assigns to the variable {update[0].path!r}")


def raise_not_compilable(reason: str, cause: Exception | None = None) -> NoReturn:
    """Raise the error for a step that `jit_compile=True` cannot compile.

    Raises: ValueError with the reason, from the cause.
    """
    raise ValueError(
        f"`jit_compile=True` asks for a compiled step, but {reason}. Nothing has changed. Pass "
        '`jit_compile="auto"` to run such a step op by op.'
    ) from cause
