"""How a step runs on TensorFlow: op by op, as one XLA-compiled call, or in a replica."""

import contextlib
import functools
import logging
import math
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.config import is_op_determinism_enabled
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.ops.gen_resource_variable_ops import read_variable_op

from keras_rmsprop._execution import _interface, _plain, _sparse
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._plain import FLOATING, changes, in_stateless_scope
from keras_rmsprop._execution._traced_once import traced_once
from keras_rmsprop._math import _step
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._variables._roster import (
    CounterVariables,
    ParameterVariables,
    ProgressVariables,
    Roster,
    existing,
)

Gradients = Sequence[tf.Tensor | tf.IndexedSlices | None]
# Variables with their new values, or with new values of some of their rows.
Pairs = list[tuple[Any, tf.Tensor | tf.IndexedSlices]]

# Whether a gradient can come as the rows of a table.
GIVES_ROWS = True
# Whether a step in a graph changes variables while Python is elsewhere.
STEPS_IN_GRAPHS = True
is_rows = _sparse.is_sparse
# AutoGraph would rewrite the whole package on the first trace, to no effect but seconds lost: it
# branches on no tensor.
as_written = tf.autograph.experimental.do_not_convert
# What is done in this context is done now, not by the graph that is being traced.
outside_trace = tf.init_scope
# What serves here as it does by default.
is_recorded = _interface.is_recorded

_log = logging.getLogger(__name__)

# How many programs are kept for all optimizers together, and how many an optimizer keeps for
# itself, one for each set of options and of gradients' dtypes that it has met. The one made
# first goes first, so that memory stays bounded.
CAPACITY = 32

# In a graph of the user's, a step is a compiled call of its own only where it wins by far what
# it costs the first batch: at most so many tensors, of so many elements in the mean. Such a layer
# gains a factor of two to three and compiles in a tenth of a second. Three such layers take 0.3 s,
# half as long as all else in a first batch; small tensors gain next to nothing.
NESTED_ELEMENTS = 2**18
NESTED_TENSORS = 2

# A compilation that takes more seconds than this is logged at INFO.
LONG_COMPILATION = 1.0

# Zeros in the place of missing gradients are kept up to this number of elements.
KEPT_ZEROS = 2**16

# What TensorFlow raises when a graph, a dtype or a device is beyond XLA.
_NOT_COMPILABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.NotFoundError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)

_OF_A_STRATEGY = "a distribution strategy runs the step or holds its variables"


def run(step: Step, gradients: Gradients) -> None:
    """Make one step."""
    in_replica = tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None
    # A stateless scope keeps whole values, and a sum over replicas is dense.
    keeps_rows = not (in_replica or in_stateless_scope())
    compiles = _is_to_compile(step, gradients)
    gradients, checks = _take_rows(step, gradients, keeps_rows)
    if in_replica:
        with tf.control_dependencies(checks):
            _run_in_replica(step, gradients)
        return
    rate = step.rate.ask()
    with tf.control_dependencies(checks) if checks else contextlib.nullcontext():
        if not compiles or not _run_compiled(step, gradients, rate):
            _run_op_by_op(step, gradients, rate)


def read(variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the variable's current value; in a replica, that of the replica's own copy."""
    return tf.convert_to_tensor(variable)


def write(pairs: Iterable[tuple[Any, tf.Tensor | tf.IndexedSlices]]) -> None:
    """Assign each value to its variable, or the rows of it that are given.

    Executing eagerly, all or none of them are assigned.
    """
    if not tf.executing_eagerly() or in_stateless_scope():
        for variable, value in pairs:
            amount = None if in_stateless_scope() else _subtracted(variable, value)
            if amount is None:
                _sparse.write(variable, value)
            else:
                _sparse.tf_variable(variable).assign_sub(amount)
        return
    places = [(_Place.of(variable, value), value) for variable, value in pairs]
    _plain.write_whole(places, _Place.keep, lambda place, value: _sparse.write(place[0], value))


def _subtracted(variable: Any, value: tf.Tensor | tf.IndexedSlices) -> tf.Tensor | None:
    """What a graph's value takes from the variable's own value, None if it is anything else.

    The same as one operation in place of three, and with the same bits; in a graph of small
    tensors each operation costs more than its arithmetic.
    """
    if _sparse.is_sparse(value) or value.op.type != "Sub" or value.consumers():
        return None
    if _is_distributed(variable):
        return None
    minuend = value.op.inputs[0].op
    graph = value.graph
    if minuend.type != "ReadVariableOp" or not hasattr(graph, "capture"):
        return None
    handle = graph.capture(_sparse.tf_variable(variable).handle)
    return value.op.inputs[1] if minuend.inputs[0].op is handle.op else None


class _Place(NamedTuple):
    """What an assignment overwrites."""

    variable: Any
    # Which rows; None for all.
    ids: tf.Tensor | None

    @classmethod
    def of(cls, variable: Any, value: tf.Tensor | tf.IndexedSlices) -> "_Place":
        return cls(variable, value.indices if _sparse.is_sparse(value) else None)

    def keep(self) -> tf.Tensor | tf.IndexedSlices:
        """Return what is there now; TensorFlow's tensors do not change when a variable does."""
        variable = _sparse.tf_variable(self.variable)
        if self.ids is not None:
            return tf.IndexedSlices(tf.gather(variable, self.ids), self.ids)
        if _is_distributed(variable):
            return variable.read_value()
        return read_variable_op(variable.handle, variable.dtype)


def copy(value: tf.Tensor) -> tf.Tensor:
    """Return the value; TensorFlow's tensors cannot change."""
    return value


def shape_of(gradient: Any) -> tuple[int | None, ...]:
    """Return the gradient's shape, with None where it is not known yet."""
    if isinstance(gradient, EagerTensor):
        # Without the detour over TensorShape.
        return gradient._shape_tuple()
    if _sparse.is_sparse(gradient):
        return _sparse.shape_of(gradient)
    if not hasattr(gradient, "shape"):
        # Keras takes lists and numbers as well.
        gradient = tf.convert_to_tensor(gradient)
    return tuple(gradient.shape)


def dense(gradient: Any, variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the gradient as one value per weight, rows of equal ids summed."""
    if isinstance(gradient, EagerTensor):
        return gradient
    if _sparse.is_sparse(gradient):
        gradient, check = _sparse.checked(gradient, variable)
        with tf.control_dependencies([] if check is None else [check]):
            return _sparse.densify(gradient, variable.shape)
    if not isinstance(gradient, tf.Tensor):
        # Keras takes NumPy's arrays, lists and numbers as well.
        has_dtype = hasattr(gradient, "dtype")
        gradient = tf.convert_to_tensor(gradient, None if has_dtype else variable.dtype)
        return gradient if gradient.dtype.is_floating else tf.cast(gradient, variable.dtype)
    if gradient.shape.is_fully_defined():
        return gradient
    # Otherwise a smaller one would be broadcast, or be taken for something beyond XLA.
    return tf.ensure_shape(gradient, variable.shape)


class _State(NamedTuple):
    """The variables that a step reads and writes, or something in the place of each."""

    parameters: Sequence[ParameterVariables]
    counters: CounterVariables
    progress: Sequence[ProgressVariables | None]
    # None for a schedule or callable, whose rate a step is given.
    rate: Any

    @classmethod
    def of(cls, step: Step) -> "_State":
        roster = step.roster
        return cls(roster.parameters, roster.counters, roster.progress, step.rate.variable)


def _take_rows(
    step: Step, gradients: Gradients, keeps_rows: bool
) -> tuple[Gradients, list[tf.Operation]]:
    """Check gradients that are rows, and sum them up where they are of no use as rows.

    Returns: the gradients, and the operations that must succeed before anything is written.
    """
    if not any(map(_sparse.is_sparse, gradients)):
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
        if _sparse.is_sparse(g):
            g, check = _sparse.checked(g, owners.weight)
            checks += [] if check is None else [check]
            if progress is None or not keeps_rows:
                g = _sparse.densify(g, owners.weight.shape)
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
        _plain.run_with_hook(step, gradients, rate, read, _sparse.write)
    else:
        write(_computed(step, gradients, rate))


def _computed(step: Step, gradients: Gradients, rate: Any) -> Pairs:
    """Compute one step op by op."""
    return _changes_of_step(
        _State.of(step),
        step.plan,
        step.numbers,
        read(rate) if isinstance(rate, keras.Variable) else rate,
        gradients,
        hook=None if step.hook is None else step.hook.update,
    )


def _changes_of_step(
    state: _State,
    plan: _step.Plan,
    numbers: _step.Numbers,
    rate: Any,
    gradients: Gradients,
    *,
    hook: _step.Update | None = None,
    flags: dict[int, tf.Tensor] | None = None,
    nest: _step.Nest | None = None,
) -> Pairs:
    """Run one step and return each variable that changes with its new value or rows."""
    tables = {
        i: _sparse.open_table(
            numbers.coefficients, owners, progress, gradient, _sparse.is_inside_xla()
        )
        for i, (owners, progress, gradient) in enumerate(
            zip(state.parameters, state.progress, gradients, strict=True)
        )
        if progress is not None and gradient is not None
    }
    before = [
        # A table without a gradient stays as it is and need not be read: that may be a copy.
        _NOTHING if progress is not None else p.read(read)
        for p, progress in zip(state.parameters, state.progress, strict=True)
    ]
    owners = list(state.parameters)
    for i, table in tables.items():
        before[i] = table.parameter
    counters = state.counters.read(read)
    after, counted = _step.step(
        plan,
        numbers,
        counters,
        rate,
        before,
        [tables[i].gradient if i in tables else g for i, g in enumerate(gradients)],
        hook,
        {i: table.share for i, table in tables.items()},
        flags,
        nest,
    )
    made = counted.calls - counters.calls
    pairs: Pairs = []
    for i, table in tables.items():
        pairs += _sparse.close_table(
            plan.form, numbers.coefficients, table, after[i], counters.calls + 1, made
        )
        owners[i] = _NO_VARIABLES
        before[i] = after[i] = _NOTHING
    return pairs + changes([*owners, state.counters], [*before, counters], [*after, counted])


_NOTHING = Parameter(None)
_NO_VARIABLES = ParameterVariables(None)


def _is_to_compile(step: Step, gradients: Gradients) -> bool:
    """Whether this step is to run as one compiled call.

    It depends on the configuration and the saved state only, never on what the process did
    before: otherwise a resumed run would round differently from one that was not stopped.

    Raises: ValueError if the user insists and it cannot.
    """
    if step.mode is False or _sparse.is_inside_xla():
        return False
    obstacle = _obstacle(step)
    if obstacle is None and (step.mode is True or _gains_by_compiling(step, gradients)):
        obstacle = _bound_to(step).obstacle
        if obstacle is None:
            return True
    if obstacle is not None and step.mode is True:
        _plain.refuse(obstacle)
    return False


def _obstacle(step: Step) -> str | None:
    """Why this step cannot be compiled, as far as that can change from step to step."""
    if tf.distribute.has_strategy() or _is_distributed(step.roster.counters.calls._value):
        return _OF_A_STRATEGY
    if tf.config.functions_run_eagerly():
        return "`tf.config.run_functions_eagerly` is on"
    if is_op_determinism_enabled():
        return "op determinism is on"
    if in_stateless_scope():
        return "the step is made in a stateless scope"
    return _plain.why_op_by_op(step)


def _gains_by_compiling(step: Step, gradients: Gradients) -> bool:
    if tf.executing_eagerly():
        # One-step uses need not pay for a compilation.
        return _has_stepped(step)
    shapes = step.roster.shapes
    if len(shapes) > NESTED_TENSORS or any(map(_sparse.is_sparse, gradients)):
        # A step with rows would be the same graph again.
        return False
    elements = sum(tf.TensorShape(shape).num_elements() for shape in shapes)
    return bool(elements >= NESTED_ELEMENTS * len(shapes))


class _Bound:
    """An optimizer's variables as arguments of compiled programs, with what it has called."""

    def __init__(self, step: Step) -> None:
        self.calls: dict[_Key, _Program | None] = {}
        self.obstacle: str | None = None
        try:
            device = _placement(step)
        except tf.errors.UnimplementedError as error:
            self.obstacle = error.message
            _log.debug("%s runs op by op: %s", step.name, error.message)
            return
        # The default device is not named, so that a graph can be exported to another machine.
        self.device = None if device == _default_device() else device
        state = tf.nest.map_structure(
            lambda v: None if v is None else _sparse.tf_variable(v), _State.of(step)
        )
        self.variables = [v for v in tf.nest.flatten(state) if v is not None]
        self.handles = [v.handle for v in self.variables]
        self.layout: _State = tf.nest.map_structure(
            lambda v: None if v is None else tf.TensorSpec(v.shape, v.dtype), state
        )
        # The variables whose gradients may be missing without another program: not the tables,
        # and none without slots, such as float8 scales.
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
        # Kept zeros by the position of a variable or by shape, and by dtype.
        self._zeros: dict[tuple[Any, int], tf.Tensor] = {}

    def packed(self, numbers: _step.Numbers) -> tf.Tensor:
        """The numbers as one tensor, made anew only where one has changed."""
        if not tf.executing_eagerly():
            return tf.constant(_pack(numbers), tf.float64)
        if numbers != self._numbers:
            self._packed = tf.constant(_pack(numbers), tf.float64)
            self._numbers = numbers
        return self._packed

    def with_zeros(
        self, gradients: Gradients, dtypes: tuple[tuple[int, ...], ...]
    ) -> list[tf.Tensor | tf.IndexedSlices | None]:
        """Put zeros in the place of missing gradients.

        They take their variable's dtype, like gradients, or that of the others where those come
        in one that is not their variables'. So the dtypes are the same whichever are missing.

        Args:
            gradients: a gradient or None for each variable.
            dtypes: as `_flatten` gives them.
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
                # One serves all of its shape.
                zeros = self._zeros.setdefault((shape, dtype), zeros)
                self._zeros[i, dtype] = zeros
        return zeros


# They live here and not in an attribute, because TensorFlow would track them into checkpoints,
# and they must not keep a model alive.
_bound: "weakref.WeakKeyDictionary[Roster, _Bound]" = weakref.WeakKeyDictionary()


def _bound_to(step: Step) -> _Bound:
    bound = _bound.get(step.roster)
    if bound is None:
        with tf.init_scope():
            bound = _bound[step.roster] = _Bound(step)
    return bound


class _Key(NamedTuple):
    """What a compiled step depends on beside its variables and the numbers that it is given."""

    plan: _step.Plan
    constraints: tuple[Hashable, ...]
    # The dtypes of each gradient's tensors, as TensorFlow numbers them: none, one, or two where
    # it is rows and their ids.
    gradient_dtypes: tuple[tuple[int, ...], ...]
    # Whether only a flag for each gradient says if it is there.
    flagged: bool
    # None where the rate is the optimizer's variable, which the step reads itself.
    rate_dtype: tf.DType | None
    # Whether XLA compiles it. With rows of tables it is an ordinary graph by default: as fast,
    # and XLA would compile again for each number of ids.
    xla: bool


def _run_compiled(step: Step, gradients: Gradients, rate: Any) -> bool:
    """Make the step as one compiled call; return False, nothing done, if there is no way."""
    bound, plan = _bound_to(step), step.plan
    if rate is step.rate.source:
        rate = None
    else:
        # By itself a Python float would become a float32 tensor.
        rate = tf.convert_to_tensor(rate, tf.float64 if isinstance(rate, float) else None)
    flags: list[tf.Tensor] = []
    arguments, dtypes = _flatten(gradients)
    if () in dtypes:
        there = [dtypes[i] != () for i in bound.flagged]
        # The choice follows from the set of gradients alone.
        if any(there) and not all(there):
            yes, no = _flags()
            flags = [yes if is_there else no for is_there in there]
            arguments, dtypes = _flatten(bound.with_zeros(gradients, dtypes))
    key = _Key(
        plan,
        tuple(repr(c.get_config()) for c in plan.constraints if c is not None),
        dtypes,
        bool(flags),
        None if rate is None else rate.dtype,
        step.mode is True or not any(len(two) == 2 for two in dtypes),
    )
    given = [bound.packed(step.numbers), *flags, *arguments]
    if rate is not None:
        given.append(rate)
    given += bound.handles
    program = bound.calls.get(key)
    if program is not None:
        program.call(bound.device, given)
        return True
    if key in bound.calls and step.mode == "auto":
        return False
    return _call_first(step, bound, key, given)


def _call_first(step: Step, bound: _Bound, key: _Key, given: list[tf.Tensor]) -> bool:
    """Call a program that the optimizer has not called yet, and compile it if need be.

    It is remembered only once that has succeeded: whatever stops it, the next step tries again.
    """
    start = time.perf_counter()
    program = None
    shared_key = _shared_key(bound, key)
    try:
        program = _programs.get(shared_key)
        is_new = program is None
        if program is None:
            with tf.init_scope(), tf.device(None):
                program = _Program(bound, key, step.numbers)
        program.call(bound.device, given)
    except _NOT_COMPILABLE as error:
        if not key.xla:
            raise
        # XLA compiles before it runs anything, so the variables are as they were.
        if step.mode is True:
            _plain.refuse(f"XLA does not take it ({error})")
        _remember(bound.calls, key, None)
        _log.debug("%s runs op by op: %s", step.name, error)
        return False
    if is_new:
        with _programs_lock:
            _remember(_programs, shared_key, program)
        seconds = time.perf_counter() - start
        if seconds > LONG_COMPILATION:
            _log.info("%s compiled its step in %.1f s", step.name, seconds)
    _remember(bound.calls, key, program)
    return True


# The programs of all optimizers: those of one serve all others of the same shapes and options.
_programs: "OrderedDict[Hashable, _Program]" = OrderedDict()
_programs_lock = threading.Lock()


def _remember(cache: dict[Any, Any], key: Hashable, value: Any) -> None:
    if len(cache) >= CAPACITY:
        cache.pop(next(iter(cache)))
    cache[key] = value


def _shared_key(bound: _Bound, key: _Key) -> Hashable:
    """What a program depends on, without anything that belongs to one optimizer."""
    kinds = tuple(c if c is None else type(c) for c in key.plan.constraints)
    plan = key.plan._replace(constraints=kinds)
    return key._replace(plan=plan), bound.layout, keras.config.floatx()


class _Program:
    """A whole step, traced once; the variables that it is made on are arguments of the call.

    The polymorphic wrapper of `tf.function` would look at every argument on every call, which
    costs milliseconds with many variables.
    """

    def __init__(self, bound: _Bound, key: _Key, numbers: _step.Numbers) -> None:
        layout = bound.layout
        flagged = bound.flagged if key.flagged else []

        def whole_step(arguments: list[tf.Tensor], variables: list[tf.Variable]) -> None:
            rest = iter(arguments)
            packed = next(rest)
            flags = {i: next(rest) for i in flagged}
            gradients = [
                _gradient_of([next(rest) for _ in dtypes]) for dtypes in key.gradient_dtypes
            ]
            owners = iter(variables)
            state: _State = tf.nest.map_structure(
                lambda spec: None if spec is None else next(owners), layout
            )
            rate = read(state.rate) if key.rate_dtype is None else next(rest)
            write(
                _changes_of_step(
                    state,
                    key.plan,
                    _unpack(numbers, packed),
                    rate,
                    gradients,
                    flags=flags,
                    nest=traced_once if key.xla else None,
                )
            )

        specs = [tf.TensorSpec([len(_pack(numbers))], tf.float64)]
        specs += [tf.TensorSpec([], tf.bool) for _ in flagged]
        for owners, dtypes in zip(layout.parameters, key.gradient_dtypes, strict=True):
            shape = owners.weight.shape
            # The number of rows is free.
            shapes = [[None, *shape[1:]], [None]] if len(dtypes) == 2 else [shape]
            specs += [
                tf.TensorSpec(shape, tf.as_dtype(dtype))
                for shape, dtype in zip(shapes, dtypes, strict=False)
            ]
        if key.rate_dtype is not None:
            specs.append(tf.TensorSpec([], key.rate_dtype))
        function = tf.function(whole_step, jit_compile=key.xla, autograph=False)
        # Variables that a traced function is given become arguments, those that it finds
        # elsewhere would be captured.
        self._concrete = function.get_concrete_function(specs, bound.variables)
        self._captured = self._concrete.captured_inputs

    def call(self, device: str | None, given: list[tf.Tensor]) -> None:
        """Make the step.

        Args:
            device: where, None for the default device.
            given: numbers, flags, gradients, rate and the handles of the variables.
        """
        if device is None and tf.executing_eagerly() and not context.context().device_name:
            self._call(given)
            return
        # Unlike an op on a variable, a compiled call does not go to where its variables are.
        with tf.device(device):
            self._call(given)

    def _call(self, given: list[tf.Tensor]) -> None:
        # The public call would record the step on any tape that watches the weights, and give
        # out every intermediate result for a gradient that nobody can take of an assignment.
        function = self._concrete._inference_function
        if tf.executing_eagerly():
            # Without the checks of each argument against the function's definition.
            context.context().call_function(function.name, [*given, *self._captured], 0)
        else:
            function.call_flat(*given, *self._captured)


def _flatten(gradients: Gradients) -> tuple[list[tf.Tensor], tuple[tuple[int, ...], ...]]:
    """The tensors of all gradients in a row, and the dtypes of each gradient's."""
    tensors: list[tf.Tensor] = []
    dtypes: list[tuple[int, ...]] = []
    for g in gradients:
        if isinstance(g, EagerTensor):
            # Comparing types and dtypes as Python objects costs as much as a small step.
            tensors.append(g)
            dtypes.append((g._datatype_enum(),))
        else:
            parts = () if g is None else (g.values, g.indices) if _sparse.is_sparse(g) else (g,)
            # Rows may have been put together from NumPy's arrays.
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
    """What says that a gradient is there, and that it is not."""
    if tf.executing_eagerly():
        return _eager_flags()
    return tf.constant(True), tf.constant(False)


def _pack(numbers: _step.Numbers) -> list[float]:
    """The numbers of a step in a row, so that they travel as one tensor."""
    return [float(x) for x in tf.nest.flatten(numbers)]


def _unpack(like: _step.Numbers, packed: tf.Tensor) -> _step.Numbers:
    return tf.nest.pack_sequence_as(like, tf.unstack(packed))


def _has_stepped(step: Step) -> bool:
    """Whether `iterations` is above zero, asked without a look at tapes, scopes and strategies."""
    counter = step.roster.counters.calls._value
    calls = read_variable_op(counter.handle, counter.dtype).numpy()
    return bool(calls >= step.plan.accumulation_steps)


def _placement(step: Step) -> str:
    """Return the device that all variables are on.

    Raises: UnimplementedError if there are several, or XLA cannot take the variables.
    """
    owners = existing(*step.roster.parameters)
    dtypes = {_step.dtype_of(v) for v in owners}
    if not dtypes <= FLOATING:
        raise tf.errors.UnimplementedError(
            None, None, f"there are variables of dtype {sorted(dtypes - FLOATING)}"
        )
    owners += existing(step.roster.counters, [step.rate.variable])
    if any(map(_is_distributed, owners)):
        raise tf.errors.UnimplementedError(None, None, _OF_A_STRATEGY)
    devices = {_sparse.tf_variable(v).device for v in owners}
    if len(devices) > 1:
        raise tf.errors.UnimplementedError(None, None, f"its variables are on {sorted(devices)}")
    device = devices.pop()
    if not _has_xla(device):
        raise tf.errors.UnimplementedError(None, None, f"there is no XLA compiler for {device}")
    return device


@functools.cache
def _default_device() -> str:
    """The device of what is not told where to go."""
    with tf.init_scope(), tf.device(None):
        return tf.zeros(()).device


@functools.cache
def _has_xla(device: str) -> bool:
    """Whether XLA compiles for the device; a step nested in a graph would find out too late."""
    try:
        with tf.device(device):
            tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
    except _NOT_COMPILABLE:
        return False
    return True


def _run_in_replica(step: Step, gradients: Gradients) -> None:
    """Make one step in a replica of a distribution strategy.

    Every replica sums the gradients of all, computes the same results from its own copies, and
    one merge call, without any condition around it, writes each copy.
    """
    replica = tf.distribute.get_replica_context()
    # Widened first: a sum can be beyond a half precision that holds each of its terms.
    given = [_step.widen(g) for g in gradients if g is not None]
    if step.plan.accumulation_steps > 1:
        # One tensor object in all replicas passes for a value that is summed already. Keras sums
        # what it has accumulated, which is each replica's own.
        given = list(map(tf.identity, given))
    sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
    summed = [None if g is None else next(sums) for g in gradients]
    pairs = _computed(step, summed, _rate_for_all_replicas(step))
    variables = [_sparse.tf_variable(variable) for variable, _ in pairs]

    def assign_copies(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda copy, new: copy.assign(new), args=(value,), group=False
            )

    _merge_call(assign_copies, [value for _, value in pairs])


def _rate_for_all_replicas(step: Step) -> Any:
    """Ask for the learning rate once a step: a callable may give a new one each time."""
    if step.rate.variable is not None and not step.rate.is_overridden:
        return step.rate.variable
    return _merge_call(lambda _: step.rate.ask())


def _merge_call(do: Callable[..., Any], *arguments: Any) -> Any:
    """Do something once for the replicas of this process, with the strategy and arguments."""
    return tf.__internal__.distribute.interim.maybe_merge_call(
        do, tf.distribute.get_strategy(), *arguments
    )


def _is_distributed(variable: keras.Variable | tf.Variable) -> bool:
    """Whether the variable has a copy in each replica of a distribution strategy."""
    return isinstance(_sparse.tf_variable(variable), tf.distribute.DistributedValues)


def swapping_strategy(strategy: Any, parameters: Sequence[ParameterVariables]) -> Any:
    """Return a strategy by which `SwapEMAWeights` can swap weights with wider averages."""
    is_mixed = any(p.average is not None and p.average.dtype != p.weight.dtype for p in parameters)
    if is_mixed and not isinstance(strategy, _BetweenDtypes):
        return _BetweenDtypes(strategy)
    return strategy


class _BetweenDtypes:
    """A distribution strategy that updates variables of one dtype by variables of another.

    `keras.callbacks.SwapEMAWeights` swaps weights and averages by sums of the two, through the
    optimizer's strategy. That needs one dtype, and it would round. Here the sums are those of the
    bits in the narrower dtype, which lose nothing.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.extended = _Extended(strategy.extended)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_strategy"], name)

    def __deepcopy__(self, _: Any) -> "_BetweenDtypes":
        return self


class _Extended:
    def __init__(self, extended: Any) -> None:
        self._extended = extended

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_extended"], name)

    def update(
        self, variable: Any, function: Callable[..., Any], args: Any = (), **options: Any
    ) -> Any:
        """Run the function of each copy of the variable and of the arguments' copies."""

        def on_copy(copy: Any, *others: Any, **named: Any) -> Any:
            dtypes = {copy.dtype, *(getattr(other, "dtype", copy.dtype) for other in others)}
            if len(dtypes) > 1:
                dtype = min(dtypes, key=lambda dtype: dtype.size)
                return function(*(_InDtype(one, dtype) for one in (copy, *others)), **named)
            return function(copy, *others, **named)

        return self._extended.update(variable, on_copy, args=args, **options)


class _InDtype:
    """A variable as one of another dtype, whose sums and differences are those of its bits."""

    def __init__(self, variable: tf.Variable, dtype: tf.DType) -> None:
        self._variable = variable
        self._dtype = dtype
        self._integer = {2: tf.int16, 4: tf.int32, 8: tf.int64}[dtype.size]

    def _bits(self) -> tf.Tensor:
        return tf.bitcast(tf.cast(self._variable, self._dtype), self._integer)

    def assign_add(self, other: "_InDtype") -> None:
        """Assign the sum."""
        self.assign(tf.bitcast(self._bits() + other._bits(), self._dtype))

    def __sub__(self, other: "_InDtype") -> tf.Tensor:
        return tf.bitcast(self._bits() - other._bits(), self._dtype)

    def assign(self, value: "tf.Tensor | _InDtype") -> None:
        """Assign a value of the common dtype, or that of a variable."""
        if isinstance(value, _InDtype):
            value = tf.cast(value._variable, self._dtype)
        self._variable.assign(tf.cast(value, self._variable.dtype))
