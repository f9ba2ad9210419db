"""What the compiled steps of one optimizer leave to the next.

A compiled step gives no buffer away that a variable holds: it reads the variables' arrays, and
writes into those that the step before it replaced, which are donated where nobody else holds them.
An interrupt, an error or another thread therefore finds every variable with an array to read, and
all of them change at one moment.

The arrays to write into are one more copy of the slots. They are kept where that copy takes at most
an eighth of the memory of the device; elsewhere each step takes new memory, as it does for the
weights everywhere. Where and how often the copy is kept changes no number. The environment variable
`KERAS_RMSPROP_JAX_SECOND_COPY`, read when an optimizer's first step is compiled, decides otherwise:
`0` never keeps it, `1` always does.
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

from keras_rmsprop._execution import _plain
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution.jax._memory import SOLE, allocated, keeps_second_copy
from keras_rmsprop._execution.jax._programs import (
    Constraint,
    Trace,
    as_array,
    compilations,
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
    write,
)
from keras_rmsprop._math import _step
from keras_rmsprop._private import in_stateless_scope
from keras_rmsprop._variables._roster import Roster

_log = logging.getLogger(__name__)


class _Course:
    """What the compiled steps of one optimizer leave to the next.

    It holds arrays, but neither the variables nor their roster, which it must not keep alive.

    Args:
        roster: the variables.
        plan: what a step does, with constraints that can be compared.
        without: the positions of the parameters that take no gradient.
        values: what the variables hold.
    """

    def __init__(
        self,
        roster: Roster,
        plan: _step.Plan,
        without: tuple[int, ...],
        values: Sequence[jax.Array],
    ) -> None:
        self.plan, self.without = plan, without
        groups = (*roster.parameters, roster.counters)
        fields = tuple(tuple(owner is not None for owner in group) for group in groups)
        self.programs = [Trace.of(plan, fields, without, flag) for flag in (False, True)]
        self.places = self.programs[0].changed()
        self.are_plain = all(map(is_plain, roster.variables))
        # How many of the arrays that a step changes leave their memory to a later one. Weights do
        # not: programs take aliases of them that Python cannot see, such as what `jax.device_put`
        # gives for the device where they are.
        self.reused = len(set(self.places) - self.programs[0].weights())
        self.keeps = keeps_second_copy(self.of_reused(list(values)))
        # What the last step made.
        self.made: list[jax.Array] = []
        # What the step before it made, at most one list. Replaced, so that nobody gives it out.
        self.retired: list[list[jax.Array]] = []
        # The number of calls as the last step left it, where that is known to be above zero.
        self.calls: jax.Array | None = None

    def fits(self, plan: _step.Plan, without: tuple[int, ...]) -> bool:
        """Whether a step has the options of this course."""
        return self.without == without and self.plan == plan

    def of_changed(self, all_of: list[Any]) -> list[Any]:
        """Those of all variables, or of their arrays, that a step changes."""
        return [all_of[place] for place in self.places]

    def of_reused(self, all_of: list[Any]) -> list[Any]:
        """Those of all variables, or of their arrays, whose memory is written to again."""
        return self.of_changed(all_of)[: self.reused]

    def spare(self, values: list[jax.Array]) -> list[jax.Array]:
        """Return arrays to write into, one for each that is reused; none if none are kept.

        Args:
            values: the arrays that the coming step reads.
        """
        if not self.keeps:
            return []
        try:
            arrays = self.retired.pop()
        except IndexError:
            return allocated(self.of_reused(values))
        # No variable holds these any more, so that nobody can get hold of one while we count.
        counts = list(map(sys.getrefcount, arrays))
        if max(counts) > SOLE or any(map(IS_DELETED, arrays)):
            lost = [i for i, n in enumerate(counts) if n > SOLE or IS_DELETED(arrays[i])]
            like = self.of_reused(values)
            for i, fresh in zip(lost, allocated([like[i] for i in lost]), strict=True):
                arrays[i] = fresh
        return arrays

    def keep(self, results: list[jax.Array]) -> None:
        """Note what a step made; what the one before it made is retired."""
        # Not what a trace gave that the optimizer cannot see from within.
        if self.keeps and not isinstance(results[-1], jax.core.Tracer):
            if self.made:
                self.retired = [self.made]
            self.made = results[: self.reused]


courses: "weakref.WeakKeyDictionary[Roster, _Course]" = weakref.WeakKeyDictionary()


def run_compiled(step: Step, gradients: Gradients, rate: Any) -> str | None:
    """Make the step as one compiled call; return why there is no way, nothing done, or None."""
    owners, scoped = step.roster.variables, in_stateless_scope()
    # Keras's `fit` empties the variables and keeps their values in a scope.
    values = [read(owner) for owner in owners] if scoped else snapshot(owners)
    course = _course_of(step, gradients, values)
    flagged = sum(gradient is None for gradient in gradients) > len(course.without)
    flags: list[Any] = []
    if flagged:
        gradients, flags = _with_dummies(step.roster.weights, course.without, gradients)
    arguments = (
        values,
        list(gradients),
        flags,
        as_array(_plain.tensor_of(rate, read)),
        np.array(jax.tree.leaves(step.numbers), widest_float()),
    )
    compiled = compilations()
    start = time.perf_counter()
    try:
        if scoped:
            results = compiled_step(course.programs[flagged], [], *arguments)
        else:
            results = _into_spare(course, course.programs[flagged], *arguments)
    except _step.TransformError:
        raise
    except ValueError as error:
        # Such as arrays on different devices. What was deleted is lost op by op as well.
        if any(is_deleted(value) for value in values):
            raise
        return str(error)
    seconds = time.perf_counter() - start
    if scoped:
        write(zip(course.of_changed(owners), results, strict=True))
    else:
        # An interrupt between these lines costs memory or time and changes no number.
        store(course.of_changed(owners), results, at_once=course.are_plain)
        # A first step that `skip_nonfinite` skips counts nothing.
        course.calls = None if step.mode is True else step.roster.counters.calls._value
        course.keep(results)
    if seconds > _plain.LONG_COMPILATION and compilations() > compiled:
        _log.info("%s: compiling its step took %.1f s.", step.name, seconds)
    return None


def _into_spare(
    course: _Course, program: Trace, values: list[jax.Array], *rest: Any
) -> list[jax.Array]:
    """Call the compiled step with memory to write into."""
    reuses = bool(course.retired)
    try:
        return compiled_step(program, course.spare(values), values, *rest)
    except (ValueError, jax.errors.JaxRuntimeError):
        if not reuses:
            raise
        # Perhaps an alias that JAX made of a retired array, unseen, came back as a value.
        return compiled_step(program, allocated(course.of_reused(values)), values, *rest)


def _course_of(step: Step, gradients: Gradients, values: Sequence[jax.Array]) -> _Course:
    """The course of these variables, begun anew where the options are others."""
    plan, weights = step.plan, step.roster.weights
    without: tuple[int, ...] = ()
    if any(gradient is None for gradient in gradients):
        without = tuple(
            i
            for i, (g, v) in enumerate(zip(gradients, weights, strict=True))
            if g is None and _takes_no_gradient(v)
        )
    if any(plan.constraints):
        plan = plan._replace(constraints=tuple(c and Constraint(c) for c in plan.constraints))
    course = courses.get(step.roster)
    if course is None or not course.fits(plan, without):
        course = courses[step.roster] = _Course(step.roster, plan, without, values)
    return course


def _takes_no_gradient(variable: Any) -> bool:
    """Whether no step has a gradient of this variable, such as an integer or a float8 scale."""
    return variable.overwrite_with_gradient or variable._dtype not in _plain.FLOATING


def _with_dummies(
    weights: Sequence[Any], without: tuple[int, ...], gradients: Gradients
) -> tuple[list[Any], list[Any]]:
    """Put an array in the place of each missing gradient; return flags that say which are there.

    The dummy is the weight itself, which costs nothing and has the dtype that a gradient mostly
    has. A gradient of another dtype is cast where that loses nothing, so that the dtypes, which
    the compiled program depends on, follow from the set of gradients as little as may be.
    """
    filled: list[Any] = []
    flags: list[Any] = []
    for i, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
        if i in without:
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
