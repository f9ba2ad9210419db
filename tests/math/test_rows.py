"""The rows in which the elements of variables are reduced, against sums over whole variables."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop._math import _rows
from keras_rmsprop._math._rows import PIECE, ROW, Inputs
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._math._statistics import Extremes, Gradients, Largest, Sums, Totals

SIZES = {
    "small": [1],
    "around a row": [ROW - 1, ROW, ROW + 1, 0, 3],
    "several blocks": [PIECE + 5, 2 * PIECE, 7, PIECE - ROW],
    # Those of a size that is given a loop of its own.
    "large": [4 * PIECE + ROW + 1, 3, 3 * PIECE],
}


def reduce(rows: Inputs) -> Totals:
    """Return the sums of the weights, and the largest of the gradients."""
    assert rows.parameter.momentum is None
    weight, gradient = rows.parameter.weight, rows.gradients.raw
    if rows.mask is not None:
        weight = ops.where(rows.mask > 0.0, weight, 0.0)
        gradient = ops.where(rows.mask > 0.0, gradient, -np.inf)
    total, largest = ops.sum(weight, axis=1), ops.max(gradient, axis=1)
    return Totals(
        ops.stack([ops.zeros_like(total)] * len(Largest._fields), axis=1),
        ops.stack([total] * len(Sums._fields), axis=1),
        ops.stack([largest] * len(Extremes._fields), axis=1),
    )


@pytest.mark.parametrize("name", SIZES)
def test_each_variable_has_the_totals_of_its_elements(name, monkeypatch):
    monkeypatch.setattr(_rows, "LARGE", 3 * PIECE)
    rng = np.random.default_rng(0)
    weights = [rng.integers(1, 5, size).astype(np.float32) for size in SIZES[name]]
    # Below zero, so that what fills up a row would be found.
    gradients = [-rng.uniform(1.0, 2.0, size).astype(np.float32) for size in SIZES[name]]
    nothing = (None,) * (len(Parameter._fields) - 2)
    variables = []
    for w, g in zip(weights, gradients, strict=True):
        weight, gradient = ops.convert_to_tensor(w), ops.convert_to_tensor(g)
        parameter = Parameter(weight, weight, *nothing)
        variables.append(Inputs(parameter, Gradients(gradient, gradient, gradient)))
    found = _rows.totals_of(reduce, variables)
    sums = keras.ops.convert_to_numpy(found.sums)
    assert sums.shape == (len(weights), len(Sums._fields))
    np.testing.assert_array_equal(sums, np.transpose([[w.sum() for w in weights]] * sums.shape[1]))
    largest = keras.ops.convert_to_numpy(found.extremes)[:, 0]
    for own, g in zip(largest, gradients, strict=True):
        if g.size:
            assert own == g.max()
