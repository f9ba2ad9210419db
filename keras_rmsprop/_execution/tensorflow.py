"""How a step runs on TensorFlow: op by op, as one XLA-compiled call, or in a replica."""

import functools
import logging
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.config import is_op_determinism_enabled
from tensorflow.python.framework.ops import EagerTensor
from tensorflow.python.ops import control_flow_util
from tensorflow.python.ops.gen_resource_variable_ops import read_variable_op

from keras_rmsprop import _sparse, _step
from keras_rmsprop._deferred import Progress
from keras_rmsprop._execution._plain import (
    FLOATING,
    changes,
    in_stateless_scope,
    run_with_hook,
    why_op_by_op,
)
from keras_rmsprop._rule import Parameter

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop
    from keras_rmsprop._roster import Roster

Gradients = Sequence[tf.Tensor | tf.IndexedSlices | None]

# Whether a gradient can come as the rows of a table.
GIVES_ROWS = True
# AutoGraph would rewrite the whole package on the first trace, to no effect but seconds lost: it
# branches on no tensor.
as_written = tf.autograph.experimental.do_not_convert
# What is done in this context is done now, not by the graph that is being traced.
outside_trace = tf.init_scope

_log = logging.getLogger(__name__)

# The compiled steps over each optimizer's variables. They live here and not in an attribute,
# because TensorFlow would track them into checkpoints, and they must not keep a model alive.
_compiled: "weakref.WeakKeyDictionary[Roster, dict[_Key, _CompiledStep | None]]" = (
    weakref.WeakKeyDictionary()
)

# How many compiled steps an optimizer keeps, one for each set of options and of variables
# with a gradient that it has met. Past that it starts afresh, so that memory stays bounded.
CAPACITY = 32

# What TensorFlow raises when a graph, a dtype or a device is beyond XLA.
_NOT_COMPILABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.NotFoundError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
)


def run(optimizer: "RMSprop", gradients: Gradients) -> None:
    """Make one step."""
    plan = optimizer._plan()
    if tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None:
        _run_in_replica(optimizer, plan, _all_dense(optimizer, gradients))
        return
    rate = optimizer._given_learning_rate()
    if in_stateless_scope():
        # The scope keeps whole values, not rows.
        gradients = _all_dense(optimizer, gradients)
    _check_constraints(optimizer, plan, gradients)
    if optimizer._update_hook() is not None:
        run_with_hook(optimizer, plan, gradients, rate, read, _sparse.write)
    elif not _runs_compiled(optimizer, plan, gradients) or not _run_compiled(
        optimizer, plan, gradients, rate
    ):
        write(_run_plainly(optimizer, plan, gradients, rate))


def read(variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the variable's current value; in a replica, that of the replica's own copy."""
    return tf.convert_to_tensor(variable)


def write(pairs: Sequence[tuple[Any, tf.Tensor | tf.IndexedSlices]]) -> None:
    """Assign each value to its variable, or the rows of it that are given."""
    for variable, value in pairs:
        _sparse.write(variable, value)


def copy(value: tf.Tensor) -> tf.Tensor:
    """Return the value; TensorFlow's tensors cannot change."""
    return value


def shape_of(gradient: Any) -> tuple[int | None, ...]:
    """Return the gradient's shape, with None where it is not known yet."""
    if isinstance(gradient, EagerTensor):
        # Without the detour over TensorShape.
        return gradient._shape_tuple()
    if _sparse.is_sparse(gradient) and gradient.shape.rank is None:
        return (None, *gradient.values.shape[1:])
    return tuple(gradient.shape)


def is_rows(gradient: Any) -> bool:
    """Whether a gradient is the rows of a table and their ids."""
    return _sparse.is_sparse(gradient)


def dense(gradient: Any, variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the gradient as one value per weight, rows of equal ids summed."""
    if isinstance(gradient, EagerTensor):
        return gradient
    if _sparse.is_sparse(gradient):
        return _sparse.densify(gradient, variable.shape)
    # Keras takes NumPy's arrays as well.
    return gradient if isinstance(gradient, tf.Tensor) else tf.convert_to_tensor(gradient)


class _State(NamedTuple):
    """The variables that a step reads and writes."""

    parameters: Sequence[Parameter]
    counters: _step.Counters
    progress: Sequence[Progress | None]

    @classmethod
    def of(cls, optimizer: "RMSprop") -> "_State":
        return cls(optimizer._parameters, optimizer._counters, optimizer._progress)


def _run_plainly(
    optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients, rate: Any
) -> list[tuple[Any, tf.Tensor | tf.IndexedSlices]]:
    return _changes_of_step(
        _State.of(optimizer),
        plan,
        optimizer._numbers(),
        read(rate) if isinstance(rate, keras.Variable) else rate,
        gradients,
        optimizer._update_hook(),
    )


def _changes_of_step(
    state: _State,
    plan: _step.Plan,
    numbers: _step.Numbers,
    rate: Any,
    gradients: Gradients,
    hook: _step.Update | None = None,
) -> list[tuple[Any, tf.Tensor | tf.IndexedSlices]]:
    """Run one step and return each variable that changes with its new value or rows."""
    tables = {
        i: _sparse.open_table(numbers.coefficients, owners, progress, gradient, _is_inside_xla())
        for i, (owners, progress, gradient) in enumerate(
            zip(state.parameters, state.progress, gradients, strict=True)
        )
        if progress is not None and gradient is not None
    }
    before = [
        # A table without a gradient stays as it is and need not be read: that may be a copy.
        _NOTHING if progress is not None else Parameter(*(v if v is None else read(v) for v in p))
        for p, progress in zip(state.parameters, state.progress, strict=True)
    ]
    owners = list(state.parameters)
    for i, table in tables.items():
        before[i] = table.parameter
    counters = _step.Counters(*(v if v is None else read(v) for v in state.counters))
    after, counted = _step.step(
        plan,
        numbers,
        counters,
        rate,
        before,
        [tables[i].gradient if i in tables else g for i, g in enumerate(gradients)],
        hook,
        {i: table.share for i, table in tables.items()},
    )
    made = counted.calls - counters.calls
    pairs: list[tuple[Any, tf.Tensor | tf.IndexedSlices]] = []
    for i, table in tables.items():
        pairs += _sparse.close_table(
            plan.form, numbers.coefficients, table, after[i], counters.calls + 1, made
        )
        owners[i] = before[i] = after[i] = _NOTHING
    return pairs + changes([*owners, state.counters], [*before, counters], [*after, counted])


_NOTHING = Parameter(None)


def _all_dense(optimizer: "RMSprop", gradients: Gradients) -> Sequence[tf.Tensor | None]:
    variables = optimizer._roster.weights
    return [
        None if g is None else dense(g, variable)
        for g, variable in zip(gradients, variables, strict=True)
    ]


def _check_constraints(optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients) -> None:
    for owners, constraint, g in zip(
        optimizer._parameters, plan.constraints, gradients, strict=True
    ):
        if constraint is not None and _sparse.is_sparse(g):
            raise ValueError(
                f"`lazy=True` leaves rows without a gradient alone, but the constraint of "
                f"{owners.weight.name!r} may move every row at every step, received "
                f"{type(constraint).__name__}. Leave one of the two out."
            )


def _is_inside_xla() -> bool:
    """Whether the code being traced is compiled by XLA with all that surrounds it."""
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))


class _Key(NamedTuple):
    """What a compiled step depends on beside the numbers that it is given."""

    plan: _step.Plan
    constraints: tuple[str, ...]
    # The dtypes of each gradient's tensors, as TensorFlow numbers them: one, or two where it is
    # rows and their ids.
    gradient_dtypes: tuple[tuple[int, ...], ...]
    # None where the rate is the optimizer's variable, which the step reads itself.
    rate_dtype: tf.DType | None
    # Whether XLA compiles it. With rows of tables it is an ordinary graph by default: as fast,
    # and XLA would compile again for each number of ids.
    xla: bool


def _runs_compiled(optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients) -> bool:
    """Whether this step is to run as one compiled call.

    It depends on the configuration and the saved state only, never on what the process did
    before: otherwise a resumed run would round differently from one that was not stopped.
    """
    mode = optimizer.jit_compile
    if mode is False or in_stateless_scope() or why_op_by_op(optimizer, plan) is not None:
        return False
    if tf.config.functions_run_eagerly() or is_op_determinism_enabled():
        return False
    if tf.distribute.has_strategy() or _is_distributed(optimizer._iterations._value):
        return False
    if tf.executing_eagerly():
        # One-step uses need not pay for a compilation.
        return mode is True or _has_stepped(optimizer)
    # A step with rows would be the same graph again.
    return not _is_inside_xla() and (mode is True or not any(map(_sparse.is_sparse, gradients)))


def _run_compiled(optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients, rate: Any) -> bool:
    """Make the step as one compiled call; return False, nothing done, if there is no way."""
    if rate is optimizer._learning_rate:
        rate = None
    else:
        # By itself a Python float would become a float32 tensor.
        rate = tf.convert_to_tensor(rate, tf.float64 if isinstance(rate, float) else None)
    arguments, dtypes = _flatten(gradients)
    key = _Key(
        plan,
        tuple(repr(c.get_config()) for c in plan.constraints if c is not None),
        dtypes,
        None if rate is None else rate.dtype,
        optimizer.jit_compile is True or not any(len(two) == 2 for two in dtypes),
    )
    steps = _compiled.setdefault(optimizer._roster, {})
    if rate is not None:
        arguments.append(rate)
    try:
        step = steps.get(key)
        if step is None:
            if key in steps and optimizer.jit_compile == "auto":
                return False
            if len(steps) >= CAPACITY:
                steps.clear()
            steps[key] = None
            with tf.init_scope():
                step = steps[key] = _CompiledStep(optimizer, key, _placement(optimizer))
        step(optimizer._numbers(), arguments)
    except _NOT_COMPILABLE as error:
        if optimizer.jit_compile is True or not key.xla:
            raise
        # XLA compiles before it runs anything, so the variables are as they were.
        steps[key] = None
        _log.debug("%s runs op by op: %s", optimizer.name, error)
        return False
    return True


class _CompiledStep:
    """A whole step, traced once and called as a concrete function.

    The polymorphic wrapper of `tf.function` would look at every argument on every call, which
    costs milliseconds with many variables.
    """

    def __init__(self, optimizer: "RMSprop", key: _Key, device: str) -> None:
        # The default device is not named, so that a graph can be exported to another machine.
        self._device = None if device == _default_device() else device
        state = _State.of(optimizer)
        rate_variable = optimizer._learning_rate
        numbers = optimizer._numbers()
        size = len(_pack(numbers))

        def whole_step(packed: tf.Tensor, *arguments: tf.Tensor) -> None:
            rest = iter(arguments)
            gradients = [
                _gradient_of([next(rest) for _ in dtypes]) for dtypes in key.gradient_dtypes
            ]
            rate = read(rate_variable) if key.rate_dtype is None else next(rest)
            write(_changes_of_step(state, key.plan, _unpack(numbers, packed), rate, gradients))

        specs = [tf.TensorSpec([size], tf.float64)]
        for owners, dtypes in zip(state.parameters, key.gradient_dtypes, strict=True):
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
        self._concrete = function.get_concrete_function(*specs)
        self._captured = self._concrete.captured_inputs
        self._numbers: _step.Numbers | None = None
        self._packed: tf.Tensor | None = None

    def __call__(self, numbers: _step.Numbers, arguments: list[tf.Tensor]) -> None:
        if not tf.executing_eagerly():
            packed = tf.constant(_pack(numbers), tf.float64)
        elif numbers == self._numbers:
            packed = self._packed
        else:
            packed = self._packed = tf.constant(_pack(numbers), tf.float64)
            self._numbers = numbers
        if self._device is None and tf.executing_eagerly() and not context.context().device_name:
            self._call(packed, arguments)
            return
        # Unlike an op on a variable, a compiled call does not go to where its variables are.
        with tf.device(self._device):
            self._call(packed, arguments)

    def _call(self, packed: tf.Tensor, arguments: list[tf.Tensor]) -> None:
        # The public call would record the step on any tape that watches the weights, and give
        # out every intermediate result for a gradient that nobody can take of an assignment.
        function = self._concrete._inference_function
        if tf.executing_eagerly():
            # Without the checks of each argument against the function's definition.
            context.context().call_function(function.name, [packed, *arguments, *self._captured], 0)
        else:
            function.call_flat(packed, *arguments, *self._captured)


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


def _pack(numbers: _step.Numbers) -> list[float]:
    """The numbers of a step in a row, so that they travel as one tensor."""
    return [float(x) for x in tf.nest.flatten(numbers)]


def _unpack(like: _step.Numbers, packed: tf.Tensor) -> _step.Numbers:
    return tf.nest.pack_sequence_as(like, tf.unstack(packed))


def _has_stepped(optimizer: "RMSprop") -> bool:
    """Whether `iterations` is above zero, asked without a look at tapes, scopes and strategies."""
    counter = optimizer._iterations._value
    calls = read_variable_op(counter.handle, counter.dtype).numpy()
    return bool(calls >= (optimizer.gradient_accumulation_steps or 1))


def _placement(optimizer: "RMSprop") -> str:
    """Return the device that all variables are on.

    Raises: one of `_NOT_COMPILABLE` if there are several, or XLA cannot take the variables.
    """
    owners = [v for parameter in optimizer._parameters for v in parameter if v is not None]
    dtypes = {_step.dtype_of(v) for v in owners}
    if not dtypes <= FLOATING:
        raise tf.errors.UnimplementedError(None, None, f"dtypes {sorted(dtypes - FLOATING)}")
    owners += [v for v in optimizer._counters if v is not None]
    if isinstance(optimizer._learning_rate, keras.Variable):
        owners.append(optimizer._learning_rate)
    if any(map(_is_distributed, owners)):
        raise tf.errors.UnimplementedError(None, None, "variables of a distribution strategy")
    devices = {_sparse.tf_variable(v).device for v in owners}
    if len(devices) > 1:
        raise tf.errors.UnimplementedError(None, None, f"several devices: {sorted(devices)}")
    device = devices.pop()
    if not _has_xla(device):
        raise tf.errors.UnimplementedError(None, None, f"no XLA compiler for {device}")
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


def _run_in_replica(optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients) -> None:
    """Make one step in a replica of a distribution strategy.

    Every replica sums the gradients of all, computes the same results from its own copies, and
    one merge call, without any condition around it, writes each copy.
    """
    context = tf.distribute.get_replica_context()
    # Widened first: a sum can be beyond a half precision that holds each of its terms.
    present = [_step.widen(g) for g in gradients if g is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    summed = [None if g is None else next(sums) for g in gradients]
    pairs = _run_plainly(optimizer, plan, summed, _rate_for_all_replicas(optimizer))
    variables = [_sparse.tf_variable(variable) for variable, _ in pairs]

    def assign_copies(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda copy, new: copy.assign(new), args=(value,), group=False
            )

    _merge_call(assign_copies, [value for _, value in pairs])


def _rate_for_all_replicas(optimizer: "RMSprop") -> Any:
    """Ask for the learning rate once a step: a callable may give a new one each time."""
    if optimizer._rate_variable is not None:
        return optimizer._rate_variable
    return _merge_call(lambda _: optimizer._given_learning_rate())


def _merge_call(do: Callable[..., Any], *arguments: Any) -> Any:
    """Do something once for the replicas of this process, with the strategy and arguments."""
    return tf.__internal__.distribute.interim.maybe_merge_call(
        do, tf.distribute.get_strategy(), *arguments
    )


def _is_distributed(variable: keras.Variable | tf.Variable) -> bool:
    """Whether the variable has a copy in each replica of a distribution strategy."""
    return isinstance(_sparse.tf_variable(variable), tf.distribute.DistributedValues)
