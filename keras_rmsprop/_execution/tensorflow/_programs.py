"""Compiled steps, shared by all optimizers with the same shapes and options."""

import contextlib
import functools
import logging
import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rmsprop._execution import _compilation
from keras_rmsprop._execution._compilation import FLOATING_DTYPES
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution.tensorflow._changes import (
    StepVariables,
    changes_of_step,
    statistics_of_step,
)
from keras_rmsprop._execution.tensorflow._devices import (
    NOT_COMPILABLE,
    default_device,
    has_xla,
)
from keras_rmsprop._execution.tensorflow._private import (
    Caller,
    EagerTensor,
    dtype_number_of_eager,
    is_on_default_device,
)
from keras_rmsprop._execution.tensorflow._rows import is_sparse
from keras_rmsprop._execution.tensorflow._traced_once import traced_once
from keras_rmsprop._execution.tensorflow._values import (
    Gradients,
    are_eager,
    is_distributed,
    read,
    tf_variable,
    write,
)
from keras_rmsprop._math import _step
from keras_rmsprop._math._table import Watched
from keras_rmsprop._variables._roster import (
    Roster,
    flat_without_none,
)
from keras_rmsprop._variables._watch import Watch

_log = logging.getLogger(__name__)

STRATEGY_REASON = "a distribution strategy runs the step or holds its variables"

# The maximum number of programs kept for all optimizers together, and of entries that each
# optimizer keeps, one per combination of options and gradient dtypes. The oldest is dropped first.
CAPACITY = 32

# Zeros that stand in for missing gradients are cached up to this number of elements.
KEPT_ZEROS = 2**16


class _ProgramInputs:
    """An optimizer's variables as arguments of compiled programs, and the programs it uses."""

    def __init__(self, step: Step) -> None:
        # Why it failed, in place of a program that could not be compiled.
        self.programs: dict[_Key, _Program | str] = {}
        self.latest: _Latest | None = None
        self.rate = step.rate.variable
        self.why_op_by_op: str | None = None
        try:
            device = _placement(step)
        except tf.errors.UnimplementedError as error:
            self.why_op_by_op = error.message
            _log.debug("%s runs op by op: %s", step.name, error.message)
            return
        # None for the default device, so that a graph can be exported to another machine.
        self.device = None if device == default_device() else device
        state = tf.nest.map_structure(
            lambda v: None if v is None else tf_variable(v), StepVariables.of(step)
        )
        self.variables = [v for v in tf.nest.flatten(state) if v is not None]
        self.handles = [v.handle for v in self.variables]
        self.layout: StepVariables = tf.nest.map_structure(
            lambda v: None if v is None else tf.TensorSpec(v.shape, v.dtype), state
        )
        # The variables whose gradients may be missing without a new program: all but lazy tables
        # and variables without slots, such as float8 scales.
        self.flagged = [
            i
            for i, (parameter, progress) in enumerate(
                zip(state.parameters, state.progress, strict=True)
            )
            if progress is None and parameter.square_average is not None
        ]
        self._numbers: _step.Numbers | None = None
        self._packed: tf.Tensor | None = None
        self._own_dtypes = [
            (parameter.weight.dtype.as_datatype_enum,) for parameter in self.layout.parameters
        ]
        # Cached zeros, keyed by (position or shape, dtype).
        self._zeros: dict[tuple[Any, int], tf.Tensor] = {}

    def packed(self, numbers: _step.Numbers) -> tf.Tensor:
        """Return the numbers as one tensor, cached until one of them changes."""
        if not tf.executing_eagerly():
            return _pack_in_graph(numbers)
        if numbers != self._numbers:
            self._packed = tf.constant(_pack(numbers), tf.float64)
            self._numbers = numbers
        return self._packed

    def with_zeros(
        self, gradients: Gradients, dtypes: tuple[tuple[int, ...], ...]
    ) -> list[tf.Tensor | tf.IndexedSlices | None]:
        """Replace missing gradients by zeros.

        The zeros have their variable's dtype, or, if all gradients present share another one,
        that dtype. So the dtypes do not depend on which gradients are missing.

        Args:
            gradients: a gradient or None for each variable.
            dtypes: as `_flatten` returns them.
        """
        given = {dtypes[i] for i in self.flagged} - {()}
        as_variables = all(dtypes[i] in ((), self._own_dtypes[i]) for i in self.flagged)
        uniform = given.pop() if len(given) == 1 and not as_variables else None
        filled = list(gradients)
        for i in self.flagged:
            if filled[i] is None:
                (dtype,) = uniform or self._own_dtypes[i]
                filled[i] = self._zeros_for(i, dtype)
        return filled

    def _zeros_for(self, i: int, dtype: int) -> tf.Tensor:
        zeros = self._zeros.get((i, dtype)) if tf.executing_eagerly() else None
        if zeros is None:
            shape = tuple(self.layout.parameters[i].weight.shape)
            zeros = tf.zeros(shape, tf.as_dtype(dtype))
            if tf.executing_eagerly() and math.prod(shape) <= KEPT_ZEROS:
                # Share one tensor between all variables of this shape.
                zeros = self._zeros.setdefault((shape, dtype), zeros)
                self._zeros[i, dtype] = zeros
        return zeros


# Not an attribute of the optimizer: TensorFlow would track it into checkpoints. Weak keys, so that
# no model is kept alive.
_program_inputs: "weakref.WeakKeyDictionary[Roster, _ProgramInputs]" = weakref.WeakKeyDictionary()


def inputs_of(step: Step) -> _ProgramInputs:
    """Return the step's variables as arguments, cached between steps."""
    inputs = _program_inputs.get(step.roster)
    if inputs is None or inputs.rate is not step.rate.variable:
        with tf.init_scope():
            inputs = _program_inputs[step.roster] = _ProgramInputs(step)
    return inputs


class _Latest(NamedTuple):
    """The latest program, and what it was called with: the next step usually fits it, too.

    Comparing with one set of arguments takes a tenth of the time of looking up a `_Key`.
    """

    plan: _step.Plan
    jit_compile: Any
    dtypes: list[int]
    program: "_Program"

    @classmethod
    def of(
        cls, step: Step, rate: tf.Tensor | None, gradients: Gradients, program: "_Program"
    ) -> "_Latest | None":
        """Return what to compare with, or None if it would take more than that.

        Args:
            step: the step that has been made.
            rate: None if the program reads the rate from the optimizer's variable.
            gradients: the gradients.
            program: the program that made the step.
        """
        # A constraint's settings may change without notice.
        if rate is not None or any(step.plan.constraints) or not are_eager(gradients):
            return None
        return cls(
            step.plan, step.jit_compile, list(map(dtype_number_of_eager, gradients)), program
        )

    def fits(self, step: Step, rate: Any, gradients: Gradients) -> bool:
        """Whether a step can call the same program, with all gradients and the rate's variable."""
        return (
            step.plan is self.plan
            and step.jit_compile == self.jit_compile
            and rate is step.rate.source
            and are_eager(gradients)
            and list(map(dtype_number_of_eager, gradients)) == self.dtypes
        )


class _Key(NamedTuple):
    """What a compiled step depends on, besides its variables and numbers."""

    plan: _step.Plan
    constraints: tuple[Hashable, ...]
    # The dtype numbers of each gradient's tensors: none if it is missing, one if it is dense, two
    # (rows and ids) if it is sparse.
    gradient_dtypes: tuple[tuple[int, ...], ...]
    # Whether gradients may be missing, with a flag for each.
    flagged: bool
    # None if the rate is the optimizer's variable, which the step reads itself.
    rate_dtype: tf.DType | None
    # Whether XLA compiles it. With sparse gradients it is an ordinary graph by default: as fast,
    # and XLA would recompile for each number of ids.
    xla: bool
    # What to sample; None for the step itself.
    watched: Watched | None = None


def run_compiled(step: Step, gradients: Gradients, rate: Any) -> bool:
    """Make the step as one compiled call; return False, with nothing changed, if that fails."""
    inputs = inputs_of(step)
    latest = inputs.latest
    if latest is not None and latest.fits(step, rate, gradients):
        latest.program.call(inputs, [inputs.packed(step.numbers), *gradients])
        return True
    key, given = _prepared(step, inputs, gradients, rate)
    program = inputs.programs.get(key)
    if isinstance(program, _Program):
        program.call(inputs, given)
        key_rate = None if key.rate_dtype is None else given[-1]
        inputs.latest = _Latest.of(step, key_rate, gradients, program)
        return True
    if program is not None and step.jit_compile == "auto":
        return False
    return _call_first(step, inputs, key, given) is not None


def sampled_compiled(step: Step, watch: Watch, gradients: Gradients, rate: Any) -> tf.Tensor | None:
    """Return the table after a step that is sampled, or None if that cannot be compiled."""
    inputs = inputs_of(step)
    key, given = _prepared(step, inputs, gradients, rate)
    key = key._replace(watched=watch.watched)
    given.append(read(watch.table))
    program = inputs.programs.get(key)
    if isinstance(program, str):
        return None
    if program is None:
        results = _call_first(step, inputs, key, given)
        return None if results is None else results[0]
    return program.call(inputs, given)[0]


def _prepared(
    step: Step, inputs: _ProgramInputs, gradients: Gradients, rate: Any
) -> tuple[_Key, list[tf.Tensor]]:
    """Return the key of the step's program, and its arguments except the variables."""
    plan = step.plan
    if rate is step.rate.source:
        rate = None
    else:
        # By default a Python float would become a float32 tensor.
        rate = tf.convert_to_tensor(rate, tf.float64 if isinstance(rate, float) else None)
    flags: list[tf.Tensor] = []
    arguments, dtypes = _flatten(gradients)
    if () in dtypes:
        there = [dtypes[i] != () for i in inputs.flagged]
        # Depends only on which gradients are present.
        if any(there) and not all(there):
            yes, no = _flags()
            flags = [yes if is_there else no for is_there in there]
            arguments, dtypes = _flatten(inputs.with_zeros(gradients, dtypes))
    key = _Key(
        plan,
        tuple(repr(c.get_config()) for c in plan.constraints if c is not None),
        dtypes,
        bool(flags),
        None if rate is None else rate.dtype,
        step.jit_compile is True or not any(len(two) == 2 for two in dtypes),
    )
    given = [inputs.packed(step.numbers), *flags, *arguments]
    if rate is not None:
        given.append(rate)
    return key, given


def _call_first(
    step: Step, inputs: _ProgramInputs, key: _Key, given: list[tf.Tensor]
) -> list[tf.Tensor] | None:
    """Call a program that the optimizer has not called before, compiling it if necessary.

    The program is cached only after the call has succeeded, so that an interrupted step is
    retried.

    Returns: its results; None if it cannot be compiled, with nothing changed.
    """
    start = time.perf_counter()
    program = None
    shared_key = _shared_key(inputs, key)
    try:
        program = _programs.get(shared_key)
        is_new = program is None
        if program is None:
            with tf.init_scope(), tf.device(None):
                program = _Program(inputs, key)
        results = program.call(inputs, given)
    except _compilation.NotTraceableError as error:
        if step.jit_compile is True:
            raise error.cause from None
        _remember(inputs.programs, key, str(error))
        _log.debug("%s runs op by op: %s", step.name, error)
        return None
    except NOT_COMPILABLE as error:
        if not key.xla:
            raise
        # XLA compiles before it runs anything, so the variables are unchanged.
        if step.jit_compile is True:
            _compilation.raise_not_compilable(f"XLA does not take it ({error})")
        _remember(inputs.programs, key, f"XLA does not take it ({error.message})")
        _log.debug("%s runs op by op: %s", step.name, error)
        return None
    if is_new:
        with _programs_lock:
            _remember(_programs, shared_key, program)
        seconds = time.perf_counter() - start
        if seconds > _compilation.LONG_COMPILATION:
            _log.info("%s compiled its step in %.1f s", step.name, seconds)
    _remember(inputs.programs, key, program)
    return results


def why_not_compiled(step: Step) -> str | None:
    """Return why no step with these settings was compiled, or None if one was or none was made."""
    programs = [
        program
        for key, program in inputs_of(step).programs.items()
        if key.plan == step.plan and key.watched is None
    ]
    reasons = [program for program in programs if isinstance(program, str)]
    return reasons[-1] if reasons and len(reasons) == len(programs) else None


# The programs of all optimizers.
_programs: "OrderedDict[Hashable, _Program]" = OrderedDict()
_programs_lock = threading.Lock()


def _remember(cache: dict[Any, Any], key: Hashable, value: Any) -> None:
    if len(cache) >= CAPACITY:
        cache.pop(next(iter(cache)))
    cache[key] = value


def _shared_key(inputs: _ProgramInputs, key: _Key) -> Hashable:
    """Return what a program depends on, without anything specific to one optimizer."""
    kinds = tuple(c if c is None else type(c) for c in key.plan.constraints)
    plan = key.plan._replace(constraints=kinds)
    return key._replace(plan=plan), inputs.layout, keras.config.floatx()


class _Program:
    """A whole step, traced once, that takes its variables as arguments.

    `tf.function` would inspect every argument on every call, which takes milliseconds with many
    variables; a concrete function does not.
    """

    def __init__(self, inputs: _ProgramInputs, key: _Key) -> None:
        layout = inputs.layout
        like = _step.like_numbers(len(key.plan.groups), 0.0)
        flagged = inputs.flagged if key.flagged else []

        def whole_step(arguments: list[tf.Tensor], variables: list[tf.Variable]) -> list[tf.Tensor]:
            rest = iter(arguments)
            packed = next(rest)
            flags = {i: next(rest) for i in flagged}
            gradients = [
                _gradient_of([next(rest) for _ in dtypes]) for dtypes in key.gradient_dtypes
            ]
            owners = iter(variables)
            state: StepVariables = tf.nest.map_structure(
                lambda spec: None if spec is None else next(owners), layout
            )
            rate = read(state.rate) if key.rate_dtype is None else next(rest)
            inputs = (
                state,
                _compilation.with_traceable_transforms(key.plan, contextlib.nullcontext),
                tf.nest.pack_sequence_as(like, tf.unstack(packed)),
                rate,
                gradients,
            )
            if key.watched is not None:
                return [statistics_of_step(*inputs, key.watched, next(rest), flags=flags)]
            trace_once = traced_once if key.xla else None
            write(changes_of_step(*inputs, flags=flags, trace_once=trace_once))
            return []

        specs = [tf.TensorSpec([len(_pack(like))], tf.float64)]
        specs += [tf.TensorSpec([], tf.bool) for _ in flagged]
        for owners, dtypes in zip(layout.parameters, key.gradient_dtypes, strict=True):
            shape = owners.weight.shape
            # The number of rows may vary.
            shapes = [[None, *shape[1:]], [None]] if len(dtypes) == 2 else [shape]
            specs += [
                tf.TensorSpec(shape, tf.as_dtype(dtype))
                for shape, dtype in zip(shapes, dtypes, strict=False)
            ]
        if key.rate_dtype is not None:
            specs.append(tf.TensorSpec([], key.rate_dtype))
        if key.watched is not None:
            specs.append(tf.TensorSpec(key.watched.shape, key.watched.dtype))
        function = tf.function(whole_step, jit_compile=key.xla, autograph=False)
        # Variables passed to the function become arguments; others would be captured.
        self._run = Caller(function.get_concrete_function(specs, inputs.variables))

    def call(self, inputs: _ProgramInputs, given: list[tf.Tensor]) -> list[tf.Tensor]:
        """Make the step, or return the table of its statistics.

        Args:
            inputs: the variables, as arguments.
            given: numbers, flags, gradients, rate and table.
        """
        if inputs.device is None and tf.executing_eagerly() and is_on_default_device():
            return self._call(inputs, given)
        # Unlike an op on a variable, a compiled call is not placed with its variables.
        with tf.device(inputs.device):
            return self._call(inputs, given)

    def _call(self, inputs: _ProgramInputs, given: list[tf.Tensor]) -> list[tf.Tensor]:
        return self._run(given, inputs.variables, inputs.handles)


def _flatten(gradients: Gradients) -> tuple[list[tf.Tensor], tuple[tuple[int, ...], ...]]:
    """Return the tensors of all gradients in a flat list, and the dtypes of each gradient."""
    tensors: list[tf.Tensor] = []
    dtypes: list[tuple[int, ...]] = []
    for g in gradients:
        if isinstance(g, EagerTensor):
            # Comparing dtypes as Python objects takes as long as a small step.
            tensors.append(g)
            dtypes.append((dtype_number_of_eager(g),))
        else:
            parts = () if g is None else (g.values, g.indices) if is_sparse(g) else (g,)
            # The user may have built the `IndexedSlices` from NumPy arrays.
            converted = [tf.convert_to_tensor(part) for part in parts]
            tensors += converted
            dtypes.append(tuple(part.dtype.as_datatype_enum for part in converted))
    return tensors, tuple(dtypes)


def _gradient_of(tensors: list[tf.Tensor]) -> tf.Tensor | tf.IndexedSlices | None:
    if not tensors:
        return None
    return tf.IndexedSlices(*tensors) if len(tensors) == 2 else tensors[0]


@functools.cache
def _eager_flags() -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(True), tf.constant(False)


def _flags() -> tuple[tf.Tensor, tf.Tensor]:
    """Return the flags of a gradient that is present and of one that is missing."""
    if tf.executing_eagerly():
        return _eager_flags()
    return tf.constant(True), tf.constant(False)


def _pack(numbers: _step.Numbers) -> list[float]:
    """Return the numbers of a step as a flat list, to be passed as one tensor."""
    return [float(x) for x in tf.nest.flatten(numbers)]


def _pack_in_graph(numbers: _step.Numbers) -> tf.Tensor:
    """Return the numbers of a step, of which those of groups may be tensors, as one tensor."""
    flat = tf.nest.flatten(numbers)
    if not any(map(tf.is_tensor, flat)):
        return tf.constant(_pack(numbers), tf.float64)
    # A cast would round a Python float to float32.
    return tf.stack(
        [tf.cast(x, tf.float64) if tf.is_tensor(x) else tf.constant(x, tf.float64) for x in flat]
    )


def _placement(step: Step) -> str:
    """Return the device that all variables are on.

    Raises: UnimplementedError if they are on several, or XLA does not support them.
    """
    owners = flat_without_none(*step.roster.parameters)
    dtypes = {_step.dtype_of(v) for v in owners}
    if not dtypes <= FLOATING_DTYPES:
        raise tf.errors.UnimplementedError(
            None, None, f"there are variables of dtype {sorted(dtypes - FLOATING_DTYPES)}"
        )
    owners += flat_without_none(step.roster.counters, [step.rate.variable])
    if any(map(is_distributed, owners)):
        raise tf.errors.UnimplementedError(None, None, STRATEGY_REASON)
    devices = {tf_variable(v).device for v in owners}
    if len(devices) > 1:
        raise tf.errors.UnimplementedError(None, None, f"its variables are on {sorted(devices)}")
    device = devices.pop()
    if not has_xla(device):
        raise tf.errors.UnimplementedError(None, None, f"there is no XLA compiler for {device}")
    return device
