"""Sample the statistics of a step on TensorFlow: eagerly, or behind a condition in a graph."""

from typing import Any

import tensorflow as tf

from keras_rmsprop._execution import _watching
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._op_by_op import tensor_of
from keras_rmsprop._execution.tensorflow._changes import StepVariables, statistics_of_step
from keras_rmsprop._execution.tensorflow._programs import sampled_compiled
from keras_rmsprop._execution.tensorflow._values import Gradients, read
from keras_rmsprop._variables._watch import Watch


def table_after(
    compiles: bool, step: Step, watch: Watch, gradients: Gradients, rate: Any
) -> tf.Tensor | None:
    """Return the table of statistics after a step; None if an eager step is not sampled.

    In a graph the variables are read within the condition: held from outside, their values would
    have to be copied before the step writes to them.

    Args:
        compiles: whether the step runs as one compiled call.
        step: the step.
        watch: what is watched of it.
        gradients: a gradient or None for each variable; in a replica, already summed.
        rate: the learning rate, as a step gets it.
    """
    calls = step.roster.counters.calls
    if not tf.executing_eagerly():
        return tf.cond(
            _watching.is_due_in_trace(step, watch, read(calls)),
            lambda: _sampled(step, watch, gradients, rate),
            lambda: read(watch.table),
        )
    # Replicas are threads, which must not count each other's calls.
    counts = tf.distribute.in_cross_replica_context() or not tf.distribute.has_strategy()
    if not _watching.is_due(step, watch, lambda: int(read(calls)), counts):
        return None
    table = sampled_compiled(step, watch, gradients, rate) if compiles else None
    return _sampled(step, watch, gradients, rate) if table is None else table


def _sampled(step: Step, watch: Watch, gradients: Gradients, rate: Any) -> tf.Tensor:
    return statistics_of_step(
        StepVariables.of(step),
        step.plan,
        step.numbers,
        tensor_of(rate, read),
        gradients,
        watch.watched,
        read(watch.table),
        by_rule=step.update is None,
    )
