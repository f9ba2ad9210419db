"""A training loop of a Keras model in which the gradients can be seen, on every backend."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tests.conftest import BACKEND

# (inputs, targets) -> the gradient of each of the model's trainable variables.
Gradients = Callable[[Any, Any], Sequence[Any]]


def gradients_of(model: keras.Model, loss: Callable[[Any, Any], Any]) -> Gradients:
    """Return a function that computes gradients in training mode.

    It updates what a forward pass updates, such as the statistics of batch normalisation.

    Args:
        model: a built model.
        loss: of (targets, outputs), a scalar.
    """
    ways = {"tensorflow": _by_tape, "jax": _by_transformation, "torch": _by_backward}
    gradients = ways[BACKEND](model, loss)
    return lambda x, y: gradients(ops.convert_to_tensor(x), ops.convert_to_tensor(y))


def _by_tape(model: keras.Model, loss: Callable[[Any, Any], Any]) -> Gradients:
    import tensorflow as tf

    @tf.function
    def gradients(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        return tape.gradient(value, [v.value for v in model.trainable_variables])

    return gradients


def _by_transformation(model: keras.Model, loss: Callable[[Any, Any], Any]) -> Gradients:
    import jax

    def value(weights: Any, others: Any, x: Any, y: Any) -> Any:
        outputs, others = model.stateless_call(weights, others, x, training=True)
        return loss(y, outputs), others

    compiled = jax.jit(jax.grad(value, has_aux=True))

    def gradients(x: Any, y: Any) -> Any:
        weights, others = model.trainable_variables, model.non_trainable_variables
        found, updated = compiled([v.value for v in weights], [v.value for v in others], x, y)
        for variable, new in zip(others, updated, strict=True):
            variable.assign(new)
        return found

    return gradients


def _by_backward(model: keras.Model, loss: Callable[[Any, Any], Any]) -> Gradients:
    import torch

    def gradients(x: Any, y: Any) -> Any:
        for variable in model.trainable_variables:
            variable.value.grad = None
        # On a busy machine a second thread waits longer for a core than these networks take.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            loss(y, model(x, training=True)).backward()
        finally:
            torch.set_num_threads(threads)
        return [v.value.grad for v in model.trainable_variables]

    return gradients
