"""Trace and lower a function once for all tensors of one shape, inside a step that XLA compiles.

XLA inlines the calls, so the compiled step is the same; only compilation gets faster. TensorFlow
lowers `Sqrt`, `Abs`, `Expm1` and `IsFinite` through MLIR, which takes 6 ms per occurrence, but
lowers a function once for all its calls. An ordinary call is inlined before that, even with
`_noinline`; a `Case` with a constant index is not.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, traced once for all arguments of the same shapes and dtypes.

    Args:
        function: a pure function of nested tensors, None and numbers. It must not close over a
            tensor, and its result may hold tensors and None.
    """
    traced: dict[Any, _Traced] = {}

    def call(*arguments: Any) -> Any:
        leaves = tf.nest.flatten(arguments)
        tensors = [x for x in leaves if isinstance(x, tf.Tensor)]
        if not all(x.shape.is_fully_defined() for x in tensors):
            return function(*arguments)
        shapes = tuple(
            (x.dtype, tuple(x.shape)) if isinstance(x, tf.Tensor) else (x, None) for x in leaves
        )
        key = shapes, tuple(map(_length, arguments))
        if key not in traced:
            traced[key] = _Traced(function, arguments)
        return traced[key](tensors)

    return call


def _length(argument: Any) -> int:
    return len(argument) if isinstance(argument, list | tuple) else -1


class _Traced:
    """A function traced for the shapes and dtypes of the given arguments."""

    def __init__(self, function: Callable[..., Any], arguments: Any) -> None:
        leaves = tf.nest.flatten(arguments)

        def of_tensors(*tensors: tf.Tensor) -> list[tf.Tensor]:
            rest = iter(tensors)
            given = [next(rest) if isinstance(x, tf.Tensor) else x for x in leaves]
            self._result = function(*tf.nest.pack_sequence_as(arguments, given))
            return [x for x in tf.nest.flatten(self._result) if x is not None]

        specs = [tf.TensorSpec(x.shape, x.dtype) for x in leaves if isinstance(x, tf.Tensor)]
        with tf.init_scope():
            traced = tf.function(of_tensors, autograph=False)
            self._concrete = traced.get_concrete_function(*specs)
        outputs = self._concrete.outputs
        self._dtypes = [x.dtype for x in outputs]
        self._shapes = [x.shape for x in outputs]
        # Keep the structure of the result, not the tensors of the traced graph.
        self._result = tf.nest.map_structure(lambda x: x is not None, self._result)

    def __call__(self, tensors: list[tf.Tensor]) -> Any:
        outputs = tf.raw_ops.Case(
            branch_index=0,
            input=tensors,
            Tout=self._dtypes,
            branches=[self._concrete],
            output_shapes=self._shapes,
        )
        rest = iter(outputs)
        return tf.nest.map_structure(lambda there: next(rest) if there else None, self._result)
