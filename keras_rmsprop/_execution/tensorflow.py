"""How a step runs on TensorFlow."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from keras_rmsprop import _sparse
from keras_rmsprop._execution._plain import run_plainly

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop


def run(optimizer: "RMSprop", gradients: Sequence[tf.Tensor | None]) -> None:
    """Make one step."""
    if tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None:
        _run_in_replica(optimizer, gradients)
    else:
        write(run_plainly(optimizer, gradients, read))


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


def dense(gradient: Any, variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Return the gradient as one value per weight, rows of equal ids summed."""
    if _sparse.is_sparse(gradient):
        return _sparse.densify(gradient, variable.shape)
    return gradient


def _run_in_replica(optimizer: "RMSprop", gradients: Sequence[tf.Tensor | None]) -> None:
    """Make one step in a replica of a distribution strategy.

    Every replica sums the gradients of all, computes the same results from its own copies, and
    one merge call, without any condition around it, writes each copy.
    """
    context = tf.distribute.get_replica_context()
    present = [g for g in gradients if g is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    summed = [None if g is None else next(sums) for g in gradients]
    pairs = run_plainly(optimizer, summed, read)
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
