"""Test that rows of large tables are read and written without copies, with the same results."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools.rows import COMPILED, MODES

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf

from keras_rmsprop._execution.tensorflow import _table_access

ROWS, WIDTH = 300, 2

# Batches of changing size, with repeated ids; one is empty.
BATCHES = [[5, 5, 7], list(range(70)), [], [299, 0, 7], list(range(40, 190))]


def train(mode: str, **options: bool | float) -> list[np.ndarray]:
    """Return the table, its slots and its counts after a step with each batch."""
    rng = np.random.default_rng(0)
    table = keras.Variable(rng.normal(size=(ROWS, WIDTH)), dtype="float32", name="table")
    wrapper, jit_compile = MODES[mode]
    optimizer = keras_rmsprop.RMSprop(0.01, lazy=True, jit_compile=jit_compile, **options)
    optimizer.build([table])
    step = COMPILED[wrapper](
        lambda values, ids: optimizer.apply([tf.IndexedSlices(values, ids)], [table])
    )
    for ids in BATCHES:
        values = rng.normal(size=(len(ids), WIDTH)).astype("float32")
        step(tf.constant(values), tf.constant(ids, tf.int32))
    return [np.array(tf.convert_to_tensor(v)) for v in (table, *optimizer.variables)]


@pytest.fixture
def as_written() -> Iterator[None]:
    """Keep TensorFlow from rewriting arithmetic, which it does differently in different graphs."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    yield
    usual = {"arithmetic_optimization": before.get("arithmetic_optimization", True)}
    tf.config.optimizer.set_experimental_options(usual)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("mode", ["eager", "eager, op by op", "graph"])
@pytest.mark.parametrize(
    "options",
    [{"bias_correction": True}, {"centered": True, "skip_nonfinite": True}],
    ids=["plain", "centered"],
)
def test_large_tables_take_the_steps_of_small_ones_to_the_bit(
    mode: str, options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = train(mode, **options)
    monkeypatch.setattr(_table_access, "LARGE", 1)
    large = train(mode, **options)
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sizes", [[256], [512, 1024]], ids=str)
def test_the_padding_does_not_change_a_bit(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_table_access, "LARGE", 1)
    usual = train("graph", centered=True)
    monkeypatch.setattr(_table_access, "SIZES", sizes)
    for a, b in zip(usual, train("graph", centered=True), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_handful_of_sizes_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = tf.Variable(tf.zeros((_table_access.LARGE, 1)))
    sizes = set()
    call = _table_access._call

    def recorded(function: object, variable: tf.Variable, given: list[tf.Tensor]) -> object:
        sizes.add(int(tf.shape(given[0])[0]))
        return call(function, variable, given)

    monkeypatch.setattr(_table_access, "_call", recorded)
    for count in (0, 1, 64, 65, 100, 128, 129, 250):
        ids = tf.range(count)
        rows = _table_access.gather_rows(variable, ids)
        assert rows.shape == (count, 1)
        _table_access.scatter_rows(variable, tf.IndexedSlices(rows + 1.0, ids))
    assert sizes == {64, 128, 256}
    assert float(tf.reduce_sum(variable)) == 0 + 1 + 64 + 65 + 100 + 128 + 129 + 250


def address(variable: keras.Variable) -> int:
    """Return where the value lies that a read of the whole variable gives."""
    tensor = tf.convert_to_tensor(variable)
    return np.asarray(memoryview(tensor)).__array_interface__["data"][0]


def a_model() -> keras.Model:
    vocabulary = _table_access.LARGE // 4
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(vocabulary, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )


@pytest.mark.parametrize("run_eagerly", [False, True], ids="run_eagerly={}".format)
def test_keras_embeddings_are_still_read_without_a_copy_after_training(run_eagerly: bool) -> None:
    model = a_model()
    model.compile(keras_rmsprop.RMSprop(lazy=True), loss="mse", run_eagerly=run_eagerly)
    model.fit(np.arange(24).reshape(8, 3), np.ones((8, 1)), batch_size=2, verbose=0)
    table, optimizer = model.layers[0].embeddings, model.optimizer
    for variable in (table, optimizer._roster.parameters[0].square_average):
        assert address(variable) == address(variable)


def test_a_gather_by_another_op_makes_whole_reads_copy() -> None:
    # So the test above sees a copy where there is one.
    table = keras.Variable(tf.zeros((_table_access.LARGE, 1)))
    tf.gather(table.value, [0])
    first, second = tf.convert_to_tensor(table), tf.convert_to_tensor(table)
    places = {np.asarray(memoryview(t)).__array_interface__["data"][0] for t in (first, second)}
    assert len(places) == 2


def test_the_first_and_later_steps_in_fit_equal_those_of_the_dense_rule() -> None:
    weights = []
    for lazy in (True, False):
        keras.utils.set_random_seed(0)
        model = a_model()
        model.compile(keras_rmsprop.RMSprop(0.01, lazy=lazy), loss="mse")
        x = np.random.default_rng(0).integers(0, 50, (40, 3))
        model.fit(x, np.ones((40, 1)), batch_size=8, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("as_written")
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_tables_are_written_in_the_old_way_where_xla_is_not_used(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_table_access, "LARGE", 1)
    usual = train(mode)
    monkeypatch.setattr(_table_access, "has_xla", lambda _: False)
    monkeypatch.setattr(_table_access, "_call", None)
    for a, b in zip(usual, train(mode), strict=True):
        np.testing.assert_array_equal(a, b)
