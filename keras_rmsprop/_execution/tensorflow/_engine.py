"""Run a step on TensorFlow: op by op, as one compiled call, or in a replica."""

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_rmsprop._execution import _compilation, _op_by_op, _watching
from keras_rmsprop._execution._interface import Execution, Step
from keras_rmsprop._execution.tensorflow._changes import changes_op_by_op
from keras_rmsprop._execution.tensorflow._private import is_op_determinism_enabled, read_variable_op
from keras_rmsprop._execution.tensorflow._programs import (
    STRATEGY_REASON,
    inputs_of,
    run_compiled,
    why_not_compiled,
)
from keras_rmsprop._execution.tensorflow._replicas import run_in_replica
from keras_rmsprop._execution.tensorflow._rows import (
    checked_rows,
    densify,
    is_inside_xla,
    is_sparse,
)
from keras_rmsprop._execution.tensorflow._samples import table_after
from keras_rmsprop._execution.tensorflow._values import (
    Gradients,
    are_eager,
    assign,
    is_distributed,
    read,
    write,
)
from keras_rmsprop._private import in_stateless_scope

# Inside a user's graph, a step is a nested compiled call only for few and large tensors: at most
# `NESTED_TENSORS`, with `NESTED_ELEMENTS` elements on average. Such a tensor gets two to three
# times faster and takes 0.1 s to compile. More tensors would delay the first batch noticeably
# (three take 0.3 s, half of the time the batch takes otherwise); small ones gain little.
NESTED_ELEMENTS = 2**18
NESTED_TENSORS = 2


def run(step: Step, gradients: Gradients) -> None:
    """Make one step."""
    has_strategy, scoped = tf.distribute.has_strategy(), in_stateless_scope()
    in_replica = has_strategy and tf.distribute.get_replica_context() is not None
    compiles = _is_to_compile(step, gradients, has_strategy, scoped)
    checks: list[tf.Operation] = []
    if not are_eager(gradients):
        # A stateless scope holds whole values, and a sum over replicas is dense.
        gradients, checks = _take_rows(step, gradients, keeps_rows=not (in_replica or scoped))
    if in_replica:
        with tf.control_dependencies(checks):
            run_in_replica(step, gradients)
        return
    with tf.control_dependencies(checks) if checks else contextlib.nullcontext():
        if step.watch is None:
            _run(compiles, step, gradients)
        else:
            run_here = functools.partial(_run, compiles)
            sample = functools.partial(table_after, compiles)
            _watching.run_watched(step, gradients, run_here, sample, assign)


def _run(compiles: bool, step: Step, gradients: Gradients) -> None:
    rate = step.rate.get_next()
    if not compiles or not run_compiled(step, gradients, rate):
        _run_op_by_op(step, gradients, rate)


def _take_rows(
    step: Step, gradients: Gradients, keeps_rows: bool
) -> tuple[Gradients, list[tf.Operation]]:
    """Check sparse gradients, and densify those that the step cannot use as rows.

    Returns: the gradients, and the checks that must pass before anything is written.
    """
    if not any(map(is_sparse, gradients)):
        return gradients, []
    taken: list[tf.Tensor | tf.IndexedSlices | None] = []
    checks: list[tf.Operation] = []
    for g, owners, progress, constraint in zip(
        gradients,
        step.roster.parameters,
        step.roster.progress,
        step.plan.constraints,
        strict=True,
    ):
        if is_sparse(g):
            g, check = checked_rows(g, owners.weight)
            checks += [] if check is None else [check]
            if progress is None or not keeps_rows:
                g = densify(g, owners.weight.shape)
            elif constraint is not None:
                raise ValueError(
                    f"`lazy=True` leaves rows without a gradient alone, but the constraint of "
                    f"{owners.weight.name!r} may move every row at every step, received "
                    f"{type(constraint).__name__}. Leave one of the two out."
                )
        taken.append(g)
    return taken, checks


def _run_op_by_op(step: Step, gradients: Gradients, rate: Any) -> None:
    if step.hook is not None:
        _op_by_op.run_with_hook(step, gradients, rate, read, assign)
    else:
        write(changes_op_by_op(step, gradients, rate))


def _is_to_compile(step: Step, gradients: Gradients, has_strategy: bool, scoped: bool) -> bool:
    """Whether to run this step as one compiled call.

    This depends only on the configuration and the saved state, never on the process's history:
    otherwise a resumed run would round differently from an uninterrupted one.

    Raises: ValueError if `jit_compile=True` and the step cannot be compiled.
    """
    if step.jit_compile is False or is_inside_xla():
        return False
    reason = _why_op_by_op(step, has_strategy, scoped)
    if reason is None and (step.jit_compile is True or _gains_by_compiling(step, gradients)):
        reason = inputs_of(step).why_op_by_op
        if reason is None:
            return True
    if reason is not None and step.jit_compile is True:
        _compilation.raise_not_compilable(reason)
    return False


def _why_op_by_op(step: Step, has_strategy: bool, scoped: bool) -> str | None:
    """Return why this step cannot be compiled, for reasons that can change between steps."""
    if has_strategy or is_distributed(step.roster.counters.calls._value):
        return STRATEGY_REASON
    if tf.config.functions_run_eagerly():
        return "`tf.config.run_functions_eagerly` is on"
    if is_op_determinism_enabled():
        return "op determinism is on"
    if scoped:
        return "the step is made in a stateless scope"
    return _compilation.why_op_by_op(step)


def _gains_by_compiling(step: Step, gradients: Gradients) -> bool:
    if tf.executing_eagerly():
        # A program that makes a single step should not pay for a compilation.
        return _has_stepped(step)
    # With sparse gradients the program is an ordinary graph, like the surrounding one.
    return not any(map(is_sparse, gradients)) and _is_worth_nesting(step.roster.shapes)


def _is_worth_nesting(shapes: Sequence[tuple[int, ...]]) -> bool:
    """Whether a step in a graph gains by being a compiled call of its own."""
    if len(shapes) > NESTED_TENSORS:
        return False
    elements = sum(tf.TensorShape(shape).num_elements() for shape in shapes)
    return bool(elements >= NESTED_ELEMENTS * len(shapes))


def how_steps_run(step: Step, reason: str | None) -> Execution:
    """Say how steps such as this one are run."""
    reason = reason or _why_op_by_op(step, tf.distribute.has_strategy(), in_stateless_scope())
    shapes = step.roster.shapes
    if reason is None and shapes:
        reason = inputs_of(step).why_op_by_op or why_not_compiled(step)
    insists = step.jit_compile is True
    nests = reason is None and (
        insists or (step.jit_compile == "auto" and bool(shapes) and _is_worth_nesting(shapes))
    )
    first = "" if insists else ", the first one op by op"
    inside = "compiled, even if the graph is not" if nests else "compiled if XLA compiles the graph"
    return Execution(
        _compilation.how_eager_steps_run(step, reason, f"run as one compiled call{first}"),
        f"in `fit` and `tf.function` they are {inside}",
    )


def _has_stepped(step: Step) -> bool:
    """Whether a step has been made, read without checking tapes, scopes and strategies."""
    counter = step.roster.counters.calls._value
    calls = read_variable_op(counter.handle, counter.dtype).numpy()
    return bool(calls >= step.plan.accumulation_steps)
