"""Read and write rows of a large table without ever copying it.

An op that gathers rows from a variable, or scatters rows into one, outside XLA switches the
variable to a mode for such access, for good: from then on each read of the whole variable, as
`keras.layers.Embedding` does, copies it (30 ms at 1,000,000 x 64). XLA-compiled code does not. So
rows of a large table are gathered and scattered by compiled functions of their own.

XLA compiles a function for each number of rows. So the ids are padded to the next of a few sizes,
with an id that the table does not have, which XLA does not write. Only copies of rows are made
here, so results do not depend on the padding.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_rmsprop._execution.tensorflow._devices import has_xla
from keras_rmsprop._execution.tensorflow._private import Caller, is_op_determinism_enabled
from keras_rmsprop._execution.tensorflow._rows import is_inside_xla

# Copying a table of fewer elements takes less time than calling a compiled function.
LARGE = 2**18

# The numbers of rows that the functions are compiled for.
SIZES = [2**k for k in range(6, 31)]


def gather_rows(variable: tf.Variable, ids: tf.Tensor) -> tf.Tensor:
    """Return the rows of a variable with these ids, all of them in [0, number of rows)."""
    if not _is_large(variable):
        return tf.gather(variable, ids)
    function = _compiled(_gather, variable.dtype, ids.dtype)
    (rows,) = _call(function, variable, [_padded(ids, variable.shape[0], _missing(ids))])
    rows.set_shape([None, *variable.shape[1:]])
    return rows[: tf.size(ids)]


def scatter_rows(variable: tf.Variable, slices: tf.IndexedSlices) -> None:
    """Overwrite the rows of a variable with these ids, none of which repeats."""
    if not _is_large(variable):
        variable.scatter_update(slices)
        return
    ids, values = slices.indices, slices.values
    function = _compiled(_scatter, variable.dtype, ids.dtype)
    missing = _missing(ids)
    given = [_padded(ids, variable.shape[0], missing), _padded(values, 0, missing)]
    _call(function, variable, given)


def _is_large(variable: tf.Variable) -> bool:
    return bool(
        variable.shape.num_elements() >= LARGE
        and not is_inside_xla()
        and not tf.config.functions_run_eagerly()
        and not is_op_determinism_enabled()
        and has_xla(variable.device)
    )


def _missing(ids: tf.Tensor) -> tf.Tensor:
    """Return how many ids are missing to the next size of `SIZES`."""
    count, sizes = tf.size(ids), tf.constant(SIZES)
    return tf.reduce_min(tf.where(sizes >= count, sizes, sizes[-1])) - count


def _padded(tensor: tf.Tensor, value: int, missing: tf.Tensor) -> tf.Tensor:
    """Append the missing rows, filled with a value."""
    paddings = [[0, missing]] + [[0, 0]] * (len(tensor.shape) - 1)
    return tf.pad(tensor, paddings, constant_values=tf.cast(value, tensor.dtype))


def _gather(arguments: list[tf.Tensor], _: list[Any], dtype: tf.DType) -> tf.Tensor:
    variable, ids = arguments
    return tf.raw_ops.ResourceGather(resource=variable, indices=ids, dtype=dtype)


def _scatter(arguments: list[tf.Tensor], _: list[Any]) -> None:
    variable, ids, values = arguments
    tf.raw_ops.ResourceScatterUpdate(resource=variable, indices=ids, updates=values)


@functools.cache
def _compiled(function: Callable[..., Any], dtype: tf.DType, id_dtype: tf.DType) -> Caller:
    """Return a compiled function of a variable's handle, ids and values.

    The handle rather than the variable, so that one function serves tables of all shapes.
    """
    specs = [tf.TensorSpec([], tf.resource), tf.TensorSpec([None], id_dtype)]
    if function is _gather:
        function = functools.partial(_gather, dtype=dtype)
    else:
        specs.append(tf.TensorSpec(None, dtype))
    compiled = tf.function(function, jit_compile=True, autograph=False)
    with tf.init_scope(), tf.device(None):
        return Caller(compiled.get_concrete_function(specs, []))


def _call(function: Caller, variable: tf.Variable, given: list[tf.Tensor]) -> list[tf.Tensor]:
    # Unlike an op on a variable, a compiled call is not placed with it.
    with tf.device(variable.device):
        return function([variable.handle, *given], [], [])
