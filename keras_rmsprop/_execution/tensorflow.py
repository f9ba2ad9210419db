"""How a step runs on TensorFlow: op by op, as one XLA-compiled call, or in a replica."""

import functools
import logging
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.framework.config import is_op_determinism_enabled
from tensorflow.python.ops import control_flow_util

from keras_rmsprop import _sparse, _step
from keras_rmsprop._execution._plain import (
    FLOATING,
    changes,
    in_stateless_scope,
    is_compilable,
    run_plainly,
)
from keras_rmsprop._rule import Parameter

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop

Gradients = Sequence[tf.Tensor | None]

_EagerTensor = type(tf.constant(0.0))

_log = logging.getLogger(__name__)

# The compiled steps of each optimizer. They live here and not in an attribute, because
# TensorFlow would track them into checkpoints, and they must not keep a model alive.
_compiled: "weakref.WeakKeyDictionary[RMSprop, dict[_Key, _CompiledStep | None]]" = (
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
    plan, rate = optimizer._plan(), optimizer.learning_rate
    if tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None:
        _run_in_replica(optimizer, plan, gradients, rate)
    elif not _runs_compiled(optimizer, plan) or not _run_compiled(
        optimizer, plan, gradients, rate
    ):
        write(run_plainly(optimizer, plan, gradients, rate, read))


def read(variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the variable's current value; in a replica, that of the replica's own copy."""
    return tf.convert_to_tensor(variable)


def write(pairs: Sequence[tuple[Any, tf.Tensor]]) -> None:
    """Assign each value to its variable."""
    for variable, value in pairs:
        variable.assign(value)


def copy(value: tf.Tensor) -> tf.Tensor:
    """Return the value; TensorFlow's tensors cannot change."""
    return value


def shape_of(gradient: Any) -> tuple[int | None, ...]:
    """Return the gradient's shape; of an eager tensor without TensorShape's detour."""
    if isinstance(gradient, _EagerTensor):
        return gradient._shape_tuple()
    return tuple(gradient.shape)


def dense(gradient: Any, variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the gradient as one value per weight, rows of equal ids summed."""
    if _sparse.is_sparse(gradient):
        return _sparse.densify(gradient, variable.shape)
    return gradient


class _Key(NamedTuple):
    """What a compiled step depends on beside the numbers that it is given."""

    plan: _step.Plan
    constraints: tuple[str, ...]
    gradient_dtypes: tuple[tf.DType | None, ...]
    # None where the rate is the optimizer's variable, which the step reads itself.
    rate_dtype: tf.DType | None


def _runs_compiled(optimizer: "RMSprop", plan: _step.Plan) -> bool:
    """Whether this step is to run as one compiled call.

    It depends on the configuration and the saved state only, never on what the process did
    before: otherwise a resumed run would round differently from one that was not stopped.
    """
    mode = optimizer.jit_compile
    if mode is False or in_stateless_scope() or not is_compilable(optimizer, plan):
        return False
    if tf.config.functions_run_eagerly() or is_op_determinism_enabled():
        return False
    if tf.executing_eagerly():
        # One-step uses need not pay for a compilation.
        return mode is True or int(optimizer.iterations) > 0
    # Inside XLA the step is compiled with all that surrounds it.
    graph = tf.compat.v1.get_default_graph()
    return not control_flow_util.GraphOrParentsInXlaContext(graph)


def _run_compiled(
    optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients, rate: Any
) -> bool:
    """Make the step as one compiled call; return False, nothing done, if there is no way."""
    if rate is optimizer._learning_rate:
        rate = None
    else:
        # By itself a Python float would become a float32 tensor.
        rate = tf.convert_to_tensor(rate, tf.float64 if isinstance(rate, float) else None)
    key = _Key(
        plan,
        tuple(repr(c.get_config()) for c in plan.constraints if c is not None),
        tuple(None if g is None else g.dtype for g in gradients),
        None if rate is None else rate.dtype,
    )
    steps = _compiled.setdefault(optimizer, {})
    arguments = [g for g in gradients if g is not None]
    if rate is not None:
        arguments.append(rate)
    try:
        if key not in steps:
            if len(steps) >= CAPACITY:
                steps.clear()
            steps[key] = None
            with tf.init_scope():
                _check_placement(optimizer)
                steps[key] = _CompiledStep(optimizer, key)
        step = steps[key]
        if step is None:
            return False
        step(optimizer._numbers(), arguments)
    except _NOT_COMPILABLE as error:
        if optimizer.jit_compile is True:
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

    def __init__(self, optimizer: "RMSprop", key: _Key) -> None:
        variables = optimizer._parameters
        counting = optimizer._counters
        rate_variable = optimizer._learning_rate
        numbers = optimizer._numbers()
        size = len(_pack(numbers))

        def whole_step(packed: tf.Tensor, *arguments: tf.Tensor) -> None:
            rest = iter(arguments)
            gradients = [None if dtype is None else next(rest) for dtype in key.gradient_dtypes]
            rate = read(rate_variable) if key.rate_dtype is None else next(rest)
            before = [
                Parameter(*(None if owner is None else read(owner) for owner in owners))
                for owners in variables
            ]
            counters = _step.Counters(*(v if v is None else read(v) for v in counting))
            after, counted = _step.step(
                key.plan,
                _unpack(numbers, packed),
                counters,
                rate,
                before,
                gradients,
            )
            write(changes([*variables, counting], [*before, counters], [*after, counted]))

        specs = [tf.TensorSpec([size], tf.float64)]
        for owners, dtype in zip(variables, key.gradient_dtypes, strict=True):
            if dtype is not None:
                specs.append(tf.TensorSpec(owners.weight.shape, dtype))
        if key.rate_dtype is not None:
            specs.append(tf.TensorSpec([], key.rate_dtype))
        function = tf.function(whole_step, jit_compile=True, autograph=False)
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
        # The public call would record the step on any tape that watches the weights, and give
        # out every intermediate result for a gradient that nobody can take of an assignment.
        self._concrete._inference_function.call_flat(packed, *arguments, *self._captured)


def _pack(numbers: _step.Numbers) -> list[float]:
    """The numbers of a step in a row, so that they travel as one tensor."""
    return [float(x) for x in tf.nest.flatten(numbers)]


def _unpack(like: _step.Numbers, packed: tf.Tensor) -> _step.Numbers:
    return tf.nest.pack_sequence_as(like, tf.unstack(packed))


def _check_placement(optimizer: "RMSprop") -> None:
    """Raise a `_NOT_COMPILABLE` error if XLA cannot take the variables where they are."""
    owners = [v for parameter in optimizer._parameters for v in parameter if v is not None]
    dtypes = {_step.dtype_of(v) for v in owners}
    if not dtypes <= FLOATING:
        raise tf.errors.UnimplementedError(None, None, f"dtypes {sorted(dtypes - FLOATING)}")
    owners += [v for v in optimizer._counters if v is not None]
    if isinstance(optimizer._learning_rate, keras.Variable):
        owners.append(optimizer._learning_rate)
    variables = [_tf_variable(v) for v in owners]
    if any(isinstance(v, tf.distribute.DistributedValues) for v in variables):
        raise tf.errors.UnimplementedError(None, None, "variables of a distribution strategy")
    devices = {v.device for v in variables}
    if len(devices) > 1:
        raise tf.errors.UnimplementedError(None, None, f"several devices: {sorted(devices)}")
    if not _has_xla(devices.pop()):
        raise tf.errors.UnimplementedError(None, None, "the device has no XLA compiler")


@functools.cache
def _has_xla(device: str) -> bool:
    """Whether XLA compiles for the device; a step nested in a graph would find out too late."""
    try:
        with tf.device(device):
            tf.function(lambda x: x + 1.0, jit_compile=True)(tf.constant(0.0))
    except _NOT_COMPILABLE:
        return False
    return True


def _run_in_replica(
    optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients, rate: Any
) -> None:
    """Make one step in a replica of a distribution strategy.

    Every replica sums the gradients of all, computes the same results from its own copies, and
    one merge call, without any condition around it, writes each copy.
    """
    context = tf.distribute.get_replica_context()
    present = [g for g in gradients if g is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    summed = [None if g is None else next(sums) for g in gradients]
    pairs = run_plainly(optimizer, plan, summed, rate, read)
    variables = [_tf_variable(variable) for variable, _ in pairs]

    def assign_copies(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda copy, new: copy.assign(new), args=(value,), group=False
            )

    tf.__internal__.distribute.interim.maybe_merge_call(
        assign_copies, tf.distribute.get_strategy(), [value for _, value in pairs]
    )


def _tf_variable(variable: keras.Variable | tf.Variable) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable
