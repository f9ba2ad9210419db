"""All private names of TensorFlow that the package uses.

If a release lacks one, the package still imports, and steps take the slower public path defined
here. tests/test_private_names.py removes each name in turn.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import tensorflow as tf

__all__ = [
    "Caller",
    "EagerTensor",
    "do_not_convert",
    "dtype_number_of_eager",
    "is_graph_inside_xla",
    "is_on_default_device",
    "is_op_determinism_enabled",
    "merge_call",
    "read_variable_op",
    "shape_of_eager",
]

_log = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _missing(name: str, instead: str) -> None:
    _log.debug("TensorFlow has no `%s`; %s.", name, instead)


try:
    # The class of eager tensors. (Taking the type of a new tensor would initialize TensorFlow,
    # after which a program can no longer configure its devices.)
    from tensorflow.python.framework.ops import EagerTensor
except ImportError:
    EagerTensor = ()
    _missing("EagerTensor", "all tensors are taken for those of a graph")

try:
    # Runs a graph function by name, without checking each argument.
    from tensorflow.python.eager import context as _context
except ImportError:
    _context = None
    _missing("python.eager.context", "programs are called as any concrete function is")

try:
    from tensorflow.python.framework.config import is_op_determinism_enabled
except ImportError:
    _missing("is_op_determinism_enabled", "steps are made as if it were on, op by op")

    def is_op_determinism_enabled() -> bool:
        """Return True, the safe answer: it only prevents compiled steps."""
        return True


try:
    # Tells whether a graph is part of one that XLA compiles.
    from tensorflow.python.ops import control_flow_util as _control_flow_util
except ImportError:
    _control_flow_util = None
    _missing("control_flow_util", "any graph is taken for one that XLA compiles")

try:
    # Reads a variable without checking tapes, scopes and strategies.
    from tensorflow.python.ops.gen_resource_variable_ops import read_variable_op
except ImportError:
    _missing("read_variable_op", "the public op of that name is called")

    def read_variable_op(resource: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Return the value of the variable with this handle."""
        return tf.raw_ops.ReadVariableOp(resource=resource, dtype=dtype)


def is_graph_inside_xla(graph: Any) -> bool:
    """Whether a graph that is being traced is part of one that XLA compiles."""
    in_xla = getattr(_control_flow_util, "GraphOrParentsInXlaContext", None)
    return True if in_xla is None else bool(in_xla(graph))


def merge_call(do: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Call `do(strategy, *arguments)` once for all replicas of this process."""
    internal = getattr(tf, "__internal__", None)
    if internal is None:
        return tf.distribute.get_replica_context().merge_call(do, args=tuple(arguments))
    # If replicas do not run in separate threads, this needs no merge call, which TensorFlow does
    # not allow inside conditionals.
    call = internal.distribute.interim.maybe_merge_call
    return call(do, tf.distribute.get_strategy(), *arguments)


if hasattr(EagerTensor, "_shape_tuple"):
    # Return the shape without creating a TensorShape. Methods in C, which `map` calls directly.
    shape_of_eager: Callable[[Any], tuple[int, ...]] = EagerTensor._shape_tuple

else:
    _missing("EagerTensor._shape_tuple", "shapes are asked for by `shape`")

    def shape_of_eager(tensor: Any) -> tuple[int, ...]:
        """Return the shape."""
        return tuple(tensor.shape)


if hasattr(EagerTensor, "_datatype_enum"):
    # Return the dtype's enum number; integers are fast to compare.
    dtype_number_of_eager: Callable[[Any], int] = EagerTensor._datatype_enum

else:
    _missing("EagerTensor._datatype_enum", "dtypes are asked for by `dtype`")

    def dtype_number_of_eager(tensor: Any) -> int:
        """Return the dtype's enum number."""
        return int(tensor.dtype.as_datatype_enum)


def do_not_convert(function: _Function) -> _Function:
    """Return the function, protected from AutoGraph, without a delay outside of traces.

    AutoGraph would spend seconds on rewriting the whole package at the first trace, for nothing:
    the code never branches on a tensor. TensorFlow's own wrapper takes 10 microseconds to enter and
    leave a context, in which only what is traced differs.
    """
    protected: _Function = tf.autograph.experimental.do_not_convert(function)
    if not hasattr(protected, "autograph_info__"):
        _missing("autograph_info__", "calls outside of traces go through AutoGraph's wrapper")
        return protected

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if tf.executing_eagerly() else protected)(*args, **kwargs)

    # Tells AutoGraph that it may call this as it is.
    call.autograph_info__ = protected.autograph_info__  # type: ignore[attr-defined]
    return cast(_Function, call)


class Caller:
    """Calls a concrete function with flat arguments.

    The public call would record the step on any tape that watches the weights, and output every
    intermediate result for a backward pass, although assignments have no gradient.
    """

    def __init__(self, concrete: Any) -> None:
        self._concrete = concrete
        self._captured = concrete.captured_inputs
        self._results = len(concrete.outputs)
        self._function = getattr(concrete, "_inference_function", None)
        if self._function is None:
            _missing("_inference_function", "programs are called as any concrete function is")

    def __call__(
        self, given: list[tf.Tensor], variables: list[tf.Variable], handles: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        """Call the function and return its results in a flat list.

        Args:
            given: its tensor arguments.
            variables: its variable arguments.
            handles: the handles of `variables`.
        """
        function = self._function
        if function is None or _context is None:
            results: list[tf.Tensor] = tf.nest.flatten(self._concrete(given, variables))
            return results
        arguments = [*given, *handles, *self._captured]
        if tf.executing_eagerly():
            # Without the checks of each argument against the function's definition.
            results = _context.context().call_function(function.name, arguments, self._results)
        else:
            results = function.call_flat(*arguments)
        # None without results.
        return results or []


def is_on_default_device() -> bool:
    """Whether ops run on the default device; False if that cannot be determined."""
    if _context is None:
        return False
    return not _context.context().device_name
