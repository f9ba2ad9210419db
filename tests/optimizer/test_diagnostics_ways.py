"""Weights are the same to the bit with and without diagnostics, however steps are made."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import Diagnostics, RMSprop
from tests.conftest import BACKEND
from tests.tools.rows import COMPILED, needs_sparse_gradients
from tests.tools.traced import traced_step

OPTIONS = {
    "plain": {},
    "all": {
        "momentum": 0.9,
        "centered": True,
        "l2": 0.01,
        "weight_decay": 0.01,
        "global_clipnorm": 0.5,
    },
    "outside": {"epsilon_inside_sqrt": False, "bias_correction": True, "clipvalue": 0.1},
    "kept": {"use_ema": True, "skip_nonfinite": True, "gradient_accumulation_steps": 2},
    "groups": {
        "clipnorm": 1.0,
        "momentum": 0.5,
        "groups": {".*(kernel|a)": {"learning_rate": 0.1, "l2": 0.1, "rho": 0.5}},
    },
}
EVERY_SECOND = Diagnostics(every=2, histograms=True)


def state_of(optimizer, weights):
    """Return weights and slots as bytes."""
    arrays = [ops.convert_to_numpy(w) for w in weights] + list(optimizer.state_dict().values())
    return [np.asarray(array).tobytes() for array in arrays]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("jit_compile", ["auto", False])
def test_eager_steps(options, jit_compile):
    # 1-d, odd and large: vectorised, with a rest, and in pieces.
    shapes = {"a": (1001,), "b": (7, 3), "c": (331, 257), "d": ()}
    states = []
    for diagnostics in (None, EVERY_SECOND):
        rng = np.random.default_rng(0)
        weights = [
            keras.Variable(rng.normal(size=shape), dtype="float32", name=name)
            for name, shape in shapes.items()
        ]
        optimizer = RMSprop(
            0.01, diagnostics=diagnostics, jit_compile=jit_compile, **OPTIONS[options]
        )
        for _ in range(6):
            given = [rng.normal(size=shape).astype("float32") for shape in shapes.values()]
            optimizer.apply(list(map(ops.convert_to_tensor, given)), weights)
        states.append(state_of(optimizer, weights))
    assert states[0] == states[1]
    assert optimizer.diagnostics().total.sampled == (2 if options == "kept" else 3)


def network(diagnostics, policy=None, **options):
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(33, activation="relu", dtype=policy, name="a"),
        keras.layers.BatchNormalization(dtype=policy, name="n"),
        keras.layers.Dense(3, dtype=policy, name="b"),
    ]
    model = keras.Sequential([keras.layers.Input((7,)), *layers])
    model.compile(RMSprop(0.01, diagnostics=diagnostics, **options), "mse")
    return model


DATA = np.random.default_rng(0).normal(size=(96, 7)).astype("float32")


@pytest.mark.parametrize("options", OPTIONS)
def test_fit(options):
    states = []
    for diagnostics in (None, EVERY_SECOND):
        model = network(diagnostics, **OPTIONS[options])
        model.fit(DATA, DATA[:, :3], epochs=2, batch_size=16, verbose=0, shuffle=False)
        states.append(state_of(model.optimizer, model.weights))
    assert states[0] == states[1]
    report = model.optimizer.diagnostics()
    assert report.total.sampled == (3 if options == "kept" else 6)
    assert report.total.gradient_norm > 0.0
    assert set(report.variables) == {w.path for w in model.trainable_weights}


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision(policy):
    states = []
    for diagnostics in (None, EVERY_SECOND):
        model = network(diagnostics, policy)
        model.fit(DATA, DATA[:, :3], epochs=2, batch_size=16, verbose=0, shuffle=False)
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        states.append(state_of(optimizer, model.weights))
    assert states[0] == states[1]
    # The loss is scaled by thousands; what is reported is not.
    assert 0.0 < optimizer.diagnostics().total.gradient_norm < 100.0


@pytest.mark.parametrize("options", OPTIONS)
def test_a_function_of_the_users(options):
    states = []
    for diagnostics in (None, EVERY_SECOND):
        rng = np.random.default_rng(0)
        weight = keras.Variable(rng.normal(size=(129, 65)), dtype="float32", name="a")
        optimizer = RMSprop(0.01, diagnostics=diagnostics, **OPTIONS[options])
        optimizer.build([weight])
        step = traced_step(optimizer, weight)
        for _ in range(6):
            step(ops.convert_to_tensor(rng.normal(size=(129, 65)).astype("float32")))
        states.append(state_of(optimizer, [weight]))
    assert states[0] == states[1]
    assert optimizer.diagnostics().total.sampled == (2 if options == "kept" else 3)


def test_a_function_of_the_users_is_traced_once():
    traced = []

    class Counting(RMSprop):
        def apply(self, grads, trainable_variables=None):
            traced.append(None)
            return super().apply(grads, trainable_variables)

    weight = keras.Variable([1.0, 2.0], name="a")
    optimizer = Counting(diagnostics=Diagnostics(every=3))
    optimizer.build([weight])
    step = traced_step(optimizer, weight)
    for _ in range(7):
        step(ops.ones(2))
    assert len(traced) == (7 if BACKEND == "torch" else 1)
    assert optimizer.diagnostics().total.sampled == 3


def step_of_rows(optimizer, table):
    import tensorflow as tf

    return lambda rows, ids: optimizer.apply([tf.IndexedSlices(rows, ids, (10, 4))], [table])


@needs_sparse_gradients
@pytest.mark.parametrize("mode", COMPILED)
@pytest.mark.parametrize("lazy", [True, False])
def test_rows_of_a_table(mode, lazy):
    import tensorflow as tf

    ids = [np.array(each, "int32") for each in ([3, 5, 3], [5, 9, 0], [1, 1, 1], [2, 3, 5])]
    states = []
    for diagnostics in (None, Diagnostics(every=1)):
        rng = np.random.default_rng(0)
        table = keras.Variable(rng.normal(size=(10, 4)), dtype="float32", name="table")
        optimizer = RMSprop(0.01, lazy=lazy, diagnostics=diagnostics, clipnorm=1.0)
        optimizer.build([table])

        step = COMPILED[mode](step_of_rows(optimizer, table))
        for batch in ids:
            rows = rng.normal(size=(3, 4)).astype("float32")
            step(tf.constant(rows), tf.constant(batch))
        states.append(state_of(optimizer, [table]))
    assert states[0] == states[1]
    found = optimizer.diagnostics().variables["table"]
    dense = np.zeros((10, 4), "float32")
    np.add.at(dense, ids[-1], rows)
    touched = dense[ids[-1]] if lazy else dense
    assert found.gradient_norm == pytest.approx(np.linalg.norm(dense), rel=1e-5)
    # Without `lazy` the other rows have gradients, of 0.
    assert found.zero_gradient_share == pytest.approx(np.mean(touched == 0.0))
    assert found.clipped == 4


@needs_sparse_gradients
def test_a_batch_without_rows_is_not_counted():
    import tensorflow as tf

    table = keras.Variable(np.ones((10, 4)), dtype="float32", name="table")
    optimizer = RMSprop(lazy=True, diagnostics=Diagnostics(every=1))
    optimizer.build([table])
    nothing = tf.IndexedSlices(tf.zeros((0, 4)), tf.zeros(0, tf.int32), (10, 4))
    optimizer.apply([nothing], [table])
    assert optimizer.diagnostics().variables["table"].sampled == 0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="counts the operations of a tf.function")
def test_without_diagnostics_no_operation_is_added():
    import tensorflow as tf

    def operations(**options):
        weight = keras.Variable([1.0, 2.0], name="a")
        optimizer = RMSprop(**options)
        optimizer.build([weight])
        function = tf.function(lambda g: optimizer.apply([g], [weight]), autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec((2,))).graph
        return [op.type for op in graph.get_operations()]

    assert operations() == operations(diagnostics=None)
    added = len(operations(diagnostics=True)) - len(operations())
    # A condition, and what it needs: nothing of the statistics runs outside of it.
    assert 0 < added < 25
    assert {"If", "StatelessIf"} & set(operations(diagnostics=True))


@pytest.mark.skipif(BACKEND != "jax", reason="looks at a program of JAX")
def test_without_diagnostics_the_program_is_the_same():
    import jax

    def program(**options):
        weight = keras.Variable([1.0, 2.0], name="a")
        optimizer = RMSprop(**options)
        optimizer.build([weight])
        state = [v.value for v in optimizer.variables]
        made = jax.make_jaxpr(optimizer.stateless_apply)(state, [ops.ones(2)], [weight.value])
        return str(made)

    assert program() == program(diagnostics=None)
    assert "cond[" not in program()
    assert "cond[" in program(diagnostics=True)
