"""Names of TensorFlow that are not part of its documented interface, and what they are for.

Nothing else in the package uses a private name of TensorFlow's. Where a release lacks one, the
package imports all the same, and steps take the slower public way that stands here;
tests/test_private_names.py takes each away in turn.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

__all__ = [
    "Caller",
    "EagerTensor",
    "dtype_number_of_eager",
    "is_graph_inside_xla",
    "is_on_default_device",
    "is_op_determinism_enabled",
    "merge_call",
    "read_variable_op",
    "shape_of_eager",
]

_log = logging.getLogger(__name__)


def _missing(name: str, instead: str) -> None:
    _log.debug("TensorFlow has no `%s`; %s.", name, instead)


try:
    # The class of tensors that hold a value now. (To make one and take its type would initialize
    # TensorFlow, after which a program can no longer set up its devices.)
    from tensorflow.python.framework.ops import EagerTensor
except ImportError:
    EagerTensor = ()
    _missing("EagerTensor", "all tensors are taken for those of a graph")

try:
    # What runs a function of a graph by its name, without a check of each argument.
    from tensorflow.python.eager import context as _context
except ImportError:
    _context = None
    _missing("python.eager.context", "programs are called as any concrete function is")

try:
    from tensorflow.python.framework.config import is_op_determinism_enabled
except ImportError:
    _missing("is_op_determinism_enabled", "steps are made as if it were on, op by op")

    def is_op_determinism_enabled() -> bool:
        """Return True: TensorFlow does not say, and only a compiled step would need it off."""
        return True


try:
    # Whether XLA compiles a graph with all that surrounds it.
    from tensorflow.python.ops import control_flow_util as _control_flow_util
except ImportError:
    _control_flow_util = None
    _missing("control_flow_util", "any graph is taken for one that XLA compiles")

try:
    # The value of a variable, without a look at tapes, scopes and strategies.
    from tensorflow.python.ops.gen_resource_variable_ops import read_variable_op
except ImportError:
    _missing("read_variable_op", "the public op of that name is called")

    def read_variable_op(resource: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Return what the variable behind a handle holds."""
        return tf.raw_ops.ReadVariableOp(resource=resource, dtype=dtype)


def is_graph_inside_xla(graph: Any) -> bool:
    """Whether a graph that is being traced is compiled by XLA with all that surrounds it."""
    in_xla = getattr(_control_flow_util, "GraphOrParentsInXlaContext", None)
    return True if in_xla is None else bool(in_xla(graph))


def merge_call(do: Callable[..., Any], arguments: Sequence[Any]) -> Any:
    """Do something once for the replicas of this process, with the strategy and arguments."""
    internal = getattr(tf, "__internal__", None)
    if internal is None:
        return tf.distribute.get_replica_context().merge_call(do, args=tuple(arguments))
    # Where replicas do not run in threads of their own, it asks for no merging, which TensorFlow
    # refuses under conditions.
    call = internal.distribute.interim.maybe_merge_call
    return call(do, tf.distribute.get_strategy(), *arguments)


if hasattr(EagerTensor, "_shape_tuple"):

    def shape_of_eager(tensor: Any) -> tuple[int, ...]:
        """Return the shape, without the detour over TensorShape."""
        shape: tuple[int, ...] = tensor._shape_tuple()
        return shape

else:
    _missing("EagerTensor._shape_tuple", "shapes are asked for by `shape`")

    def shape_of_eager(tensor: Any) -> tuple[int, ...]:
        """Return the shape."""
        return tuple(tensor.shape)


if hasattr(EagerTensor, "_datatype_enum"):

    def dtype_number_of_eager(tensor: Any) -> int:
        """Return TensorFlow's number of the dtype: two of these compare as fast as integers."""
        number: int = tensor._datatype_enum()
        return number

else:
    _missing("EagerTensor._datatype_enum", "dtypes are asked for by `dtype`")

    def dtype_number_of_eager(tensor: Any) -> int:
        """Return TensorFlow's number of the dtype."""
        return int(tensor.dtype.as_datatype_enum)


class Caller:
    """Calls a concrete function with flat arguments.

    The public call would record the step on any tape that watches the weights, and give out every
    intermediate result for a gradient that nobody can take of an assignment.
    """

    def __init__(self, concrete: Any) -> None:
        self._concrete = concrete
        self._captured = concrete.captured_inputs
        self._function = getattr(concrete, "_inference_function", None)
        if self._function is None:
            _missing("_inference_function", "programs are called as any concrete function is")

    def __call__(
        self, given: list[tf.Tensor], variables: list[tf.Variable], handles: list[tf.Tensor]
    ) -> None:
        """Call the function.

        Args:
            given: the tensors that it takes.
            variables: the variables that it takes.
            handles: of these.
        """
        function = self._function
        if function is None or _context is None:
            self._concrete(given, variables)
            return
        if tf.executing_eagerly():
            # Without the checks of each argument against the function's definition.
            _context.context().call_function(function.name, [*given, *handles, *self._captured], 0)
        else:
            function.call_flat(*given, *handles, *self._captured)


def is_on_default_device() -> bool:
    """Whether ops run on the default device; False where there is no way to find out."""
    if _context is None:
        return False
    return not _context.context().device_name
