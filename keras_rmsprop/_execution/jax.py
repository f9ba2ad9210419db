"""How a step runs on JAX: op by op or traced, or as one compiled call.

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

import collections
import contextlib
import functools
import itertools
import logging
import math
import operator
import os
import pathlib
import sys
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import keras
import numpy as np
from jax import numpy as jnp
from jax.experimental.sparse import JAXSparse

from keras_rmsprop._execution import _interface, _interrupts, _plain
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._plain import in_stateless_scope, run_plainly, run_with_hook
from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Coefficients, Parameter
from keras_rmsprop._variables._roster import Roster

Gradients = Sequence[jax.Array | None]

# Whether a gradient can come as the rows of a table.
GIVES_ROWS = False
# Whether a step in a graph changes variables while Python is elsewhere.
STEPS_IN_GRAPHS = False
# What serves here as it does by default.
as_written = _interface.as_written
is_recorded = _interface.is_recorded
is_rows = _interface.is_rows
outside_trace = _interface.outside_trace
swapping_strategy = _interface.swapping_strategy

_log = logging.getLogger(__name__)

# Of whose steps the log says that they run op by op; each step tries anew.
_told: "weakref.WeakSet[Roster]" = weakref.WeakSet()

# A compilation that takes longer is logged; in seconds.
_LONG = 1.0


_differentiable_sqrt = jax.custom_jvp(keras.ops.sqrt)


@_differentiable_sqrt.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y = _differentiable_sqrt(*primals)
    at_zero = y == 0.0
    safe = jnp.where(at_zero, jnp.ones_like(y), y)
    return y, jnp.where(at_zero, jnp.zeros_like(y), tangents[0] / (2.0 * safe))


def _sqrt(x: jax.Array) -> jax.Array:
    """Compute the square root, with 0 as its derivative at 0."""
    # Outside a trace nothing is differentiated, and the detour costs as much as the root.
    is_traced = isinstance(x, jax.core.Tracer)
    root: jax.Array = _differentiable_sqrt(x) if is_traced else keras.ops.sqrt(x)
    return root


_rule.sqrt = _sqrt


def run(step: Step, gradients: Gradients) -> None:
    """Make one step."""
    insists = step.mode is True
    if _is_traced(step, gradients) or (in_stateless_scope() and not insists):
        # What surrounds the step decides how it runs.
        _run_op_by_op(step, gradients, step.rate.ask())
        return
    reason = _why_op_by_op(step)
    if insists and reason is not None:
        _plain.refuse(reason)
    rate = step.rate.ask()
    if reason is None and (insists or _compiles_unasked(step, gradients)):
        reason = _run_compiled(step, gradients, rate)
        if reason is None:
            return
        if insists:
            _plain.refuse(reason)
        if step.roster not in _told:
            _told.add(step.roster)
            _log.debug("%s runs op by op: %s", step.name, reason)
    _run_op_by_op(step, gradients, rate)


def read(variable: keras.Variable) -> jax.Array:
    """Return the variable's current value, the traced one inside a stateless scope."""
    return variable.value


def write(pairs: Iterable[tuple[Any, jax.Array]]) -> None:
    """Assign each value to its variable; outside a stateless scope all of them or none."""
    pairs = list(pairs)
    if in_stateless_scope():
        for variable, value in pairs:
            _assign(variable, value)
    elif all(_is_plain(variable) for variable, _ in pairs):
        values = [_as_held(variable, value) for variable, value in pairs]
        _store([variable for variable, _ in pairs], values, at_once=True)
    else:
        _plain.write_whole(pairs, read, _assign)


def _assign(variable: Any, value: jax.Array) -> None:
    variable.assign(value)


def snapshot(variables: Iterable[Any]) -> list[jax.Array]:
    """Return what variables hold, of one moment between two steps, whichever thread asks.

    It is one call in C, as is the one in which a step stores its results. Not for a stateless
    scope, which holds values of its own.
    """
    return list(map(_VALUE, variables))


def copy(value: jax.Array) -> jax.Array:
    """Return an array of its own, so that donating one buffer does not take the other."""
    return value.copy()


def shape_of(gradient: Any) -> tuple[int, ...]:
    """Return the gradient's shape; it may be a list or a number."""
    return tuple(gradient.shape) if hasattr(gradient, "shape") else np.shape(gradient)


def dense(gradient: Any, variable: keras.Variable) -> jax.Array:
    """Return the gradient, whatever Keras takes for one, as one value per weight."""
    if isinstance(gradient, jax.Array):
        return gradient
    if isinstance(gradient, JAXSparse):
        # Adds up what is given for one place more than once.
        return gradient.todense()
    # Lists and numbers have no dtype of their own.
    dtype = None if hasattr(gradient, "dtype") else variable.dtype
    return keras.ops.convert_to_tensor(gradient, dtype)


def _is_traced(step: Step, gradients: Gradients) -> bool:
    """Whether the step is part of a trace, such as that of a user's `jit`."""
    given = (read(step.roster.counters.calls), *gradients)
    return any(isinstance(x, jax.core.Tracer) for x in given)


def _why_op_by_op(step: Step) -> str | None:
    """Why no step of this configuration can be compiled, None if it can."""
    reason = _plain.why_op_by_op(step)
    if reason is None and jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        reason = "JAX is set to run without `jit` (`jax_disable_jit`)"
    if reason is None and keras.distribution.distribution() is not None:
        reason = "a distribution of Keras is set, which lays out the variables"
    return reason


def _compiles_unasked(step: Step, gradients: Gradients) -> bool:
    """Whether a step that can be compiled is, where the user leaves it to us.

    It depends on the configuration, the saved state and the set of gradients only, never on what
    the process did before: otherwise a resumed run would round differently from one that was not
    stopped.
    """
    if step.mode is False or not _is_worth_all(step.roster, gradients):
        return False
    calls = step.roster.counters.calls._value
    course = _courses.get(step.roster)
    if course is not None and course.calls is calls:
        # Known to be above zero, without waiting for the device.
        return True
    # One-step uses need not pay for a compilation.
    return int(calls) >= step.plan.accumulation_steps


def _is_worth_all(roster: Roster, gradients: Gradients) -> bool:
    """Whether a compiled step, which goes over all variables, pays for the gradients given.

    Op by op a step goes over those that have one, at about eight times the cost for each.
    """
    if all(gradient is not None for gradient in gradients):
        return True
    # Handing over a small tensor costs as much as computing so many elements.
    work = [math.prod(shape) + 16384 for shape in roster.shapes]
    given = sum(n for n, g in zip(work, gradients, strict=True) if g is not None)
    return 8 * given >= sum(work)


def _run_op_by_op(step: Step, gradients: Gradients, rate: Any) -> None:
    """Compute a step whole and then write it."""
    if step.hook is not None:
        # A subclass's `update_step` writes by itself, before anybody knows how the step ends.
        run_with_hook(step, gradients, rate, read, _assign)
    else:
        write(run_plainly(step, gradients, rate, read))


# Compiled steps.


class _Program:
    """What a compiled step does, as far as it does not depend on arrays: one for each trace.

    Two that do the same are one object (see `of`): JAX looks programs up in C++, which an
    interrupt in a comparison written in Python would upset.

    Args:
        plan: what the step does.
        fields: for each parameter, and last for the counters, which fields there are.
        without: the positions of the parameters that take no gradient.
        flagged: whether gradients may be missing; a flag says so for each of the others.
    """

    def __init__(
        self,
        plan: _step.Plan,
        fields: tuple[tuple[bool, ...], ...],
        without: tuple[int, ...],
        flagged: bool,
    ) -> None:
        self.plan, self.fields, self.without, self.flagged = plan, fields, without, flagged

    @staticmethod
    @functools.cache
    def of(*arguments: Any) -> "_Program":
        """Return the one program with these arguments."""
        return _Program(*arguments)

    def changed(self) -> list[int]:
        """The places in the flat list of arrays that a step changes, those of weights last.

        JAX gives the memory that is donated to the first outputs that it fits.
        """
        overwrites = self.plan.ema_overwrite_frequency is not None
        moved = {"average"} | ({"weight"} if overwrites else set())
        without = set(self.without)
        changes = [
            i not in without or (self.plan.use_ema and name in moved)
            for i, there in enumerate(self.fields[:-1])
            for name, is_there in zip(Parameter._fields, there, strict=True)
            if is_there
        ]
        changes += [True] * sum(self.fields[-1])
        places = [place for place, changing in enumerate(changes) if changing]
        return sorted(places, key=self.weights().__contains__)

    def weights(self) -> set[int]:
        """The places of the weights in the flat list of arrays."""
        names = [
            name
            for there in self.fields[:-1]
            for name, is_there in zip(Parameter._fields, there, strict=True)
            if is_there
        ]
        return {place for place, name in enumerate(names) if name == "weight"}

    def unflatten(self, values: Sequence[jax.Array]) -> tuple[list[Parameter], _step.Counters]:
        """Sort a flat list of arrays into parameters and counters."""
        rest = iter(values)
        *parameters, counters = (
            [next(rest) if is_there else None for is_there in there] for there in self.fields
        )
        return [Parameter(*p) for p in parameters], _step.Counters(*counters)


def _whole_step(
    program: _Program,
    spare: list[jax.Array],
    values: list[jax.Array],
    gradients: list[jax.Array | None],
    flags: list[jax.Array],
    learning_rate: jax.Array,
    numbers: jax.Array,
) -> list[jax.Array]:
    """Make one step; the outputs stand in the order of `spare`, so that buffers line up."""
    del spare  # Nothing but memory.
    flagged: dict[int, jax.Array] = {}
    if program.flagged:
        positions = [i for i, g in enumerate(gradients) if g is not None]
        flagged = dict(zip(positions, flags, strict=True))
        gradients = [
            None if g is None else jnp.where(flagged[i], g, jnp.zeros_like(g))
            for i, g in enumerate(gradients)
        ]
    parameters, counters = program.unflatten(values)
    after, counted = _step.step(
        program.plan,
        _unpack(numbers),
        counters,
        learning_rate,
        parameters,
        gradients,
        flags=flagged,
        nest=jax.jit,
    )
    results = [x for group in (*after, counted) for x in group if x is not None]
    return [results[place] for place in program.changed()]


# The program is static; JAX keeps one compiled step for each, which all optimizers share.
_compiled_step = jax.jit(_whole_step, static_argnums=0, donate_argnums=1, keep_unused=True)


class _Course:
    """What the compiled steps of one optimizer leave to the next.

    It holds arrays, but neither the variables nor their roster, which it must not keep alive.

    Args:
        roster: the variables.
        plan: what a step does, with constraints that can be compared.
        without: the positions of the parameters that take no gradient.
    """

    def __init__(self, roster: Roster, plan: _step.Plan, without: tuple[int, ...]) -> None:
        self.plan, self.without = plan, without
        groups = (*roster.parameters, roster.counters)
        fields = tuple(tuple(owner is not None for owner in group) for group in groups)
        self.programs = [_Program.of(plan, fields, without, flag) for flag in (False, True)]
        owners = roster.variables
        self.places = self.programs[0].changed()
        self.are_plain = all(map(_is_plain, owners))
        # How many of the arrays that a step changes leave their memory to a later one. Weights do
        # not: programs take aliases of them that Python cannot see, such as what `jax.device_put`
        # gives for the device where they are.
        self.reused = len(set(self.places) - self.programs[0].weights())
        self.keeps = _keeps_second_copy([v._value for v in self.of_reused(owners)])
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
            return _allocated(self.of_reused(values))
        # No variable holds these any more, so that nobody can get hold of one while we count.
        counts = list(map(sys.getrefcount, arrays))
        if max(counts) > _SOLE or any(map(_IS_DELETED, arrays)):
            lost = [i for i, n in enumerate(counts) if n > _SOLE or _IS_DELETED(arrays[i])]
            like = self.of_reused(values)
            for i, fresh in zip(lost, _allocated([like[i] for i in lost]), strict=True):
                arrays[i] = fresh
        return arrays

    def keep(self, results: list[jax.Array]) -> None:
        """Note what a step made; what the one before it made is retired."""
        # Not what a trace gave that the optimizer cannot see from within.
        if self.keeps and not isinstance(results[-1], jax.core.Tracer):
            if self.made:
                self.retired = [self.made]
            self.made = results[: self.reused]


_courses: "weakref.WeakKeyDictionary[Roster, _Course]" = weakref.WeakKeyDictionary()


def _run_compiled(step: Step, gradients: Gradients, rate: Any) -> str | None:
    """Make the step as one compiled call; return why there is no way, nothing done, or None."""
    course = _course_of(step, gradients)
    flagged = sum(gradient is None for gradient in gradients) > len(course.without)
    owners, scoped = step.roster.variables, in_stateless_scope()
    values = [read(owner) for owner in owners] if scoped else snapshot(owners)
    flags: list[Any] = []
    if flagged:
        gradients, flags = _with_dummies(step.roster.weights, course.without, gradients)
    arguments = (
        values,
        list(gradients),
        flags,
        _as_array(read(rate) if isinstance(rate, keras.Variable) else rate),
        np.array(jax.tree.leaves(step.numbers), _wide()),
    )
    compiled = _compilations()
    start = time.perf_counter()
    try:
        if scoped:
            results = _compiled_step(course.programs[flagged], [], *arguments)
        else:
            results = _into_spare(course, course.programs[flagged], *arguments)
    except ValueError as error:
        # Such as arrays on different devices. What was deleted is lost op by op as well.
        if any(_is_deleted(value) for value in values):
            raise
        return str(error)
    seconds = time.perf_counter() - start
    if scoped:
        write(zip(course.of_changed(owners), results, strict=True))
    else:
        # An interrupt between these lines costs memory or time and changes no number.
        _store(course.of_changed(owners), results, at_once=course.are_plain)
        # A first step that `skip_nonfinite` skips counts nothing.
        course.calls = None if step.mode is True else step.roster.counters.calls._value
        course.keep(results)
    if seconds > _LONG and _compilations() > compiled:
        _log.info("%s: compiling its step took %.1f s.", step.name, seconds)
    return None


def _into_spare(
    course: _Course, program: _Program, values: list[jax.Array], *rest: Any
) -> list[jax.Array]:
    """Call the compiled step with memory to write into."""
    reuses = bool(course.retired)
    try:
        return _compiled_step(program, course.spare(values), values, *rest)
    except (ValueError, jax.errors.JaxRuntimeError):
        if not reuses:
            raise
        # Perhaps an alias that JAX made of a retired array, unseen, came back as a value.
        return _compiled_step(program, _allocated(course.of_reused(values)), values, *rest)


def _compilations() -> int:
    """How many programs JAX keeps for us."""
    return int(_compiled_step._cache_size())  # type: ignore[attr-defined]


def _course_of(step: Step, gradients: Gradients) -> _Course:
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
        plan = plan._replace(constraints=tuple(c and _Constraint(c) for c in plan.constraints))
    course = _courses.get(step.roster)
    if course is None or not course.fits(plan, without):
        course = _courses[step.roster] = _Course(step.roster, plan, without)
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


class _Constraint:
    """A constraint that equals any other of its type and settings.

    JAX keeps what it has compiled; models that are built one after the other share it.
    """

    def __init__(self, constraint: Any) -> None:
        # A copy: the program goes on with these settings when those of the user's object change.
        self._constraint = type(constraint).from_config(constraint.get_config())
        self._identity = (type(constraint), repr(constraint.get_config()))

    def __call__(self, weight: jax.Array) -> jax.Array:
        return self._constraint(weight)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constraint) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def _unpack(numbers: jax.Array) -> _step.Numbers:
    return jax.tree.unflatten(_NUMBERS, list(numbers))


_NUMBERS = jax.tree.structure(
    _step.Numbers(Coefficients(*[0.0] * len(Coefficients._fields)), *[0.0] * 6)
)


def _wide() -> np.dtype[Any]:
    """The widest float dtype that JAX holds as it is configured."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _as_array(rate: float | jax.Array) -> jax.Array | np.ndarray[Any, Any]:
    # A Python float would be traced as a weakly typed scalar, and a schedule's array not.
    return rate if isinstance(rate, jax.Array) else np.asarray(rate, _wide())


# Variables and their arrays.

_VALUE = operator.attrgetter("_value")
_IS_DELETED = operator.methodcaller("is_deleted")


def _is_deleted(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer) and value.is_deleted()


def _is_plain(variable: Any) -> bool:
    """Whether assigning to a variable is to set an attribute, with no Python in between."""
    setter: object = type(variable).__setattr__
    return setter is object.__setattr__ and variable._layout is None


def _store(owners: Sequence[Any], values: Sequence[jax.Array], at_once: bool) -> None:
    """Give each variable its array.

    Args:
        owners: the variables.
        values: an array for each, as it will hold it.
        at_once: whether the variables are plain. Then it is one call in C, in which Python
            handles no signal and lets no other thread run.
    """
    if at_once:
        collections.deque(map(setattr, owners, itertools.repeat("_value"), values), maxlen=0)
    else:
        with _interrupts.deferred():
            for owner, value in zip(owners, values, strict=True):
                owner._direct_assign(value)


def _as_held(variable: Any, value: Any) -> jax.Array:
    """The value as `assign` would hold it.

    Raises: ValueError if it has another shape than the variable.
    """
    array: jax.Array = variable._convert_to_tensor(value, dtype=variable._dtype)
    if array.shape != tuple(variable.shape):
        raise ValueError(
            f"{variable.path} has shape {tuple(variable.shape)}, the value to be assigned "
            f"{array.shape}."
        )
    return array


# Memory to write into.


# What `sys.getrefcount` gives for an object that only a list holds.
_SOLE = max(map(sys.getrefcount, [object()]))


def _allocated(like: Sequence[jax.Array]) -> list[jax.Array]:
    """Return new arrays of the same shapes, dtypes and places."""
    if len(like) > 8 and not any(array.committed for array in like):
        return _zeros(tuple((array.shape, array.dtype) for array in like))
    return [jnp.zeros(x.shape, x.dtype, device=x.sharding if x.committed else None) for x in like]


@functools.partial(jax.jit, static_argnums=0)
def _zeros(avals: tuple[tuple[tuple[int, ...], Any], ...]) -> list[jax.Array]:
    return [jnp.zeros(shape, dtype) for shape, dtype in avals]


def _keeps_second_copy(arrays: Sequence[jax.Array]) -> bool:
    """Whether steps over these arrays keep one more copy of them to write into.

    See the docstring of the module. Where Python runs without a global lock, references cannot
    be counted.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    setting = os.environ.get("KERAS_RMSPROP_JAX_SECOND_COPY", "auto")
    if setting in ("0", "1"):
        return setting == "1"
    needed: dict[Any, int] = {}
    for array in arrays:
        for device in array.devices():
            needed[device] = needed.get(device, 0) + array.nbytes
    return all(8 * size <= _memory_of(device) for device, size in needed.items())


@functools.cache
def _memory_of(device: Any) -> int:
    """The bytes of memory a device has in all; for a CPU, those the process may take."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    limits = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in _CGROUP_LIMITS:
        # Without a limit the file holds a word.
        with contextlib.suppress(ValueError, OSError):
            limits.append(int(pathlib.Path(name).read_text()))
    return min(limits, default=sys.maxsize)


_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
