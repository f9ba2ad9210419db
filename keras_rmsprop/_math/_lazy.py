"""Deferred decay of the rows of a table that have no gradient.

Without momentum and weight decay, a row with zero gradient keeps its weights, and its averages only
decay. `lazy=True` skips such rows and counts the variable's updates; before a row is next used, the
decay that it missed is applied. An update of a variable is a step in which the variable has a
gradient: other steps leave its averages alone. So each variable counts its own updates, while the
weight k_t of bias correction depends on the optimizer's step t.

With g = 0 one update is

    m <- (1 - k) m,        s <- (1 - k) s          or, centered, (1 - k) (s + k m**2)

and n of them in a row, with q the product of their 1 - k,

    m <- q m,              s <- q s                or, centered, q (s + (1 - q) m**2)

because s + m**2, the average of g**2, also decays by 1 - k each time. Here

    q = rho**n             or, bias corrected,  rho**n * c(t_1) * ... * c(t_n),
    c(t) = (1 - rho**(t-1)) / (1 - rho**t)

over the steps t_1 .. t_n of these updates. The product telescopes to
(1 - rho**a) / (1 - rho**(a+n)) if the variable had a gradient at every step. In general it did
not, so the sum of log c is kept along with the count. That sum stays between log(1 - rho) and 0, so
differences of it are accurate.

This uses `keras.ops` although only TensorFlow has sparse gradients, because every backend can load
a lazy state.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Coefficients, Form, Parameter, Tensor


class Progress(NamedTuple):
    """The updates of a variable, and those that each of its rows has seen.

    The rows are those of the accompanying `Parameter`: all rows of the table, or some.
    The corrections are None without bias correction.
    """

    # The variable's updates so far, (), int64; the sum of their log c(t), (), float64.
    updates: Tensor
    correction: Tensor | None
    # The same when each row was last up to date, (rows,).
    row_updates: Tensor
    row_corrections: Tensor | None


# The fields of `Progress` that hold a value for each row.
ROW_FIELDS = ("row_updates", "row_corrections")


def catch_up(
    coefficients: Coefficients, progress: Progress, parameter: Parameter
) -> tuple[Parameter, Progress]:
    """Apply the decay that the averages of rows have missed.

    Args:
        coefficients: the numbers in the equations.
        progress: the progress of these rows.
        parameter: the rows' weights and slots, (rows, ...).

    Returns: parameter and progress with each row up to date; shapes and dtypes unchanged. A
        row that has missed nothing is unchanged to the bit.
    """
    s, m = parameter.square_average, parameter.gradient_average
    exponent = _exponent(coefficients, progress)
    # q, and 1 - q without the cancellation that rho near 1 would bring.
    q = _broadcast_rows(ops.exp(exponent), s)
    if m is None:
        s = q * s
    else:
        s = q * (s + _broadcast_rows(-ops.expm1(exponent), s) * ops.square(m))
        m = q * m
    return parameter._replace(square_average=s, gradient_average=m), _all_rows_current(progress)


def count(
    form: Form, coefficients: Coefficients, progress: Progress, t: Tensor, made: Tensor | int = 1
) -> Progress:
    """Count an update of these rows.

    Args:
        form: whether the averages are bias corrected.
        coefficients: the numbers in the equations.
        progress: the progress of these rows, up to date.
        t: the optimizer's step, 1 for the first.
        made: 1, or 0 if the step was skipped.
    """
    progress = progress._replace(updates=progress.updates + made)
    if form.bias_correction:
        dtype = _step.dtype_of(progress.correction)
        log_rho = _rule.number_in(coefficients.log_rho, dtype)
        t = ops.cast(t, dtype)
        # c(1) is 0; any value will do, because the averages are still zero then.
        ratio = ops.where(t > 1.0, ops.expm1((t - 1.0) * log_rho), ops.expm1(t * log_rho))
        logarithm = ops.log(ratio / ops.expm1(t * log_rho))
        correction = progress.correction + _rule.number_in(made, dtype) * logarithm
        progress = progress._replace(correction=correction)
    return _all_rows_current(progress)


def _exponent(coefficients: Coefficients, progress: Progress) -> Tensor:
    """Compute log q of each row, in float64."""
    # With one number per row float64 is cheap; float32 would leave four digits in 1 - q.
    missed = progress.updates - progress.row_updates
    # NumPy arrays from a file may be settled on a backend configured without float64.
    is_array = isinstance(missed, np.ndarray)
    missed = missed.astype("float64") if is_array else ops.cast(missed, "float64")
    exponent = missed * _rule.number_in(coefficients.log_rho, "float64")
    if progress.correction is None:
        return exponent
    return exponent + (progress.correction - progress.row_corrections)


def _broadcast_rows(values: Tensor, table: Tensor) -> Tensor:
    """Reshape one value per row to broadcast against `table`, in its dtype."""
    shape = (-1,) + (1,) * (len(table.shape) - 1)
    return ops.reshape(ops.cast(values, _step.dtype_of(table)), shape)


def _all_rows_current(progress: Progress) -> Progress:
    # Counts only grow and sums of logarithms only fall. Written this way, the new rows depend on
    # the old ones, which lets XLA scatter into the table in place.
    rows, corrections = progress.row_updates, progress.row_corrections
    rows = ops.where(rows < progress.updates, progress.updates, rows)
    if corrections is not None:
        now = progress.correction
        corrections = ops.where(now < corrections, now, corrections)
    return progress._replace(row_updates=rows, row_corrections=corrections)
