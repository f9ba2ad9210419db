"""Test that `lazy=True` gives the weights and averages of the dense rule."""

import warnings
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

import keras_rmsprop
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools.rows import COMPILED, MODES, needs_sparse_gradients, tensor


class Case(NamedTuple):
    """A configuration and the table on which it is tested."""

    settings: dict
    width: tuple[int, ...] = (3,)
    ids: str = "int32"


CASES = {
    "plain": Case({}),
    "centered": Case({"centered": True, "clipnorm": 1.5}, width=(2, 2), ids="int64"),
    "bias corrected": Case(
        {
            "bias_correction": True,
            "rho": 0.99,
            "global_clipnorm": 2.0,
            "loss_scale_factor": 4.0,
            "maximize": True,
        }
    ),
    "centered and bias corrected": Case(
        {
            "centered": True,
            "bias_correction": True,
            "epsilon": 1e-3,
            "epsilon_inside_sqrt": False,
            "clipvalue": 1.0,
        }
    ),
    "of rank one": Case({"initial_square_average": 1.0, "epsilon": 0.0}, width=()),
}
ROWS, BATCH = 60, 24
# Every case in a graph and under XLA, and the one with the most options in every mode.
TRIALS = [
    (case, mode)
    for case in CASES
    for mode in MODES
    if mode in ("graph", "xla") or case == "centered and bias corrected"
]


class Twins:
    """A lazy optimizer and the dense float64 reference on the same gradients."""

    def __init__(self, case, mode, rng, **lazy_settings):
        import tensorflow as tf

        self.tf, self.rng, self.case = tf, rng, case
        starts = [rng.normal(size=(ROWS, *case.width)), rng.normal(size=4)]
        self.variables = [keras.Variable(start, dtype="float64") for start in starts]
        wrapper, jit_compile = MODES[mode]
        # Keras's schedules pass through float32, which holds these rates exactly.
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([50], [2.0**-7, 2.0**-8])
        self.optimizer = keras_rmsprop.RMSprop(
            schedule, lazy=True, jit_compile=jit_compile, **case.settings, **lazy_settings
        )
        self.optimizer.build(self.variables)
        self.reference = Reference(starts, **case.settings)
        self.travelled = 0.0
        wrap = COMPILED[wrapper]
        self.apply_rows = wrap(lambda values, ids, g: self._apply(tf.IndexedSlices(values, ids), g))
        self.apply_dense = wrap(self._apply)
        self.apply_without = wrap(lambda g: self._apply(None, g))

    def _apply(self, table_gradient, other_gradient):
        self.optimizer.apply([table_gradient, other_gradient], self.variables)

    def step(self, kind="rows", ids=None):
        """Make one step, in which the table has rows, a dense gradient, or none."""
        rng, width = self.rng, self.case.width
        g = rng.normal(size=4)
        before, rate = self.reference.weights[0], 2.0 ** (-7 if self.reference.calls <= 50 else -8)
        if kind == "rows":
            if ids is None:
                ids = np.minimum(rng.zipf(1.3, BATCH) - 1, ROWS - 1)
            values = rng.normal(0.3, 1.0, size=(len(ids), *width))
            dense = np.zeros((ROWS, *width))
            np.add.at(dense, np.asarray(ids, int), values)
            ids = self.tf.constant(ids, self.case.ids)
            self.apply_rows(self.tf.constant(values), ids, self.tf.constant(g))
        elif kind == "dense":
            dense = rng.normal(size=(ROWS, *width))
            self.apply_dense(self.tf.constant(dense), self.tf.constant(g))
        else:
            dense = None
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Gradients do not exist for variables")
                self.apply_without(self.tf.constant(g))
        self.reference.apply([dense, g], rate)
        self.travelled = self.travelled + np.abs(self.reference.weights[0] - before)

    def assert_same(self):
        """Fail unless the weights, and the averages after `settle`, are those of the dense rule."""
        for variable, weight in zip(self.variables, self.reference.weights, strict=True):
            np.testing.assert_allclose(
                variable.numpy(), weight, rtol=0, atol=1e-12 * np.max(self.travelled)
            )
        self.optimizer.settle()
        owners, want = self.optimizer._roster.parameters[0], self.reference.parameters[0]
        size = np.max(want.square_average + want.gradient_average**2)
        np.testing.assert_allclose(
            owners.square_average.numpy(), want.square_average, rtol=1e-11, atol=1e-13 * size
        )
        if owners.gradient_average is not None:
            np.testing.assert_allclose(
                owners.gradient_average.numpy(), want.gradient_average, rtol=1e-11, atol=1e-14
            )


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:`centered=True` with `bias_correction=True`:UserWarning")
@pytest.mark.parametrize(("case", "mode"), TRIALS)
def test_hundreds_of_steps_give_the_weights_and_averages_of_the_dense_rule(rng, case, mode):
    twins = Twins(CASES[case], mode, rng)
    for t in range(200):
        # Now and then the table has a dense gradient, or none, also twice in a row.
        kind = "none" if t % 17 in (3, 4) else "dense" if t % 29 == 11 else "rows"
        twins.step(kind)
    twins.assert_same()


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_batch_may_hold_no_id_every_id_or_one_id_thousands_of_times(rng, mode):
    twins = Twins(CASES["centered"], mode, rng)
    for ids in ([5, 7, 5], [], [59], list(range(ROWS)), [2] * 3000, [], [5]):
        twins.step(ids=ids)
    twins.assert_same()


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
def test_the_effective_learning_rate_is_that_of_a_settled_table(rng):
    twins = Twins(CASES["plain"], "eager", rng)
    for _ in range(20):
        twins.step()
    table = twins.variables[0]
    before = twins.optimizer.effective_learning_rate(table).numpy()
    rows = twins.optimizer._roster.parameters[0].square_average.numpy()
    twins.optimizer.settle()
    assert np.any(rows != twins.optimizer._roster.parameters[0].square_average.numpy())
    np.testing.assert_array_equal(before, twins.optimizer.effective_learning_rate(table).numpy())


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
def test_missed_updates_decay_with_the_rho_of_their_time(rng):
    twins = Twins(CASES["plain"], "eager", rng)
    for t in range(60):
        if t == 30:
            twins.optimizer.rho = twins.reference.rho = 0.7
        twins.step()
    twins.assert_same()


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_skipped_step_leaves_rows_unchanged(rng, mode):
    twins = Twins(CASES["bias corrected"], mode, rng, skip_nonfinite=True)
    for t in range(40):
        twins.step()
        if t % 10 == 3:
            values = np.full((2, *twins.case.width), np.nan)
            tf = twins.tf
            twins.apply_rows(tf.constant(values), tf.constant([1, 40]), tf.zeros(4, "float64"))
    assert twins.optimizer.skipped_steps == 4
    twins.assert_same()


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
def test_one_variable_updated_by_hand_follows_the_dense_rule(rng):
    import tensorflow as tf

    start = rng.normal(size=(ROWS, 3))
    lazy, dense = keras.Variable(start, dtype="float64"), keras.Variable(start, dtype="float64")
    twins = [
        (keras_rmsprop.RMSprop(0.01, lazy=True), lazy),
        (keras_rmsprop.RMSprop(0.01), dense),
    ]
    for t in range(12):
        rows = tf.IndexedSlices(tf.constant(rng.normal(size=(2, 3))), tf.constant([t % 5, 7]))
        for optimizer, variable in twins:
            optimizer.build([variable])
            if t % 4 == 3:
                optimizer.update_step(rows, variable, 0.01)
            else:
                optimizer.apply([rows], [variable])
    np.testing.assert_allclose(lazy.numpy(), dense.numpy(), rtol=0, atol=1e-14)


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("jit_compile", [False, True], ids="jit_compile={}".format)
def test_fit_with_an_embedding_gives_the_weights_of_the_dense_rule(rng, jit_compile):
    ids = np.minimum(rng.zipf(1.3, (70, 5)) - 1, ROWS - 1)
    targets = rng.normal(size=(70, 1))
    weights = []
    for lazy in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.layers.Embedding(ROWS, 4, dtype="float64"),
                keras.layers.Flatten(dtype="float64"),
                keras.layers.Dense(1, dtype="float64"),
            ]
        )
        optimizer = keras_rmsprop.RMSprop(0.01, centered=True, clipnorm=1.0, lazy=lazy)
        model.compile(optimizer, "mse", jit_compile=jit_compile)
        # 70 in batches of 16: the last is shorter.
        model.fit(ids, targets, batch_size=16, epochs=4, verbose=0)
        weights.append(model.get_weights())
    for dense, lazy in zip(*weights, strict=True):
        np.testing.assert_allclose(lazy, dense, rtol=0, atol=1e-12)


@needs_sparse_gradients
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_table_in_half_precision_keeps_its_averages_in_float32(rng, dtype):
    import tensorflow as tf

    variables = [keras.Variable(np.ones((ROWS, 4)), dtype=dtype) for _ in range(2)]
    optimizers = [keras_rmsprop.RMSprop(0.01, lazy=lazy) for lazy in (True, False)]
    for _ in range(30):
        ids = tf.constant(np.minimum(rng.zipf(1.3, 50) - 1, ROWS - 1), "int32")
        rows = tf.IndexedSlices(tf.cast(rng.normal(size=(50, 4)), dtype), ids)
        for optimizer, variable in zip(optimizers, variables, strict=True):
            optimizer.apply([rows], [variable])
    optimizers[0].settle()
    lazy, dense = (optimizer._roster.parameters[0] for optimizer in optimizers)
    assert lazy.square_average.dtype == "float32"
    np.testing.assert_allclose(lazy.square_average.numpy(), dense.square_average.numpy(), 2e-6)
    # A weight may occasionally round in the other direction.
    weights = (keras.ops.cast(v, "float32").numpy() for v in variables)
    np.testing.assert_allclose(*weights, rtol=0, atol=1 / 128)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="gradients come as rows on TensorFlow")
def test_lazy_with_dense_gradients_is_accepted_and_logged_once(rng, caplog):
    variables = [keras.Variable(np.ones((5, 2))) for _ in range(2)]
    optimizers = [keras_rmsprop.RMSprop(lazy=lazy) for lazy in (True, False)]
    for _ in range(3):
        gradient = tensor(rng.normal(size=(5, 2)), "float32")
        for optimizer, variable in zip(optimizers, variables, strict=True):
            optimizer.apply([gradient], [variable])
    optimizers[0].settle()
    np.testing.assert_array_equal(*(ops.convert_to_numpy(v) for v in variables))
    messages = [record.message for record in caplog.records if "lazy" in record.message]
    assert len(messages) == 1
    assert f"dense on the {BACKEND} backend" in messages[0]


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
def test_accumulated_gradients_are_dense_and_this_is_logged(rng, caplog):
    case = Case({"gradient_accumulation_steps": 3})
    twins = Twins(case, "eager", rng)
    assert "the sums of gradient accumulation are dense" in caplog.text
    tf = twins.tf
    for _ in range(9):
        values, ids = rng.normal(size=(4, 3)), np.array([1, 2, 1, 9])
        dense = np.zeros((ROWS, 3))
        np.add.at(dense, ids, values)
        twins.apply_rows(tf.constant(values), tf.constant(ids), tf.zeros(4, "float64"))
        twins.reference.apply([dense, np.zeros(4)], 2.0**-7)
    np.testing.assert_allclose(
        twins.variables[0].numpy(), twins.reference.weights[0], rtol=0, atol=1e-14
    )


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
def test_a_table_that_is_added_later_leaves_the_rows_of_the_first_unchanged(rng):
    import tensorflow as tf

    starts = [rng.normal(size=(ROWS, 3)), rng.normal(size=(9, 2))]
    batches = [
        [
            tf.IndexedSlices(tf.constant(rng.normal(size=(4, width))), rng.integers(0, rows, 4))
            for rows, width in ((ROWS, 3), (9, 2))
        ]
        for _ in range(20)
    ]
    weights = []
    for lazy in (True, False):
        tables = [keras.Variable(start, dtype="float64") for start in starts]
        optimizer = keras_rmsprop.RMSprop(0.01, bias_correction=True, lazy=lazy)
        for t, rows in enumerate(batches):
            if t == 10:
                optimizer.add_variables(tables)
            present = len(tables) if t >= 10 else 1
            optimizer.apply(rows[:present], tables[:present])
        weights.append([table.numpy() for table in tables])
    for lazy, dense in zip(*weights, strict=True):
        np.testing.assert_allclose(lazy, dense, rtol=0, atol=1e-14)


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
def test_averages_do_not_go_stale_as_in_the_sparse_kernel_of_tf1(rng):
    import tensorflow as tf

    start = rng.normal(size=(3, 2))
    g = rng.normal(size=(1, 2))
    # Row 0 has a gradient at the first step and at the last, row 1 in between.
    ids = [0] + [1] * 20 + [0]
    reference = Reference([start], rho=0.9, epsilon=1e-7)
    table = keras.Variable(start, dtype="float64")
    optimizer = keras_rmsprop.RMSprop(0.01, lazy=True)
    var = tf.Variable(start)
    slots = [tf.Variable(tf.zeros_like(var)) for _ in range(2)]
    lr, rho, momentum, epsilon = (tf.constant(x, "float64") for x in (0.01, 0.9, 0.0, 1e-7))
    for i in ids:
        dense = np.zeros_like(start)
        dense[i] = g
        reference.apply([dense], 0.01)
        optimizer.apply([tf.IndexedSlices(tf.constant(g), tf.constant([i]))], [table])
        tf.raw_ops.ResourceSparseApplyRMSProp(
            var=var.handle,
            ms=slots[0].handle,
            mom=slots[1].handle,
            lr=lr,
            rho=rho,
            momentum=momentum,
            epsilon=epsilon,
            grad=g,
            indices=[i],
        )
    (want,) = reference.weights
    np.testing.assert_allclose(table.numpy(), want, rtol=0, atol=1e-14)
    # TF1's average of row 0 had its value of 21 steps before: the last move was too small.
    last_move = 0.01 / np.sqrt(0.1 + 0.1 * 0.9**21)
    stale_move = 0.01 / np.sqrt(0.1 + 0.1 * 0.9)
    off = np.abs(var.numpy() - want)[0]
    np.testing.assert_allclose(off, last_move - stale_move, rtol=1e-4)
