"""Compiled steps that double-buffer weights and slots.

A compiled step never donates a buffer that a variable holds. It reads the variables' arrays and
donates the arrays that the previous step replaced, if nothing else references them or shares their
memory. So an interrupt, an error or another thread always finds a readable array in every
variable, and all variables change at once.

The donated arrays amount to a second copy of the weights and slots that are large (see `_memory`),
kept on a CPU if it takes at most an eighth of its memory. A step of one 4096² tensor takes a third
of the time that it takes with newly allocated arrays. Smaller arrays are allocated as fast. Keeping
the copy or not does not change the results. The environment variable
`KERAS_RMSPROP_JAX_SECOND_COPY`, read when an optimizer's first step is compiled, overrides the
choice: `0` never keeps it, `1` always does.
"""

import logging
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from keras_rmsprop._execution import _compilation, _op_by_op
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution.jax._memory import (
    SOLE_REFERENCE,
    allocated,
    reusable,
    with_aliases,
)
from keras_rmsprop._execution.jax._programs import (
    Constraint,
    StaticArgument,
    as_array,
    compilations,
    compiled_statistics,
    compiled_step,
    widest_float,
)
from keras_rmsprop._execution.jax._values import (
    IS_DELETED,
    Gradients,
    is_deleted,
    is_plain,
    read,
    snapshot,
    store,
    stored,
    write,
)
from keras_rmsprop._math import _step
from keras_rmsprop._variables._roster import Roster
from keras_rmsprop._variables._watch import Watch

_log = logging.getLogger(__name__)


class _DoubleBuffer:
    """State that the compiled steps of one optimizer share.

    It holds arrays, but not the variables or their roster, which it must not keep alive.

    Args:
        roster: the variables.
        plan: the plan of a step, with constraints wrapped so that they can be compared.
        without_gradient: the positions of the parameters that take no gradient.
        values: the variables' current arrays.
    """

    def __init__(
        self,
        roster: Roster,
        plan: _step.Plan,
        without_gradient: tuple[int, ...],
        values: Sequence[jax.Array],
    ) -> None:
        self.plan, self.without_gradient = plan, without_gradient
        groups = (*roster.parameters, roster.counters)
        fields = tuple(tuple(owner is not None for owner in group) for group in groups)
        # Without flags for missing gradients, and with them.
        self.static_arguments = [
            StaticArgument.of(plan, fields, without_gradient, flag) for flag in (False, True)
        ]
        self.places = self.static_arguments[0].changed()
        self.are_plain = all(map(is_plain, roster.variables))
        # Which of the changed arrays are donated later.
        self.reused = reusable(self.of_changed(list(values)))
        # Those among the results of the last step, which the variables hold.
        self.made: list[jax.Array] = []
        # Those of the step before it, at most one list; no variable holds them any more.
        self.retired: list[list[jax.Array]] = []
        # Why a step cannot be compiled, once that is known.
        self.not_traceable: str | None = None
        # The counter's array after the last step, if it is known to be above zero.
        self.calls: jax.Array | None = None
        self._numbers: _step.Numbers | None = None
        self._packed: Any = None

    def fits(self, plan: _step.Plan, without_gradient: tuple[int, ...]) -> bool:
        """Whether a step has the same options."""
        return self.without_gradient == without_gradient and self.plan == plan

    def why_not_traceable(self, plan: _step.Plan) -> str | None:
        """Return why steps with this plan's transforms cannot be compiled, if that is known."""
        return self.not_traceable if plan.groups == self.plan.groups else None

    def of_changed(self, all_of: list[Any]) -> list[Any]:
        """Select, from all variables or their arrays, those that a step changes."""
        return [all_of[place] for place in self.places]

    def of_reused(self, all_of: list[Any]) -> list[Any]:
        """Select, from all variables or their arrays, those whose memory is reused."""
        return [all_of[self.places[i]] for i in self.reused]

    def packed(self, numbers: _step.Numbers) -> jax.Array:
        """Return the numbers as one array, the same one until one of them changes."""
        dtype = widest_float()
        if numbers != self._numbers or self._packed.dtype != dtype:
            # A concrete array, even under an enclosing trace.
            with jax.ensure_compile_time_eval():
                self._packed = jnp.array(jax.tree.leaves(numbers), dtype)
            self._numbers = numbers
        return self._packed

    def spare(self, values: list[jax.Array]) -> list[jax.Array]:
        """Return the arrays to donate, one for each that is reused.

        Args:
            values: the arrays that the step will read.
        """
        if not self.reused:
            return []
        try:
            arrays = self.retired.pop()
        except IndexError:
            return allocated(self.of_reused(values))
        lost = _unusable(arrays)
        if lost:
            like = self.of_reused(values)
            for i, fresh in zip(lost, allocated([like[i] for i in lost]), strict=True):
                arrays[i] = fresh
        return arrays

    def keep(self, results: list[jax.Array]) -> None:
        """Record the results of a step and retire those of the previous one."""
        # Results are tracers if the step ran under an enclosing trace after all.
        if self.reused and not isinstance(results[-1], jax.core.Tracer):
            if self.made:
                self.retired = [self.made]
            self.made = [results[i] for i in self.reused]


def _unusable(arrays: list[jax.Array]) -> list[int]:
    """Return the indices of arrays that must not be donated, as something else may read them."""
    # No variable holds these any more, so no new reference can appear while we count.
    counts = list(map(sys.getrefcount, arrays))
    if max(counts) <= SOLE_REFERENCE and not any(map(IS_DELETED, arrays)):
        return sorted(with_aliases(arrays))
    held = [n > SOLE_REFERENCE or IS_DELETED(a) for n, a in zip(counts, arrays, strict=True)]
    unheld = [i for i, is_held in enumerate(held) if not is_held]
    aliased = with_aliases([arrays[i] for i in unheld]) if unheld else ()
    return [i for i, is_held in enumerate(held) if is_held] + [unheld[i] for i in aliased]


double_buffers: "weakref.WeakKeyDictionary[Roster, _DoubleBuffer]" = weakref.WeakKeyDictionary()


def run_compiled(step: Step, gradients: Gradients, rate: Any, scoped: bool) -> str | None:
    """Make the step as one compiled call.

    Args:
        step: the step to make.
        gradients: a gradient or None for each variable.
        rate: the result of `step.rate.get_next()`.
        scoped: whether a stateless scope holds the values of the variables, as in Keras's `fit`.

    Returns: None, or the reason why the step cannot be compiled; nothing has changed then.
    """
    owners = step.roster.variables
    double_buffer, flagged, arguments = _prepared(step, gradients, rate, scoped)
    if double_buffer.not_traceable is not None and step.jit_compile is not True:
        return double_buffer.not_traceable
    values, *_ = arguments
    compiled = compilations()
    start = time.perf_counter()
    try:
        if scoped:
            results = compiled_step(double_buffer.static_arguments[flagged], [], *arguments)
        else:
            results = _call_donating(
                double_buffer, double_buffer.static_arguments[flagged], *arguments
            )
    except _step.TransformError:
        raise
    except _compilation.NotTraceableError as error:
        if step.jit_compile is True:
            raise error.cause from None
        double_buffer.not_traceable = str(error)
        return str(error)
    except ValueError as error:
        # For example, arrays on different devices. With deleted arrays, op by op fails as well.
        if any(is_deleted(value) for value in values):
            raise
        return str(error)
    seconds = time.perf_counter() - start
    if scoped:
        write(zip(double_buffer.of_changed(owners), results, strict=True))
    else:
        # An interrupt between these lines costs memory or time but does not change results.
        store(double_buffer.of_changed(owners), results, at_once=double_buffer.are_plain)
        # With `jit_compile=True` the first step is compiled, and if `skip_nonfinite` skips it the
        # counter is still zero.
        double_buffer.calls = (
            None if step.jit_compile is True else step.roster.counters.calls._value
        )
        double_buffer.keep(results)
    if seconds > _compilation.LONG_COMPILATION and compilations() > compiled:
        _log.info("%s: compiling its step took %.1f s.", step.name, seconds)
    return None


def sampled_compiled(
    step: Step, watch: Watch, gradients: Gradients, rate: Any, scoped: bool
) -> jax.Array | None:
    """Return the table after a step that is sampled, or None if that cannot be compiled.

    Args:
        step: the step.
        watch: what is watched of it.
        gradients: a gradient or None for each variable.
        rate: the result of `step.rate.get_next()`.
        scoped: as for `run_compiled`.
    """
    double_buffer, flagged, arguments = _prepared(step, gradients, rate, scoped)
    if double_buffer.not_traceable is not None:
        return None
    static = double_buffer.static_arguments[flagged]
    try:
        table: jax.Array = compiled_statistics(static, watch.watched, *arguments, read(watch.table))
    except ValueError:
        # The step will fail as well, or run op by op.
        return None
    return table


def _prepared(
    step: Step, gradients: Gradients, rate: Any, scoped: bool
) -> tuple[_DoubleBuffer, bool, tuple[Any, ...]]:
    """Return the shared state, whether gradients have flags, and the arguments of a program.

    Args:
        step: the step.
        gradients: a gradient or None for each variable.
        rate: the result of `step.rate.get_next()`.
        scoped: as for `run_compiled`.
    """
    owners = step.roster.variables
    values = [read(owner) for owner in owners] if scoped else snapshot(owners)
    lacking = type(None) in map(type, gradients)
    double_buffer = _double_buffer_of(step, gradients if lacking else (), values)
    flagged = lacking and (
        sum(gradient is None for gradient in gradients) > len(double_buffer.without_gradient)
    )
    flags: list[Any] = []
    if flagged:
        gradients, flags = _with_dummies(
            step.roster.weights, double_buffer.without_gradient, gradients
        )
    arguments = (
        values,
        list(gradients),
        flags,
        as_array(_op_by_op.tensor_of(rate, read if scoped else stored)),
        double_buffer.packed(step.numbers),
    )
    return double_buffer, flagged, arguments


def _call_donating(
    double_buffer: _DoubleBuffer, static: StaticArgument, values: list[jax.Array], *rest: Any
) -> list[jax.Array]:
    """Call the compiled step, donating the spare arrays."""
    reuses = bool(double_buffer.retired)
    try:
        return compiled_step(static, double_buffer.spare(values), values, *rest)
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        if not reuses or isinstance(error, _compilation.NotTraceableError):
            raise
        # Perhaps one of the values is a hidden alias of a retired array, made by JAX.
        return compiled_step(static, allocated(double_buffer.of_reused(values)), values, *rest)


def _double_buffer_of(
    step: Step, gradients: Gradients, values: Sequence[jax.Array]
) -> _DoubleBuffer:
    """Return the shared state of these variables' steps, new if the options have changed.

    Args:
        step: the step.
        gradients: for each variable a gradient or None; empty if none is missing.
        values: the variables' current arrays.
    """
    plan, weights = step.plan, step.roster.weights
    without_gradient = tuple(
        [
            i
            for i, (g, v) in enumerate(zip(gradients, weights, strict=False))
            if g is None and _compilation.takes_no_gradient(v)
        ]
    )
    if any(plan.constraints):
        plan = plan._replace(constraints=tuple(c and Constraint(c) for c in plan.constraints))
    double_buffer = double_buffers.get(step.roster)
    if double_buffer is None or not double_buffer.fits(plan, without_gradient):
        double_buffer = _DoubleBuffer(step.roster, plan, without_gradient, values)
        double_buffers[step.roster] = double_buffer
    return double_buffer


def _with_dummies(
    weights: Sequence[Any], without_gradient: tuple[int, ...], gradients: Gradients
) -> tuple[list[Any], list[Any]]:
    """Replace each missing gradient by a dummy array; return flags that say which are present.

    The dummy is the weight itself: it costs nothing and usually has the gradient's dtype. A
    gradient of another dtype is cast to it if that is lossless, so that the compiled program,
    which depends on the dtypes, depends as little as possible on which gradients are missing.
    """
    filled: list[Any] = []
    flags: list[Any] = []
    for i, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
        if i in without_gradient:
            filled.append(None)
            continue
        dummy = read(weight)
        if gradient is None:
            filled.append(dummy)
        elif (
            gradient.dtype != dummy.dtype
            and jnp.promote_types(gradient.dtype, dummy.dtype) == dummy.dtype
        ):
            filled.append(gradient.astype(dummy.dtype))
        else:
            filled.append(gradient)
        flags.append(np.bool_(gradient is not None))
    return filled, flags
