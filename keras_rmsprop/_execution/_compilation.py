"""Whether a step can be compiled: what the engines share."""

from keras_rmsprop._execution._interface import Step

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


def raise_not_compilable(reason: str) -> None:
    """Raise the error for a step that `jit_compile=True` cannot compile.

    Raises: ValueError with the reason.
    """
    raise ValueError(
        f"`jit_compile=True` asks for a compiled step, but {reason}. Nothing has changed. Pass "
        '`jit_compile="auto"` to run such a step op by op.'
    )
