"""`lazy=True`: the dense rule's weights and state at the cost of the rows touched."""

import functools
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

import keras_rmsprop
from keras_rmsprop._math import _lazy, _rule
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from yardsticks import resident

needs_sparse_gradients = pytest.mark.skipif(
    BACKEND != "tensorflow", reason=f"gradients are dense on the {BACKEND} backend"
)


def _compiled(function, **options):
    import tensorflow as tf

    return tf.function(function, autograph=False, **options)


# How a function of tensors is run.
COMPILED = {
    "eager": lambda function: function,
    "graph": _compiled,
    "xla": functools.partial(_compiled, jit_compile=True),
}

# Keras's own conversion of a torch tensor to NumPy.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

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


def tensor(values, dtype="float64"):
    return ops.convert_to_tensor(np.asarray(values, dtype))


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


def sees(progress, other):
    """The rows of `progress` beside the totals of `other`, which has gone on without them."""
    return other._replace(
        row_updates=progress.row_updates, row_corrections=progress.row_corrections
    )


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("bias_correction", [False, True], ids="bias_correction={}".format)
@pytest.mark.parametrize("centered", [False, True], ids="centered={}".format)
def test_catching_up_equals_making_the_missed_updates_with_zero_gradients(
    rng, centered, bias_correction, rho
):
    # The variable has no gradient at the steps that are left out, and the averages of
    # bias-corrected rows do not telescope then.
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
    caught_up, _ = _lazy.catch_up(coefficients, sees(at_touch, progress), table)

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


def test_each_row_is_decayed_by_what_it_missed_itself(rng):
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
        share = tf.ones(tf.shape(picked.ids)[0], tf.float64)
        return picked.ids, picked.gradient, share if picked.share is None else picked.share

    for rows, ids in IDS.values():
        values = rng.normal(size=(len(ids), *width))
        expected = np.zeros((rows, *width))
        np.add.at(expected, np.asarray(ids, int), values)

        got_ids, got, share = COMPILED[mode](sums)(tf.constant(values), tf.constant(ids, dtype))

        assert got_ids.dtype == dtype
        np.testing.assert_allclose(got.numpy(), expected[got_ids.numpy()], rtol=1e-12, atol=1e-12)
        # Every id that occurs counts once.
        counted = np.bincount(got_ids.numpy(), weights=share.numpy(), minlength=rows)
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


# How a step is run: the wrapper of the call, and the optimizer's own `jit_compile`.
MODES = {
    "eager": ("eager", "auto"),
    "eager, op by op": ("eager", False),
    "eager, compiled": ("eager", True),
    "graph": ("graph", "auto"),
    "xla": ("xla", "auto"),
}


class Case(NamedTuple):
    """A configuration with the table it is tried on."""

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

# Every case inside a graph and XLA, and the richest in every mode.
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
        """The weights now, and the averages after `settle`, are those of the dense rule."""
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
def test_the_effective_learning_rate_answers_as_if_settled(rng):
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
def test_updates_that_were_missed_decay_with_the_rho_of_their_time(rng):
    twins = Twins(CASES["plain"], "eager", rng)
    for t in range(60):
        if t == 30:
            twins.optimizer.rho = twins.reference.rho = 0.7
        twins.step()
    twins.assert_same()


@needs_sparse_gradients
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_step_that_is_skipped_leaves_rows_as_they_are(rng, mode):
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
    # Rounding a weight may fall the other way once in a while.
    weights = (keras.ops.cast(v, "float32").numpy() for v in variables)
    np.testing.assert_allclose(*weights, rtol=0, atol=1 / 128)


def extra_memory_of_steps(mode: str, lazy: bool) -> float:
    """How far the first steps' peak lies above weights and slots, in sizes of the table."""
    import tensorflow as tf

    table = keras.Variable(initializer="ones", shape=(1_000_000, 64), dtype="float32")
    wrapper, jit_compile = MODES[mode]
    optimizer = keras_rmsprop.RMSprop(0.01, lazy=lazy, jit_compile=jit_compile)
    optimizer.build([table])
    rows, ids = tf.ones((256, 64)), tf.range(256) * 7 % 1000
    step = COMPILED[wrapper](lambda v, i: optimizer.apply([tf.IndexedSlices(v, i)], [table]))
    resident.forget_peak()
    before = resident.peak()
    for _ in range(3):
        step(rows, ids)
    return (resident.peak() - before) / (4 * 1_000_000 * 64)


@needs_sparse_gradients
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak")
@pytest.mark.parametrize("mode", MODES)
def test_the_peak_memory_of_lazy_steps_is_far_from_another_table(mode):
    # Measured: 0.00 in a graph, 0.02 under XLA, 0.2 where a step is traced and compiled first.
    assert extra_memory_of_steps(mode, lazy=True) < 0.5


@needs_sparse_gradients
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for the peak")
def test_a_dense_step_op_by_op_takes_the_memory_of_two_tables():
    # So the measurement sees a table where there is one.
    assert extra_memory_of_steps("eager, op by op", lazy=False) > 1.9


@needs_sparse_gradients
def test_a_step_holds_no_tensor_of_the_tables_size():
    import tensorflow as tf

    table = keras.Variable(np.zeros((1009, 3)))
    optimizer = keras_rmsprop.RMSprop(0.01, centered=True, global_clipnorm=1.0, lazy=True)
    optimizer.build([table])

    @tf.function(autograph=False)
    def step(values, ids):
        optimizer.apply([tf.IndexedSlices(values, ids)], [table])

    graph = step.get_concrete_function(tf.TensorSpec([8, 3]), tf.TensorSpec([8], tf.int32)).graph
    shapes = {tuple(x.shape) for op in graph.get_operations() for x in op.outputs if x.shape.rank}
    assert (8, 3) in shapes
    assert not [shape for shape in shapes if 1009 in shape]


@needs_sparse_gradients
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_other_numbers_of_distinct_ids_do_not_trace_again(mode):
    import tensorflow as tf

    table = keras.Variable(np.zeros((9, 2)))
    optimizer = keras_rmsprop.RMSprop(0.01, lazy=True)
    optimizer.build([table])
    traces = []

    def step(ids):
        traces.append(ids)
        optimizer.apply([tf.IndexedSlices(tf.ones((4, 2)), ids)], [table])

    step = COMPILED[mode](step)
    for ids in ([1, 1, 1, 1], [1, 2, 1, 2], [0, 1, 2, 3], [5, 5, 5, 6]):
        step(tf.constant(ids))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("momentum", 0.9, "the buffer goes on moving"),
        ("weight_decay", 1e-4, "decay shrinks every row"),
        ("l2", 1e-4, "gives every row a gradient"),
        ("use_ema", True, "the average of the weights moves"),
    ],
)
def test_what_moves_rows_without_a_gradient_is_refused_with_the_reason(name, value, reason):
    with pytest.raises(ValueError, match=f"{reason}.*Received {name}="):
        keras_rmsprop.RMSprop(lazy=True, **{name: value})
    optimizer = keras_rmsprop.RMSprop(lazy=True)
    with pytest.raises(ValueError, match=reason):
        setattr(optimizer, name, value)


def test_no_decay_is_not_refused():
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
def test_what_decides_the_counts_cannot_change_once_built(name, value):
    optimizer = keras_rmsprop.RMSprop(lazy=True)
    optimizer.build([keras.Variable(np.ones((5, 2)))])
    with pytest.raises(ValueError, match=f"`{name}` cannot change once the optimizer is built"):
        setattr(optimizer, name, value)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="gradients come as rows on TensorFlow")
def test_where_gradients_are_dense_it_is_accepted_and_said_once(rng, caplog):
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
def test_accumulated_gradients_are_dense_and_it_says_so(rng, caplog):
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
def test_a_table_that_is_added_later_leaves_the_first_ones_rows_as_they_are(rng):
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
def test_tf1s_sparse_kernel_lets_averages_go_stale_and_this_does_not(rng):
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
    # The average of row 0 stood at its value of 21 steps ago: the last move came out too small.
    last_move = 0.01 / np.sqrt(0.1 + 0.1 * 0.9**21)
    stale_move = 0.01 / np.sqrt(0.1 + 0.1 * 0.9)
    off = np.abs(var.numpy() - want)[0]
    np.testing.assert_allclose(off, last_move - stale_move, rtol=1e-4)
