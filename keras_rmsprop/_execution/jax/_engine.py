"""Run a step on JAX: op by op, traced, or as one compiled call."""

import logging
import math
import weakref
from typing import Any

import jax
import keras
from jax import numpy as jnp

from keras_rmsprop._execution import _compilation, _watching
from keras_rmsprop._execution._interface import Execution, Step
from keras_rmsprop._execution._op_by_op import assign, compute_op_by_op, run_with_hook
from keras_rmsprop._execution.jax._double_buffer import (
    double_buffers,
    run_compiled,
    sampled_compiled,
)
from keras_rmsprop._execution.jax._values import Gradients, read, write
from keras_rmsprop._private import in_stateless_scope
from keras_rmsprop._variables._roster import Roster
from keras_rmsprop._variables._watch import Watch

_log = logging.getLogger(__name__)

# The rosters whose steps have been logged as running op by op; each step tries to compile again.
_logged: "weakref.WeakSet[Roster]" = weakref.WeakSet()


def run(step: Step, gradients: Gradients) -> None:
    """Make one step."""
    if step.watch is None:
        _run(step, gradients)
    else:
        _watching.run_watched(step, gradients, _run, _table_after, assign)


def _table_after(step: Step, watch: Watch, gradients: Gradients, rate: Any) -> jax.Array | None:
    """Return the table of statistics after a step; None if it is not sampled."""
    scoped = in_stateless_scope()
    calls = read(step.roster.counters.calls)
    if _is_traced(step, gradients, scoped):
        # A condition cannot be fused with what computes the gradients. If it read them, that could
        # no longer be fused with the step either, which would be rounded in another way.
        one = jnp.where(calls < 0, 0.0, 1.0)
        gradients = [None if g is None else g * one.astype(g.dtype) for g in gradients]
        return jax.lax.cond(
            _watching.is_due_in_trace(step, watch, calls),
            lambda: _watching.sampled_op_by_op(step, watch, gradients, rate, read),
            lambda: read(watch.table),
        )
    if not _watching.is_due(step, watch, lambda: int(calls)):
        return None
    is_distributed = keras.distribution.distribution() is not None
    if is_distributed:
        # Op by op, the devices would add up their parts in hundreds of programs at a time, and on
        # CPUs wait for one another forever.
        is_compiled = _compilation.why_op_by_op(step) is None
    else:
        # The first step too, unlike its update: op by op, JAX would compile a hundred operations.
        is_compiled = _why_op_by_op(step) is None and (
            step.jit_compile is True or (step.jit_compile is not False and not scoped)
        )
    if is_compiled:
        table = sampled_compiled(step, watch, gradients, rate, scoped)
        if table is not None:
            return jax.block_until_ready(table) if is_distributed else table
    return _watching.sampled_op_by_op(step, watch, gradients, rate, read)


def _run(step: Step, gradients: Gradients) -> None:
    must_compile = step.jit_compile is True
    scoped = in_stateless_scope()
    if _is_traced(step, gradients, scoped) or (scoped and not must_compile):
        # The surrounding code decides how the step runs.
        _run_op_by_op(step, gradients, step.rate.get_next())
        return
    reason = _why_op_by_op(step)
    if must_compile and reason is not None:
        _compilation.raise_not_compilable(reason)
    rate = step.rate.get_next()
    if reason is None and (must_compile or _compiles_by_default(step, gradients)):
        reason = run_compiled(step, gradients, rate, scoped)
        if reason is None:
            return
        if must_compile:
            _compilation.raise_not_compilable(reason)
        if step.roster not in _logged:
            _logged.add(step.roster)
            _log.debug("%s runs op by op: %s", step.name, reason)
    _run_op_by_op(step, gradients, rate)


def _is_traced(step: Step, gradients: Gradients, scoped: bool) -> bool:
    """Whether the step is being traced, for example by a user's `jit`."""
    calls = step.roster.counters.calls
    types = {type(read(calls) if scoped else calls._value), *map(type, gradients)}
    return any(issubclass(type_, jax.core.Tracer) for type_ in types)


def _why_op_by_op(step: Step) -> str | None:
    """Return why no step of this configuration can be compiled, or None if it can."""
    reason = _compilation.why_op_by_op(step)
    if reason is None and jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        reason = "JAX is set to run without `jit` (`jax_disable_jit`)"
    if reason is None and keras.distribution.distribution() is not None:
        reason = "a distribution of Keras is set, which lays out the variables"
    return reason


def how_steps_run(step: Step, reason: str | None) -> Execution:
    """Say how steps such as this one are run."""
    reason = reason or _why_op_by_op(step)
    double_buffer = double_buffers.get(step.roster)
    if reason is None and double_buffer is not None:
        reason = double_buffer.why_not_traceable(step.plan)
    first = "" if step.jit_compile is True else ", the first one op by op"
    return Execution(
        _compilation.how_eager_steps_run(step, reason, f"run as one compiled call{first}"),
        "in `fit` and under `jax.jit` they are part of the compiled function",
    )


def _compiles_by_default(step: Step, gradients: Gradients) -> bool:
    """Whether to compile a step without `jit_compile=True`, given that it can be compiled.

    This depends only on the configuration, the saved state and the set of gradients, never on
    the process's history: otherwise a resumed run would round differently from an uninterrupted
    one.
    """
    if step.jit_compile is False or not _gains_by_compiling(step.roster, gradients):
        return False
    calls = step.roster.counters.calls._value
    double_buffer = double_buffers.get(step.roster)
    if double_buffer is not None and double_buffer.calls is calls:
        # Known to be above zero, without waiting for the device.
        return True
    # A program that makes a single step should not pay for a compilation.
    return int(calls) >= step.plan.accumulation_steps


def _gains_by_compiling(roster: Roster, gradients: Gradients) -> bool:
    """Whether a compiled step, which processes all variables, pays off for the gradients given.

    Op by op, a step processes only the variables with a gradient, at about eight times the cost
    of each.
    """
    if type(None) not in map(type, gradients):
        return True
    # Passing a small tensor costs as much as computing this many elements.
    work = [math.prod(shape) + 16384 for shape in roster.shapes]
    given = sum(n for n, g in zip(work, gradients, strict=True) if g is not None)
    return 8 * given >= sum(work)


def _run_op_by_op(step: Step, gradients: Gradients, rate: Any) -> None:
    """Compute a whole step, then write it."""
    if step.hook is not None:
        # A subclass's `update_step` writes variables itself, before the step is complete.
        run_with_hook(step, gradients, rate, read, assign)
    else:
        write(compute_op_by_op(step, gradients, rate, read))
