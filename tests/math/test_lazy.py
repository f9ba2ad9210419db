"""Test that a row that catches up equals one that made every update."""

import numpy as np
import pytest
from keras import ops

from keras_rmsprop._math import _lazy, _rule
from tests.tools.rows import tensor

RHOS = [0.0, 0.5, 0.9, 0.999]


def form(**choices):
    """The default form with some choices changed."""
    defaults = {
        "nesterov": False,
        "epsilon_inside_sqrt": True,
        "lr_in_momentum": True,
        "bias_correction": False,
        "guards_zero_root": False,
    }
    return _rule.Form(**(defaults | choices))


def started_parameter(rng, shape, centered):
    """A table in the middle of training."""
    average = tensor(rng.normal(size=shape)) if centered else None
    return _rule.Parameter(
        weight=tensor(rng.normal(size=shape)),
        square_average=tensor(rng.uniform(size=shape)),
        gradient_average=average,
    )


def progress_at_start(rows, bias_correction):
    zeros = np.zeros(rows)
    return _lazy.Progress(
        updates=tensor(0, "int64"),
        correction=tensor(0.0) if bias_correction else None,
        row_updates=tensor(zeros, "int64"),
        row_corrections=tensor(zeros) if bias_correction else None,
    )


def with_rows_of(earlier, later):
    """The totals of a later progress with the row counts of an earlier one."""
    return later._replace(row_updates=earlier.row_updates, row_corrections=earlier.row_corrections)


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("bias_correction", [False, True], ids="bias_correction={}".format)
@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
def test_catching_up_equals_making_the_missed_updates_with_zero_gradients(
    rng, centered, bias_correction, rho
):
    # At the steps left out the variable has no gradient, so the averages of bias-corrected rows
    # do not telescope.
    steps = [1, 2, 3, 5, 6, 7, 8, 20, 21, 24]
    touched_until = 3
    choices = form(bias_correction=bias_correction)
    coefficients = _rule.Coefficients.of(rho=rho, momentum=0.0, epsilon=1e-7)
    progress = progress_at_start(3, bias_correction)
    for t in steps[:touched_until]:
        progress = _lazy.count(choices, coefficients, progress, tensor(t, "int64"))
    at_touch = progress

    table = started_parameter(rng, (3, 2, 5), centered)
    expected = table
    for t in steps[touched_until:]:
        numbers = _rule.step_coefficients(choices, coefficients, 0.1, tensor(t, "int64"), "float64")
        expected = _rule.update(choices, numbers, expected, ops.zeros_like(table.weight))
        progress = _lazy.count(choices, coefficients, progress, tensor(t, "int64"))
    caught_up, _ = _lazy.catch_up(coefficients, with_rows_of(at_touch, progress), table)

    for got, want in zip(caught_up, expected, strict=True):
        if want is not None:
            np.testing.assert_allclose(
                ops.convert_to_numpy(got), ops.convert_to_numpy(want), rtol=1e-13, atol=1e-300
            )


@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
def test_a_row_that_missed_nothing_keeps_every_bit(rng, centered):
    coefficients = _rule.Coefficients.of(rho=0.9, momentum=0.0, epsilon=1e-7)
    choices = form(bias_correction=True)
    progress = progress_at_start(3, bias_correction=True)
    for t in range(1, 6):
        progress = _lazy.count(choices, coefficients, progress, tensor(t, "int64"))
    table = started_parameter(rng, (3, 4), centered)
    caught_up, _ = _lazy.catch_up(coefficients, progress, table)
    for got, want in zip(caught_up, table, strict=True):
        if want is not None:
            np.testing.assert_array_equal(ops.convert_to_numpy(got), ops.convert_to_numpy(want))


def test_each_row_decays_by_its_own_missed_updates(rng):
    coefficients = _rule.Coefficients.of(rho=0.5, momentum=0.0, epsilon=1e-7)
    progress = progress_at_start(3, bias_correction=False)._replace(
        updates=tensor(7, "int64"), row_updates=tensor([7, 5, 0], "int64")
    )
    ones = tensor(np.ones((3, 2)))
    caught_up, current = _lazy.catch_up(coefficients, progress, _rule.Parameter(ones, ones))
    got = ops.convert_to_numpy(caught_up.square_average)
    np.testing.assert_allclose(got, [[1.0] * 2, [0.25] * 2, [2.0**-7] * 2], rtol=1e-15)
    np.testing.assert_array_equal(ops.convert_to_numpy(current.row_updates), [7, 7, 7])


def test_the_variance_of_a_centered_float32_row_keeps_its_digits():
    # Right after a constant gradient s is 0 and m large: q (1 - q) m**2 is all there is, and
    # 1 - q from a float32 q would be off in its fourth digit.
    coefficients = _rule.Coefficients.of(rho=0.9999, momentum=0.0, epsilon=1e-7)
    progress = progress_at_start(1, bias_correction=False)._replace(updates=tensor(3, "int64"))
    zero, mean = tensor([[0.0]], "float32"), tensor([[1.0]], "float32")
    caught_up, _ = _lazy.catch_up(coefficients, progress, _rule.Parameter(zero, zero, mean))
    q = 0.9999**3
    got = ops.convert_to_numpy(caught_up.square_average)
    np.testing.assert_allclose(got, [[q * (1 - q)]], rtol=3e-7)
