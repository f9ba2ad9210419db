"""Run a step in a replica of a distribution strategy."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution.tensorflow._changes import changes_op_by_op
from keras_rmsprop._execution.tensorflow._private import merge_call
from keras_rmsprop._execution.tensorflow._samples import table_after
from keras_rmsprop._execution.tensorflow._values import Gradients, tf_variable
from keras_rmsprop._math import _step


def run_in_replica(step: Step, gradients: Gradients) -> None:
    """Make one step in a replica of a distribution strategy.

    The gradients are all-reduced, every replica computes the same results from its own copies,
    and one unconditional merge call writes all copies.
    """
    replica = tf.distribute.get_replica_context()
    # Widened first: a sum of half-precision gradients can overflow.
    given = [_step.widen(g) for g in gradients if g is not None]
    if step.plan.accumulation_steps > 1:
        # TensorFlow does not sum a tensor object that all replicas share. Keras sums accumulated
        # gradients, of which each replica has its own.
        given = list(map(tf.identity, given))
    sums = iter(replica.all_reduce(tf.distribute.ReduceOp.SUM, given))
    summed = [None if g is None else next(sums) for g in gradients]
    rate = _rate_for_all_replicas(step)
    pairs = changes_op_by_op(step, summed, rate)
    if step.watch is not None:
        table = table_after(False, step, step.watch, summed, rate)
        pairs += [] if table is None else [(step.watch.table, table)]
    variables = [tf_variable(variable) for variable, _ in pairs]

    def assign_copies(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(
                variable, lambda copy, new: copy.assign(new), args=(value,), group=False
            )

    merge_call(assign_copies, [[value for _, value in pairs]])


def _rate_for_all_replicas(step: Step) -> Any:
    """Get the learning rate once per step: a callable may return a new one on each call."""
    if step.rate.variable is not None and not step.rate.is_overridden:
        return step.rate.variable
    return merge_call(lambda _: step.rate.get_next(), [])
