"""Test that the rows of equal ids are summed, in every mode and in float32 at least."""

import numpy as np
import pytest

from tests.tools.rows import COMPILED, needs_sparse_gradients

# How ids repeat, with the number of rows of the table.
IDS: dict[str, tuple[int, list[int]]] = {
    "none": (5, []),
    "one": (5, [3]),
    "distinct": (6, [4, 0, 5]),
    "repeated": (6, [4, 0, 4, 5, 0, 4]),
    "one id thousands of times": (4, [2] * 3000),
    "all rows": (4, [3, 1, 0, 2, 1]),
    "a table of one row": (1, [0, 0]),
}


@needs_sparse_gradients
@pytest.mark.parametrize("mode", COMPILED)
@pytest.mark.parametrize(
    ("width", "dtype"), [((3,), "int32"), ((2, 3), "int64"), ((), "int32")], ids=str
)
def test_rows_of_equal_ids_are_summed(rng, width, dtype, mode):
    import tensorflow as tf

    from keras_rmsprop._execution.tensorflow import _rows

    def sums(values, ids):
        slices = tf.IndexedSlices(values, ids)
        picked = _rows.sum_rows(slices, rows, static_shapes=mode == "xla")
        mask = tf.ones(tf.shape(picked.ids)[0], tf.float64)
        return picked.ids, picked.gradient, mask if picked.row_mask is None else picked.row_mask

    for rows, ids in IDS.values():
        values = rng.normal(size=(len(ids), *width))
        expected = np.zeros((rows, *width))
        np.add.at(expected, np.asarray(ids, int), values)

        got_ids, got, mask = COMPILED[mode](sums)(tf.constant(values), tf.constant(ids, dtype))

        assert got_ids.dtype == dtype
        np.testing.assert_allclose(got.numpy(), expected[got_ids.numpy()], rtol=1e-12, atol=1e-12)
        # Every id that occurs counts once.
        counted = np.bincount(got_ids.numpy(), weights=mask.numpy(), minlength=rows)
        np.testing.assert_array_equal(counted, np.isin(np.arange(rows), ids))


@needs_sparse_gradients
@pytest.mark.parametrize("static_shapes", [False, True], ids="static_shapes={}".format)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rows_in_half_precision_are_summed_in_float32(dtype, static_shapes):
    import tensorflow as tf

    from keras_rmsprop._execution.tensorflow import _rows

    slices = tf.IndexedSlices(tf.ones((3000, 2), dtype), tf.zeros(3000, tf.int32))
    rows = _rows.sum_rows(slices, 2, static_shapes)
    assert rows.gradient.dtype == tf.float32
    np.testing.assert_array_equal(rows.gradient.numpy()[0], [3000.0, 3000.0])
    np.testing.assert_array_equal(
        _rows.densify(slices, tf.TensorShape((2, 2))).numpy(), [[3000.0] * 2, [0.0] * 2]
    )
