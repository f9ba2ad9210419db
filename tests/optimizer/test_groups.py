"""Test that groups of variables follow their own settings, however a step is run."""

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop._settings._groups import OF_A_GROUP
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools.traced import traced_step
from yardsticks.agreement import (
    RANKS,
    TOLERANCE,
    Problem,
    differences,
    make_problem,
    reference_of,
    rmsprop,
)
from yardsticks.variants import Variant, option_variants, rule_variants, two_groups

IDS = {variant.id: variant for variant in rule_variants()}
# Every third of them is compiled, which takes a quarter of a second each, and another third in
# `fit`: the rule itself is compiled in every variant in tests/math/test_rule.py.
COMPILED, IN_FIT = (dict(list(IDS.items())[i::3]) for i in (0, 1))
WAYS = [
    *((variant, False) for variant in IDS.values()),
    # On torch each variant would be compiled for seconds; tests/execution/torch/test_compiled.py
    # compiles a few.
    *((variant, "auto" if BACKEND == "torch" else True) for variant in COMPILED.values()),
]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Weights of three shapes: one in each of two groups, and one in none."""
    return make_problem(*((shape, "float64") for shape in RANKS), steps=16)


@pytest.mark.parametrize(
    ("variant", "mode"), WAYS, ids=[f"{variant.id}-jit_compile={mode}" for variant, mode in WAYS]
)
def test_two_groups_follow_the_reference(
    variant: Variant, mode: Any, problem: Problem, float64: None
) -> None:
    worst = differences(variant, problem, jit_compile=mode, groups=two_groups(variant))
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


@pytest.mark.parametrize("mode", [False, "auto"], ids="jit_compile={}".format)
@pytest.mark.parametrize("variant", option_variants(), ids=lambda variant: variant.id)
def test_groups_share_one_counter_clip_average_and_accumulation(
    variant: Variant, mode: Any, problem: Problem, float64: None
) -> None:
    worst = differences(variant, problem, jit_compile=mode, groups=two_groups(variant))
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


@pytest.mark.parametrize("variant", option_variants()[::3], ids=lambda variant: variant.id)
def test_groups_follow_the_reference_in_float32(variant: Variant) -> None:
    problem = make_problem(*((shape, "float32") for shape in RANKS))
    worst = differences(variant, problem, jit_compile="auto", groups=two_groups(variant))
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


class Given(keras.layers.Layer):
    """A layer whose weights have the inputs as their gradients, if the output is the loss."""

    def __init__(self, starts: Sequence[np.ndarray]) -> None:
        super().__init__(name="given", dtype="float64")
        self.starts = starts

    def build(self, _: Any) -> None:
        """Create the weights."""
        self.held = [
            self.add_weight(
                shape=start.shape,
                dtype="float64",
                name=f"weight_{i}",
                initializer=lambda _, dtype, start=start: ops.convert_to_tensor(start, dtype),
            )
            for i, start in enumerate(self.starts)
        ]

    def call(self, inputs: Sequence[Any]) -> Any:
        """Return the sum of all products of a weight and its input."""
        products = [ops.sum(w * x[0]) for w, x in zip(self.held, inputs, strict=True)]
        return ops.reshape(sum(products[1:], products[0]), (1, 1))


def fit(
    optimizer: RMSprop,
    problem: Problem,
    callbacks: Sequence[Any] = (),
    loss: Any = lambda _, y: ops.mean(y),
    **options: Any,
) -> keras.Model:
    """Train weights with the gradients of a problem as data, one batch for each step."""
    inputs = [keras.Input(start.shape, dtype="float64") for start in problem.starts]
    model = keras.Model(inputs, Given(problem.starts)(inputs), name="model")
    data = [np.stack(column) for column in zip(*problem.gradients, strict=True)]
    model.compile(optimizer, loss=loss, **options)
    count = len(problem.gradients)
    zeros = np.zeros((count, 1))
    model.fit(data, zeros, batch_size=1, shuffle=False, verbose=0, callbacks=callbacks)
    return model


@pytest.fixture(scope="module")
def without_gaps() -> Problem:
    """A problem in which every weight has a gradient at every step."""
    problem = make_problem(*((shape, "float64") for shape in RANKS), steps=8)
    filled = [
        [
            np.ones(start.shape) if g is None else g
            for g, start in zip(gs, problem.starts, strict=True)
        ]
        for gs in problem.gradients
    ]
    return problem._replace(gradients=filled, rates=[0.02] * 8)


@pytest.mark.parametrize("variant", IN_FIT.values(), ids=IN_FIT)
def test_two_groups_follow_the_reference_in_fit(
    variant: Variant, without_gaps: Problem, float64: None
) -> None:
    groups = two_groups(variant)
    own = {f".*/weight_{i}": settings for i, settings in groups.items()}
    optimizer = rmsprop(learning_rate=0.02, groups=own, **variant.arguments)
    fit(optimizer, without_gaps, **({} if BACKEND != "torch" else {"jit_compile": False}))
    reference = reference_of(variant, without_gaps, groups)
    course = [reference.weights]
    for gradients in without_gaps.gradients:
        reference.apply(gradients, 0.02)
        course.append(reference.weights)
    assert int(ops.convert_to_numpy(optimizer.iterations)) == len(course) - 1
    for i, parameter in enumerate(optimizer._roster.parameters):
        weights = np.array([step[i] for step in course])
        travelled = np.sum(np.abs(np.diff(weights, axis=0)), axis=0)
        rounding = len(course) * np.max(np.spacing(np.abs(weights)), axis=0)
        off = np.abs(ops.convert_to_numpy(parameter.weight) - weights[-1])
        assert np.all(off <= TOLERANCE["float64"] * travelled + rounding)


CHANGES = {
    2: {"rho": 0.5, "momentum": 0.25},
    3: {"epsilon": 1e-3, "l2": 0.2},
    4: {"weight_decay": 0.05, "learning_rate": 0.25},
    6: {"rho": 0.8, "l2": 0.05, "epsilon": 1e-5},
}


class Assigns(keras.callbacks.Callback):
    """Assigns numbers between the batches of `fit`."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Assign to one group, and some numbers to the optimizer."""
        for name, value in CHANGES.get(batch, {}).items():
            setattr(self.model.optimizer.groups[".*/weight_1"], name, value)
        for name in CHANGES.get(batch - 1, {}).keys() - {"learning_rate"}:
            setattr(self.model.optimizer, name, 0.9 * getattr(self.model.optimizer, name))


@pytest.mark.parametrize("mode", [False, True], ids="jit_compile={}".format)
def test_numbers_assigned_during_fit_act_at_once_and_trace_nothing(
    without_gaps: Problem, float64: None, mode: bool
) -> None:
    numbers = {name for changes in CHANGES.values() for name in changes}
    assert numbers == set(OF_A_GROUP) - {"maximize", "lazy", "transform"}
    start = {"rho": 0.9, "momentum": 0.5, "epsilon": 1e-7, "l2": 0.01, "weight_decay": 0.01}
    # The first group has numbers of its own, the second has the optimizer's, as the rest do.
    groups = {".*/weight_0": start, ".*/weight_1": {"maximize": True}}
    optimizer = RMSprop(
        0.02, groups=groups, bias_correction=True, jit_compile=mode or "auto", **start
    )
    traces = []
    fit(
        optimizer,
        without_gaps,
        callbacks=[Assigns()],
        loss=lambda _, y: traces.append(0) or ops.mean(y),
        **({} if BACKEND != "torch" else {"jit_compile": False}),
    )
    if BACKEND != "torch":
        assert len(traces) <= 2
    own = [start, {"maximize": True}, None]
    reference = Reference(without_gaps.starts, bias_correction=True, groups=own, **start)
    for t, gradients in enumerate(without_gaps.gradients):
        reference.groups[1] = {**reference.groups[1], **CHANGES.get(t, {})}
        for name in CHANGES.get(t - 1, {}).keys() - {"learning_rate"}:
            setattr(reference, name, 0.9 * getattr(reference, name))
        reference.apply(gradients, 0.02)
    for parameter, want in zip(optimizer._roster.parameters, reference.parameters, strict=True):
        for kind in ("weight", "square_average", "momentum"):
            got = ops.convert_to_numpy(getattr(parameter, kind))
            np.testing.assert_allclose(got, getattr(want, kind), rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(BACKEND == "torch", reason="no function is traced on torch")
def test_switching_an_operation_on_after_tracing_warns(without_gaps: Problem) -> None:
    optimizer = RMSprop(0.02, groups={".*/weight_1": {}})
    model = fit(optimizer, without_gaps)
    group = model.optimizer.groups[".*/weight_1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        group.rho = 0.5
    with pytest.warns(UserWarning, match="The new `l2` does not act yet") as seen:
        group.l2 = 0.5
    assert __file__ in [warning.filename for warning in seen]
    with pytest.warns(UserWarning, match="The new `maximize` does not act yet") as seen:
        model.optimizer.maximize = True
    assert __file__ in [warning.filename for warning in seen]
    untraced = RMSprop(groups={".*": {}})
    untraced.build([keras.Variable([1.0])])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        untraced.groups[".*"].l2 = 0.5


@pytest.mark.skipif(BACKEND == "torch", reason="no function is traced on torch")
def test_an_epsilon_of_zero_assigned_after_tracing_divides_by_no_zero() -> None:
    weight = keras.Variable([1.0, 2.0], name="w")
    optimizer = RMSprop(0.1, groups={"w": {"epsilon": 1e-3}})
    optimizer.build([weight])
    step = traced_step(optimizer, weight)
    step(np.array([1.0, 0.0], "float32"))
    optimizer.groups["w"].epsilon = 0.0
    step(np.array([1.0, 0.0], "float32"))
    first, second = 0.1 / np.sqrt(0.1 + 1e-3), 0.1 / np.sqrt(0.19)
    np.testing.assert_allclose(weight.numpy(), [1.0 - first - second, 2.0], rtol=1e-6)


@pytest.mark.skipif(BACKEND == "torch", reason="no function is traced on torch")
@pytest.mark.parametrize("name", ["l2", "weight_decay"])
def test_an_operation_can_be_switched_off_and_on_again_after_tracing(name: str) -> None:
    weight = keras.Variable([1.0], name="w")
    optimizer = RMSprop(0.1, rho=0.0, epsilon=0.0, groups={"w": {name: 0.5}})
    optimizer.build([weight])
    step = traced_step(optimizer, weight)
    gradient = np.array([2.0], "float32")
    steps = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for value in (0.5, 0.0, 0.5):
            setattr(optimizer.groups["w"], name, value)
            weight.assign([1.0])
            step(gradient)
            steps.append(1.0 - float(weight.numpy()[0]))
    # A step without decay is 0.1, whatever the size of the gradient.
    want = 0.1 if name == "l2" else 0.1 + 0.1 * 0.5
    np.testing.assert_allclose(steps, [want, 0.1, want], rtol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="no function is traced on torch")
def test_numbers_that_no_group_has_warn_after_tracing(without_gaps: Problem) -> None:
    model = fit(RMSprop(0.02, clipnorm=1.0, groups={".*/weight_1": {}}), without_gaps)
    with pytest.warns(UserWarning, match="The new `clipnorm` does not act yet"):
        model.optimizer.clipnorm = 0.5


@pytest.mark.skipif(BACKEND == "torch", reason="no function is traced on torch")
def test_a_setting_that_a_subclass_computes_warns_after_tracing() -> None:
    class Computes(RMSprop):
        rho = property(lambda _: 0.5, lambda *_: None)

    weight = keras.Variable([1.0], name="w")
    optimizer = Computes(0.1, groups={"w": {}})
    optimizer.build([weight])
    traced_step(optimizer, weight)(np.array([2.0], "float32"))
    with pytest.warns(UserWarning, match="The new `epsilon` does not act yet"):
        optimizer.groups["w"].epsilon = 100.0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere traced functions see new variables")
def test_functions_traced_before_groups_are_added_are_warned_of() -> None:
    weights = [keras.Variable([1.0], name=name) for name in "ab"]
    optimizer = RMSprop(0.1, groups={"a": {}})
    optimizer.build(weights)
    step = traced_step(optimizer, weights[0])
    step(np.array([2.0], "float32"))
    with pytest.warns(UserWarning, match="go on with the groups that there were"):
        optimizer.add_variables(weights, groups={"b": {"rho": 0.5}})
    with pytest.warns(UserWarning, match="The new `learning_rate` does not act yet"):
        optimizer.groups["a"].learning_rate = 0.0
    traced_step(optimizer, weights[0])(np.array([2.0], "float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        optimizer.groups["a"].learning_rate = 0.5


def test_a_group_that_was_read_earlier_sees_groups_that_are_added() -> None:
    optimizer = RMSprop(groups={"a": {"rho": 0.5}})
    weights = [keras.Variable([1.0], name=name) for name in "ab"]
    optimizer.build(weights)
    group = optimizer.groups["a"]
    optimizer.add_variables(weights, groups={"b": {}})
    group.rho = 0.25
    assert (group.rho, optimizer.groups["a"].rho) == (0.25, 0.25)


def test_state_that_is_copied_variable_by_variable_leaves_the_numbers_of_the_settings() -> None:
    optimizers = []
    for rho in (0.5, 0.0):
        weight = keras.Variable([1.0], name="w")
        optimizer = RMSprop(0.1, epsilon=0.0, groups={"w": {"rho": rho}})
        optimizer.build([weight])
        optimizers.append(optimizer)
    first, second = optimizers
    for mine, theirs in zip(second.variables, first.variables, strict=True):
        mine.assign(theirs.value)
    if BACKEND == "torch":
        second.apply([ops.full((1,), 2.0)], [weight])
    else:
        traced_step(second, weight)(np.array([2.0], "float32"))
    # With rho 0 the root is the gradient's size.
    np.testing.assert_allclose(weight.numpy(), [0.9], rtol=1e-6)
    assert second.groups["w"].rho == 0.0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.train.Checkpoint is of TensorFlow")
def test_a_checkpoint_of_tensorflow_leaves_the_numbers_of_the_settings(tmp_path: Path) -> None:
    import tensorflow as tf

    def made(rho: float) -> tuple[keras.Variable, RMSprop]:
        weight = keras.Variable([1.0], name="w")
        optimizer = RMSprop(0.1, epsilon=0.0, groups={"w": {"rho": rho}})
        optimizer.build([weight])
        return weight, optimizer

    _, saved = made(0.5)
    path = tf.train.Checkpoint(optimizer=saved).save(tmp_path / "checkpoint")
    weight, optimizer = made(0.0)
    tf.train.Checkpoint(optimizer=optimizer).restore(path).assert_consumed()
    traced_step(optimizer, weight)(np.array([2.0], "float32"))
    np.testing.assert_allclose(weight.numpy(), [0.9], rtol=1e-6)


@pytest.mark.skipif(BACKEND == "torch", reason="no function is traced on torch")
def test_the_copy_of_the_numbers_widens_with_the_weights(float64: None) -> None:
    narrow = keras.Variable([1.0], dtype="float32", name="narrow")
    wide = keras.Variable([1.0], dtype="float64", name="wide")
    optimizer = RMSprop(0.1, groups={"narrow": {}})
    optimizer.build([narrow])
    assert optimizer._roster.group_numbers.dtype == "float32"
    optimizer.add_variables([narrow, wide])
    assert optimizer._roster.group_numbers.dtype == "float64"


def test_an_assignment_waits_for_a_step_of_another_thread() -> None:
    optimizer = RMSprop(0.1)
    optimizer.build([keras.Variable([1.0])])
    thread = threading.Thread(target=setattr, args=[optimizer, "rho", 0.5])

    def step() -> None:
        thread.start()
        thread.join(0.05)
        assert optimizer.rho == 0.9

    optimizer._gate.make_step(step)
    thread.join()
    assert optimizer.rho == 0.5


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has gradients of rows")
def test_a_traced_settle_uses_the_numbers_of_the_time_it_runs() -> None:
    import tensorflow as tf

    def settled(settle: Any) -> np.ndarray:
        table = keras.Variable(np.ones((3, 1)), name="t")
        optimizer = RMSprop(0.1, groups={"t": {"lazy": True, "rho": 0.9}})
        optimizer.build([table])
        run = settle(optimizer)
        run()
        optimizer.groups["t"].rho = 0.5
        for i in (0, 1, 0, 0):
            optimizer.apply([tf.IndexedSlices(tf.ones((1, 1)), tf.constant([i]))], [table])
        run()
        return optimizer._roster.parameters[0].square_average.numpy()

    eager = settled(lambda optimizer: optimizer.settle)
    traced = settled(lambda optimizer: tf.function(optimizer.settle, autograph=False))
    np.testing.assert_allclose(traced, eager, rtol=1e-6)


def test_a_momentum_buffer_that_is_no_longer_needed_is_dropped() -> None:
    weights = [keras.Variable([1.0], name=name) for name in "ab"]
    optimizer = RMSprop(momentum=0.5)
    optimizer.build(weights)
    optimizer.add_variables(weights, groups={"a": {"momentum": 0.0}})
    assert [name for name in optimizer.state_dict() if "momentum" in name] == ["b/momentum"]
    again = RMSprop.from_config(optimizer.get_config())
    again.build(weights)
    again.load_state_dict(optimizer.state_dict())


def test_the_copy_of_the_numbers_is_not_part_of_the_state() -> None:
    optimizer = RMSprop(groups={"w": {"rho": 0.5}})
    optimizer.build([keras.Variable([1.0], name="w")])
    names = ["groups/w/learning_rate", "iteration", "learning_rate", "w/square_average"]
    assert sorted(optimizer.state_dict()) == names
    # On JAX a traced function reads only variables that are passed to it.
    names = ["group_learning_rates", *["group_numbers"] * (BACKEND == "jax")]
    assert [v.name for v in optimizer.variables if "group" in v.name] == names


def test_groups_assigned_by_two_threads_keep_both_rates() -> None:
    optimizer = RMSprop(groups={"a": {}, "b": {}})
    optimizer.build([keras.Variable([1.0], name=name) for name in "ab"])

    def assign(pattern: str) -> None:
        for i in range(100):
            optimizer.groups[pattern].learning_rate = 1.0 / (i + 1)
            optimizer.groups[pattern].rho = 1.0 - 1.0 / (i + 2)

    threads = [threading.Thread(target=assign, args=[pattern]) for pattern in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [optimizer.groups[p].learning_rate for p in "ab"] == [0.01, 0.01]
    assert [optimizer.groups[p].rho for p in "ab"] == [1.0 - 1.0 / 101] * 2


def test_a_reference_with_groups_is_several_references(rng: np.random.Generator) -> None:
    starts = [rng.normal(size=3), rng.normal(size=(2, 2))]
    own = {"rho": 0.5, "momentum": 0.3, "epsilon": 1e-3, "l2": 0.1, "maximize": True}
    both = Reference(starts, groups=[None, {"learning_rate": 0.5, "weight_decay": 0.2, **own}])
    first, second = Reference(starts[:1]), Reference(starts[1:], weight_decay=0.2, **own)
    for _ in range(5):
        gradients = [rng.normal(size=start.shape) for start in starts]
        both.apply(gradients, 0.1)
        first.apply(gradients[:1], 0.1)
        second.apply(gradients[1:], 0.05)
    np.testing.assert_array_equal(both.weights[0], first.weights[0])
    np.testing.assert_array_equal(both.weights[1], second.weights[0])


# Changes of groups during training.


def a_model() -> keras.Model:
    """A model of two layers, each matched by a pattern."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(2, name="body"), keras.layers.Dense(1, name="head")]
    return keras.Sequential([keras.Input((3,)), *layers], name="model")


class FreezesAtTheSecondEpoch(keras.callbacks.Callback):
    """A callback that assigns to a group in the middle of `fit`."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Freeze the body."""
        if epoch == 1:
            self.model.optimizer.groups["model/body/.*"].learning_rate = 0.0
            self.before = self.model.get_weights()


def test_a_rate_of_zero_freezes_in_the_middle_of_fit_and_another_unfreezes() -> None:
    model = a_model()
    model.compile(RMSprop(0.01, groups={"model/body/.*": {"learning_rate": 0.5}}), "mse")
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    callback = FreezesAtTheSecondEpoch()
    model.fit(x, x[:, :1], epochs=3, callbacks=[callback], verbose=0)
    moved = [np.any(a != b) for a, b in zip(model.get_weights(), callback.before, strict=True)]
    assert moved == [False, False, True, True]
    averages = [p.square_average for p in model.optimizer._roster.parameters]
    before = ops.convert_to_numpy(averages[0])
    assert np.all(before > 0.0)
    model.optimizer.groups["model/body/.*"].learning_rate = 1.0
    weights = model.get_weights()
    model.fit(x, x[:, :1], verbose=0)
    assert all(np.any(a != b) for a, b in zip(model.get_weights(), weights, strict=True))


def test_the_effective_rate_is_that_of_the_group() -> None:
    weights = [keras.Variable([1.0], name=f"w{i}") for i in range(2)]
    own = {"learning_rate": 0.5, "epsilon": 0.25}
    optimizer = RMSprop(0.1, rho=0.0, epsilon=1.0, groups={"w1": own})
    optimizer.apply([ops.ones(1)] * 2, weights)
    got = [float(ops.convert_to_numpy(optimizer.effective_learning_rate(w))[0]) for w in weights]
    np.testing.assert_allclose(got, [0.1 / np.sqrt(2.0), 0.05 / np.sqrt(1.25)], rtol=1e-6)


def programs() -> int:
    """The number of steps that the backend has compiled."""
    if BACKEND == "tensorflow":
        from keras_rmsprop._execution.tensorflow import _programs

        return len(_programs._programs)
    if BACKEND == "jax":
        from keras_rmsprop._execution.jax._programs import compilations

        return compilations()
    from keras_rmsprop._execution.torch import _compiled

    return sum(len(programs.programs) for programs in _compiled._programs.values())


def test_no_number_that_is_assigned_compiles_anything() -> None:
    weights = [keras.Variable(np.ones(3, "float32"), name=f"odd_{i}") for i in range(2)]
    own = {"momentum": 0.5, "l2": 0.1, "weight_decay": 0.1, "learning_rate": 0.5}
    optimizer = RMSprop(groups={"odd_1": own}, jit_compile=True)
    for _ in range(3):
        optimizer.apply([ops.ones(3)] * 2, weights)
    before = programs()
    for name in ("learning_rate", "rho", "momentum", "epsilon", "l2", "weight_decay"):
        setattr(optimizer.groups["odd_1"], name, 0.25)
        optimizer.apply([ops.ones(3)] * 2, weights)
    optimizer.groups["odd_1"].learning_rate = 0.0
    optimizer.apply([ops.ones(3)] * 2, weights)
    assert programs() == before


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has gradients of rows")
@pytest.mark.parametrize("traced", [False, True], ids="tf.function={}".format)
@pytest.mark.parametrize("corrects", [False, True], ids="bias_correction={}".format)
def test_a_table_decays_late_beside_weights_with_momentum_and_decay(
    float64: None, traced: bool, corrects: bool
) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(0)
    starts = [rng.normal(size=(6, 2)), rng.normal(size=3)]
    weights = [keras.Variable(w, dtype="float64", name=f"w{i}") for i, w in enumerate(starts)]
    own = {"lazy": True, "rho": 0.75, "momentum": 0.0, "weight_decay": 0.0, "l2": 0.0}
    common = {"momentum": 0.5, "weight_decay": 0.1, "l2": 0.05, "bias_correction": corrects}
    optimizer = RMSprop(0.02, groups={"w0": own}, **common)
    optimizer.build(weights)
    assert [p is not None for p in optimizer._roster.progress] == [True, False]
    settings = {name: value for name, value in own.items() if name != "lazy"}
    reference = Reference(starts, groups=[settings, None], **common)

    def step(rows: Any, ids: Any, other: Any) -> None:
        optimizer.apply([tf.IndexedSlices(rows, ids, (6, 2)), other])

    apply = tf.function(step) if traced else step
    for t in range(12):
        if t == 6:
            optimizer.groups["w0"].rho = settings["rho"] = 0.9
            reference.groups[0] = settings
        ids = rng.integers(0, 6, size=4)
        rows = rng.normal(size=(4, 2))
        dense = np.zeros((6, 2))
        np.add.at(dense, ids, rows)
        other = rng.normal(size=3)
        apply(tf.constant(rows), tf.constant(ids), tf.constant(other))
        reference.apply([dense, other], 0.02)
    optimizer.settle()
    for parameter, want in zip(optimizer._roster.parameters, reference.parameters, strict=True):
        np.testing.assert_allclose(parameter.weight.numpy(), want.weight, rtol=1e-13, atol=1e-13)
        average = parameter.square_average.numpy()
        np.testing.assert_allclose(average, want.square_average, rtol=1e-13)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has gradients of rows")
@pytest.mark.parametrize("later", [{"rho": 0.5}, {"lazy": False}], ids=str)
def test_a_table_that_gets_a_group_has_made_up_for_what_its_rows_missed(
    float64: None, later: dict[str, Any]
) -> None:
    import tensorflow as tf

    table = keras.Variable(np.ones((4, 2)), dtype="float64", name="table")
    optimizer = RMSprop(0.02, lazy=True)
    reference = Reference([np.ones((4, 2))])
    for t in range(8):
        if t == 4:
            optimizer.add_variables([table], groups={"table": later})
            reference.rho = later.get("rho", 0.9)
        rows = tf.constant([[1.0, -2.0]], tf.float64)
        optimizer.apply([tf.IndexedSlices(rows, tf.constant([t % 3]), (4, 2))], [table])
        dense = np.zeros((4, 2))
        dense[t % 3] = [1.0, -2.0]
        reference.apply([dense], 0.02)
    np.testing.assert_allclose(table.numpy(), reference.weights[0], rtol=1e-13)
