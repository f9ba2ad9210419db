"""The equations of one update, written with `keras.ops`.

Everything here is a pure function of tensors. Arithmetic runs in the dtype of the square average,
which is the weight's dtype but at least float32. Python operators are used instead of
`ops.multiply` and the like because those convert Python numbers to `floatx` on some backends,
rounding them to float32 even for float64 weights.

The notation is that of `keras_rmsprop.reference`: g gradient, s square average, m gradient average,
b momentum buffer, r root, k averaging weight.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

# A tensor of the active backend: tf.Tensor, jax.Array or torch.Tensor.
Tensor = Any
# A tensor, or None without the option that needs it. Any, as a type checker cannot know which.
Slot = Any
# A Python float, or a scalar tensor if the number is an input of a compiled step.
Number = Any

# An engine whose steps may be differentiated replaces this square root by one whose derivative at 0
# is 0. The true derivative is infinite, and times the derivative 0 of a square it gives NaN.
sqrt: Callable[[Tensor], Tensor] = ops.sqrt

# An epsilon below the smallest normal float32 number may not keep the root above zero: it rounds to
# zero, or compiled code flushes it to zero.
SMALLEST_EPSILON = float(np.finfo(np.float32).tiny)


class Parameter(NamedTuple):
    """One weight with its slots, all of the weight's shape.

    Slots that the configuration does not need are None.
    """

    # Changed by every update.
    weight: Tensor
    square_average: Slot = None
    gradient_average: Slot = None
    momentum: Slot = None
    # Changed by every call, including those that only accumulate.
    accumulator: Slot = None
    average: Slot = None


class Form(NamedTuple):
    """The choices that shape the equations."""

    nesterov: bool
    epsilon_inside_sqrt: bool
    lr_in_momentum: bool
    bias_correction: bool
    # Whether the root can be zero, so that g / r needs a guard.
    guards_zero_root: bool


class Coefficients(NamedTuple):
    """The numbers in the equations, with derived ones computed once in float64."""

    rho: Number
    one_minus_rho: Number
    log_rho: Number
    momentum: Number
    epsilon: Number

    @classmethod
    def of(cls, *, rho: float, momentum: float, epsilon: float) -> "Coefficients":
        """Derive the coefficients from the hyperparameters."""
        # log(0) would be -inf, and 0 * inf is NaN; any number whose exp is 0 will do.
        log_rho = math.log(rho) if rho > 0.0 else -1e4
        return cls(rho, 1.0 - rho, log_rho, momentum, epsilon)


class StepCoefficients(NamedTuple):
    """The numbers of one step t, in the dtype of the averages."""

    learning_rate: Number
    # 1 - k_t and k_t: the weights of the old average and of the new value.
    keep: Number
    weight: Number
    momentum: Number
    epsilon: Number


def number_in(value: Number, dtype: str) -> Number:
    """Return `value` in a form suitable for arithmetic with tensors of `dtype`.

    A Python number stays a Python number: every backend's operators convert it to the tensor's
    dtype exactly, whereas a cast would round it to float32 first.
    """
    if isinstance(value, float | int):
        return float(value)
    return ops.cast(value, dtype)


def step_coefficients(
    form: Form, coefficients: Coefficients, learning_rate: Number, t: Tensor | int, dtype: str
) -> StepCoefficients:
    """Compute the numbers of step `t` (1 for the first) in `dtype`, or as Python floats."""
    rho, one_minus_rho, log_rho, momentum, epsilon = (
        number_in(value, dtype) for value in coefficients
    )
    keep, weight = rho, one_minus_rho
    if form.bias_correction:
        # k_t = (1 - rho) / (1 - rho**t), and 1 - k_t = rho (1 - rho**(t-1)) / (1 - rho**t).
        # In float32, `1 - rho**t` loses five digits at rho 0.999, and `1 - k_t` falls below zero
        # if k_1 rounds above 1.
        expm1 = math.expm1 if isinstance(t, int) else ops.expm1
        t = number_in(t, dtype)
        decayed = expm1(t * log_rho)
        weight = -one_minus_rho / decayed
        keep = rho * expm1((t - 1.0) * log_rho) / decayed
    return StepCoefficients(number_in(learning_rate, dtype), keep, weight, momentum, epsilon)


def root(form: Form, square_average: Tensor, epsilon: Number) -> Tensor:
    """Compute r, the root mean square that divides the gradient.

        r_t = sqrt(s_t + epsilon)    or    sqrt(s_t) + epsilon

    Args:
        form: whether epsilon is under the root.
        square_average: s_t, any shape, float32 or wider, >= 0; unit: gradient squared.
        epsilon: >= 0; unit: gradient squared under the root, gradient outside.

    Returns: r_t, same shape and dtype.
    """
    if form.epsilon_inside_sqrt:
        return sqrt(square_average + epsilon)
    return sqrt(square_average) + epsilon


def update(form: Form, step: StepCoefficients, parameter: Parameter, gradient: Tensor) -> Parameter:
    """Advance one parameter by one step.

    Args:
        form: the choices that shape the equations.
        step: the numbers of this step, in the dtype of the averages.
        parameter: the weight and its slots; any shape.
        gradient: g_t, the weight's shape; cast to the averages' dtype.

    Returns: the parameter after the step, shapes and dtypes unchanged.
    """
    after, _ = update_and_root(form, step, parameter, gradient)
    return after


def update_and_root(
    form: Form, step: StepCoefficients, parameter: Parameter, gradient: Tensor
) -> tuple[Parameter, Tensor]:
    """Return what `update` does, for the same arguments, and r_t in the dtype of the averages."""
    s, m, b = parameter.square_average, parameter.gradient_average, parameter.momentum
    dtype = backend.standardize_dtype(s.dtype)
    w = ops.cast(parameter.weight, dtype)
    g = ops.cast(gradient, dtype)

    if m is None:
        s = step.keep * s + step.weight * ops.square(g)
    else:
        # E[g²] - E[g]² subtracts two rounded numbers and can fall below zero for a near-constant
        # gradient. This sum of non-negative terms is the same quantity and cannot (West 1979).
        deviation = g - m
        m = m + step.weight * deviation
        s = step.keep * (s + step.weight * ops.square(deviation))

    r = root(form, s, step.epsilon)
    if form.guards_zero_root:
        # The unselected quotient must be differentiable, too.
        u = g / ops.where(r == 0.0, ops.ones_like(r), r)
        u = ops.where(r == 0.0, ops.zeros_like(u), u)
    else:
        u = g / r

    if b is None:
        w = w - step.learning_rate * u
    elif form.lr_in_momentum:
        u = step.learning_rate * u
        b = step.momentum * b + u
        w = w - (step.momentum * b + u if form.nesterov else b)
    else:
        b = step.momentum * b + u
        w = w - step.learning_rate * (step.momentum * b + u if form.nesterov else b)

    after = parameter._replace(
        weight=ops.cast(w, backend.standardize_dtype(parameter.weight.dtype)),
        square_average=s,
        gradient_average=m,
        momentum=b,
    )
    return after, r
