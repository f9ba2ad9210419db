"""Test what is refused together with `lazy=True`, and when."""

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.tools.rows import needs_sparse_gradients


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("momentum", 0.9, "the buffer goes on moving"),
        ("weight_decay", 1e-4, "decay shrinks every row"),
        ("l2", 1e-4, "gives every row a gradient"),
        ("use_ema", True, "the average of the weights moves"),
    ],
)
def test_settings_that_move_rows_without_a_gradient_are_refused_with_the_reason(
    name, value, reason
):
    with pytest.raises(ValueError, match=f"{reason}.*Received {name}="):
        keras_rmsprop.RMSprop(lazy=True, **{name: value})
    optimizer = keras_rmsprop.RMSprop(lazy=True)
    with pytest.raises(ValueError, match=reason):
        setattr(optimizer, name, value)


def test_zero_decay_and_zero_momentum_are_accepted():
    assert keras_rmsprop.RMSprop(lazy=True, weight_decay=0.0, momentum=0.0).lazy


@needs_sparse_gradients
def test_a_constrained_table_is_refused():
    import tensorflow as tf

    table = keras.Variable(np.ones((5, 2)))
    table.constraint = keras.constraints.UnitNorm(axis=1)
    optimizer = keras_rmsprop.RMSprop(lazy=True)
    with pytest.raises(ValueError, match=r"constraint of .* received UnitNorm"):
        optimizer.apply([tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1]))], [table])
    np.testing.assert_array_equal(table.numpy(), np.ones((5, 2)))


@pytest.mark.parametrize(("name", "value"), [("lazy", False), ("bias_correction", True)])
@needs_sparse_gradients
def test_settings_that_decide_the_row_counts_cannot_change_once_built(name, value):
    optimizer = keras_rmsprop.RMSprop(lazy=True)
    optimizer.build([keras.Variable(np.ones((5, 2)))])
    with pytest.raises(ValueError, match=f"`{name}` cannot change once the optimizer is built"):
        setattr(optimizer, name, value)
