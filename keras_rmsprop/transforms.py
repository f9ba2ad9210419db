"""Transforms of gradients, for `RMSprop(transform=...)` and for single groups of variables.

A transform is a function of (gradient, weight) that returns the gradient to use, of the same shape
and dtype. It is called once for each variable, after clipping and before everything else. Both
arguments are dense and in the dtype of the slots (float32 or wider). It is traced into the compiled
step, so write it with `keras.ops` or the backend's functions, and do not modify the arguments.
Register your own, so that a saved model can find it:

    @keras.saving.register_keras_serializable(package="mine")
    def halve(gradient, weight):
        return gradient / 2.0

    keras_rmsprop.RMSprop(transform=halve)              # or transform="mine>halve"
"""

import math

import keras
from keras import ops

from keras_rmsprop._math._rule import Tensor

__all__ = ["centralize", "normalize"]


@keras.saving.register_keras_serializable(package="keras_rmsprop")
def centralize(gradient: Tensor, weight: Tensor) -> Tensor:
    """Subtract the mean over all axes but the last from the gradient of a kernel.

    g <- g - mean(g over all axes but the last)             for weights of rank > 1

    Each output of a layer has its own mean. Biases, scales and other vectors are unchanged.

    Args:
        gradient: any shape, float32 or wider.
        weight: unused; every transform receives it.

    Returns: the centralized gradient, whose columns have mean zero; same shape and dtype.

    Source: Yong, Huang, Hua and Zhang, "Gradient Centralization", arXiv:2004.01461 (2020), eq. 1.

    Example:
    >>> import keras
    >>> from keras_rmsprop import transforms
    >>> gradient = keras.ops.convert_to_tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> keras.ops.convert_to_numpy(transforms.centralize(gradient, gradient)).tolist()
    [[-1.0, -2.0], [1.0, 2.0]]
    """
    del weight
    others = tuple(gradient.shape)[:-1]
    if not others:
        return gradient
    # `ops.mean` rounds float64 to float32 on JAX and torch.
    total = ops.sum(gradient, axis=tuple(range(len(others))), keepdims=True)
    return gradient - total / max(math.prod(others), 1)


@keras.saving.register_keras_serializable(package="keras_rmsprop")
def normalize(gradient: Tensor, weight: Tensor) -> Tensor:
    """Divide a gradient by its Euclidean norm; a zero gradient stays zero.

    g <- g / |g|

    Args:
        gradient: any shape, float32 or wider.
        weight: unused; every transform receives it.

    Returns: a gradient of norm 1, or zeros; same shape and dtype.

    Example:
    >>> import keras
    >>> from keras_rmsprop import transforms
    >>> gradient = keras.ops.convert_to_tensor([3.0, 4.0])
    >>> [round(float(x), 4) for x in transforms.normalize(gradient, gradient)]
    [0.6, 0.8]
    """
    del weight
    norm = ops.sqrt(ops.sum(ops.square(gradient)))
    return gradient / ops.where(norm == 0.0, ops.ones_like(norm), norm)
