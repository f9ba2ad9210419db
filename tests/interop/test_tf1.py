"""Test carrying state between TF1's checkpoints and this package.

The other side is a graph with TF1's own optimizer, trained in a session; its Saver writes and
restores the checkpoints. Hyperparameters are numbers that float32 holds, to which TF1 rounds them,
unless a test is about that.
"""

import functools
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions, interop
from keras_rmsprop.interop import NotExactError, Pair
from tests.tools import disk, halfway, models
from tests.tools.models import Array, WithPath
from yardsticks import peers

if peers.unavailable("tf1"):
    pytest.skip(str(peers.unavailable("tf1")), allow_module_level=True)

import tensorflow as tf

from tests.tools.tf1_program import NAMES, Program

SHAPES = ((), (2, 4), (3,))
DECAY, MOMENTUM, EPSILON = 0.875, 0.75, 2.0**-10
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": MOMENTUM},
    "centered": {"centered": True},
    "centered, momentum": {"centered": True, "momentum": MOMENTUM},
}
RATES = ("constant", "assigned", "schedule")


def tf1_schedule(step: Any) -> Any:
    """A rate that TF1 computes from the global step."""
    return tf.compat.v1.train.exponential_decay(halfway.RATE, step, 4, 0.5, staircase=True)


def keras_schedule() -> Any:
    """The same for Keras."""
    return keras.optimizers.schedules.ExponentialDecay(halfway.RATE, 4, 0.5, staircase=True)


def make_problem(rate: str) -> halfway.Problem:
    problem = halfway.make_problem(*SHAPES, moving=rate == "assigned")
    return problem._replace(rates=None) if rate == "schedule" else problem


def make_program(weights: list[Array], case: str, rate: str = "constant", **more: Any) -> Program:
    schedule = tf1_schedule if rate == "schedule" else None
    settings = {"decay": DECAY, "epsilon": EPSILON}
    return Program(weights, schedule=schedule, **settings, **CASES[case], **more)


def make_optimizer(case: str, rate: str = "constant") -> keras_rmsprop.RMSprop:
    learning_rate = keras_schedule() if rate == "schedule" else halfway.RATE
    return conventions.tf1(learning_rate, decay=DECAY, epsilon=EPSILON, **CASES[case])


@functools.cache
def whole_training(case: str, rate: str) -> list[peers.Snapshot]:
    problem = make_problem(rate)
    return halfway.steps(make_program(problem.starts, case, rate), problem, 0, halfway.STEPS)


def named(variables: list[Any]) -> dict[str, Any]:
    return dict(zip(NAMES, variables, strict=True))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_there_and_ten_here(float64, tmp_path, case, rate):
    problem, want = make_problem(rate), whole_training(case, rate)

    def bring(program: Program, variables: list[Any]) -> Any:
        checkpoint = program.save(tmp_path)
        for variable in variables:
            variable.assign(np.zeros(variable.shape))
        interop.tf1.load_weights(checkpoint, named(variables))
        optimizer = make_optimizer(case, rate)
        optimizer.build(variables)
        interop.tf1.load(optimizer, checkpoint, named(variables))
        assert int(optimizer.iterations) == halfway.HALF
        return optimizer

    got = halfway.there_then_here(make_program(problem.starts, case, rate), bring, problem)
    halfway.assert_same(got, want, problem)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_here_and_ten_there(float64, tmp_path, case, rate):
    problem, want = make_problem(rate), whole_training(case, rate)

    def take(optimizer: Any, program: Program, variables: list[Any]) -> None:
        path = tmp_path / "back.ckpt"
        assert interop.tf1.save(optimizer, path, named(variables)) == str(path)
        program.restore(str(path))
        assert program.value_of("global_step") == halfway.HALF

    got = halfway.here_then_there(
        make_optimizer(case, rate),
        # The weights come from the checkpoint.
        lambda weights: make_program([np.zeros_like(w) for w in weights], case, rate),
        take,
        problem,
    )
    halfway.assert_same(got, want, problem)


def test_variables_of_the_old_kind_are_the_same_in_a_checkpoint(float64, tmp_path):
    program, optimizer, variables = trained(tmp_path, use_resource=False)
    interop.tf1.load(optimizer, tmp_path, named(variables))
    assert_holds(optimizer, program)
    program = make_program(zeros(), "momentum", use_resource=False)
    program.restore(interop.tf1.save(optimizer, tmp_path / "back.ckpt", named(variables)))
    assert_holds(optimizer, program)


# Names.


def trained(
    folder: Path, case: str = "momentum", **more: Any
) -> tuple[Program, keras_rmsprop.RMSprop, list[Any]]:
    """A program after ten steps and its checkpoint, and an optimizer like it that has made none."""
    problem = halfway.make_problem(*SHAPES, moving=False)
    program = make_program(problem.starts, case, **more)
    halfway.steps(program, problem, 0, halfway.HALF)
    program.save(folder)
    variables = [keras.Variable(w, dtype="float64") for w in problem.starts]
    optimizer = make_optimizer(case)
    optimizer.build(variables)
    return program, optimizer, variables


def zeros() -> list[Array]:
    return [np.zeros(shape) for shape in SHAPES]


def assert_holds(optimizer: keras_rmsprop.RMSprop, program: Program) -> None:
    """Fail unless the optimizer has the state of a program that is not centered."""
    held = models.values(optimizer._square_averages), models.values(optimizer._momentums)
    for slots, name in zip(held, ("rms", "momentum"), strict=True):
        for got, want in zip(slots, program.slot(name), strict=True):
            assert np.any(want != 0.0)
            np.testing.assert_array_equal(got, want)


def test_without_pairs_names_are_paired_with_or_without_the_model_s(float64, tmp_path):
    program, _, _ = trained(tmp_path)
    variables = [WithPath(name, w) for name, w in zip(NAMES, program.weights(), strict=True)]
    optimizer = make_optimizer("momentum")
    optimizer.build(variables[::-1])
    interop.tf1.load(optimizer, tmp_path)
    for variable, want in zip(variables, program.slot("rms"), strict=True):
        (slot,) = [s for s in optimizer._square_averages if s.shape == variable.shape]
        np.testing.assert_array_equal(models.values([slot])[0], want)

    program, _, _ = trained(tmp_path, names=("scale", "kernel", "bias"))
    variables = [
        WithPath(f"model/{name}", w)
        for name, w in zip(program.names, program.weights(), strict=True)
    ]
    optimizer = make_optimizer("momentum")
    optimizer.build(variables)
    interop.tf1.load(optimizer, tmp_path)
    assert_holds(optimizer, program)


def test_paths_may_stand_for_variables(float64, tmp_path):
    program, optimizer, variables = trained(tmp_path)
    paths = [variable.path for variable in variables]
    interop.tf1.load(optimizer, tmp_path, named(paths))
    assert_holds(optimizer, program)
    with pytest.raises(ValueError, match="Weights need variables, received the path"):
        interop.tf1.load_weights(tmp_path, named(paths))


def test_slots_may_be_in_a_variable_scope_which_a_template_keeps(float64, tmp_path):
    program, optimizer, variables = trained(tmp_path, scope="training/inner")
    interop.tf1.load(optimizer, tmp_path, named(variables))
    assert_holds(optimizer, program)
    template = tf.train.latest_checkpoint(tmp_path)
    back = interop.tf1.save(optimizer, tmp_path / "back", named(variables), template=template)
    program = make_program(zeros(), "momentum", scope="training/inner")
    program.restore(back)
    assert_holds(optimizer, program)


def test_another_name_of_the_optimizer(float64, tmp_path):
    program, optimizer, variables = trained(tmp_path, name="Generator")
    with pytest.raises(ValueError, match=r"no slots of an optimizer named 'RMSProp'.*Generator"):
        interop.tf1.load(optimizer, tmp_path, named(variables))
    interop.tf1.load(optimizer, tmp_path, named(variables), name="Generator")
    assert_holds(optimizer, program)
    back = interop.tf1.save(optimizer, tmp_path / "back", named(variables), name="Generator")
    program = make_program(zeros(), "momentum", name="Generator")
    program.restore(back)
    assert_holds(optimizer, program)


def test_slots_of_two_optimizers_of_one_name_are_refused(float64, tmp_path):
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session() as session:
        w = tf.compat.v1.get_variable("w", initializer=np.ones(3))
        for _ in range(2):
            optimizer = tf.compat.v1.train.RMSPropOptimizer(0.1)
            optimizer.apply_gradients([(tf.ones(3, tf.float64), w)])
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    optimizer = built([keras.Variable(np.ones(3), dtype="float64")])
    with pytest.raises(ValueError, match="two optimizers named 'RMSProp' for 'w'"):
        interop.tf1.load(optimizer, tmp_path, {"w": optimizer._roster.weights[0]})


def built(variables: list[Any], **settings: Any) -> keras_rmsprop.RMSprop:
    optimizer = conventions.tf1(halfway.RATE, **settings)
    optimizer.build(variables)
    return optimizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda pairs: pairs | {NAMES[1]: pairs[NAMES[2]], NAMES[2]: pairs[NAMES[1]]},
            r"'net/dense/kernel' has shape \(2, 4\).* but '.*' has shape \(3,\); "
            r"'net/dense/bias' has shape \(3,\).* but '.*' has shape \(2, 4\)",
            id="swapped names of unlike shape",
        ),
        pytest.param(
            lambda pairs: {NAMES[0]: pairs[NAMES[0]], NAMES[1]: pairs[NAMES[1]]},
            r"no variable is paired with 'net/dense/bias'; no parameter is paired with 'variable",
            id="a missing name",
        ),
        pytest.param(
            lambda pairs: {NAMES[0]: pairs[NAMES[0]], "net/dense/kernal": pairs[NAMES[1]]},
            "There is no parameter 'net/dense/kernal'; did you mean 'net/dense/kernel'",
            id="an unknown name",
        ),
        pytest.param(
            lambda pairs: pairs | {NAMES[2]: pairs[NAMES[1]]},
            "'net/dense/bias' and 'net/dense/kernel' are both paired with",
            id="two names for one variable",
        ),
        pytest.param(
            lambda pairs: {**pairs, NAMES[1]: "kernel"},
            "'net/dense/kernel' is paired with 'kernel', which is not a variable",
            id="an unknown path",
        ),
        pytest.param(lambda _: "order", "has names and no order", id="order"),
    ],
)
def test_pairs_that_do_not_fit_are_refused_whole(float64, tmp_path, change, message):
    _, optimizer, variables = trained(tmp_path)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=message):
        interop.tf1.load(optimizer, tmp_path, change(named(variables)))
    models.assert_identical(optimizer.state_dict().values(), before.values())


def test_weights_that_do_not_fit_are_refused_whole(float64, tmp_path):
    program, _, variables = trained(tmp_path)
    scale, kernel, bias = variables
    before = models.values(variables)
    for pairs, message in (
        ({NAMES[0]: scale, NAMES[1]: bias}, r"'net/dense/kernel' has shape \(2, 4\).*\(3,\)"),
        ({NAMES[0]: scale, "net/kernel": kernel}, "checkpoint has no 'net/kernel'; it has"),
        ({NAMES[1]: kernel, NAMES[2]: kernel}, "are both paired with"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.tf1.load_weights(tmp_path, pairs)
        models.assert_identical(models.values(variables), before)
    interop.tf1.load_weights(tmp_path, named(variables))
    models.assert_identical(models.values(variables), program.weights())


def test_conversions_bring_arrays_into_the_shapes_of_keras_and_back(float64, tmp_path):
    program, optimizer, _ = trained(tmp_path)
    scale, kernel, bias = (keras.Variable(np.zeros(s), dtype="float64") for s in ((), (4, 2), (3,)))
    tuples = {NAMES[0]: scale, NAMES[1]: (kernel, np.transpose, np.transpose), NAMES[2]: bias}
    pairs = [
        Pair((NAMES[0],), scale),
        Pair((NAMES[1],), kernel, np.transpose, lambda array: (array.T,)),
        Pair((NAMES[2],), bias),
    ]
    mixed = {**tuples, NAMES[1]: pairs[1]}
    for each in (tuples, pairs, mixed):
        interop.tf1.load_weights(tmp_path, each)
        np.testing.assert_array_equal(models.values([kernel])[0], program.weights()[1].T)
        optimizer = make_optimizer("momentum")
        optimizer.build([scale, kernel, bias])
        interop.tf1.load(optimizer, tmp_path, each)
        for slots, name in (
            (optimizer._square_averages, "rms"),
            (optimizer._momentums, "momentum"),
        ):
            np.testing.assert_array_equal(models.values([slots[1]])[0], program.slot(name)[1].T)
        back = make_program(zeros(), "momentum")
        back.restore(interop.tf1.save(optimizer, tmp_path / "back", each))
        for name in ("rms", "momentum"):
            models.assert_identical(back.slot(name), program.slot(name))
        models.assert_identical(back.weights(), program.weights())


# Steps.


def test_without_a_global_step_the_count_stays_unless_it_is_given(float64, tmp_path):
    _, optimizer, variables = trained(tmp_path, counts=False)
    optimizer.iterations.assign(4)
    interop.tf1.load(optimizer, tmp_path, named(variables))
    assert int(optimizer.iterations) == 4
    interop.tf1.load(optimizer, tmp_path, named(variables), steps=123)
    assert int(optimizer.iterations) == 123


def test_steps_count_for_more_than_the_global_step_and_calls_are_counted_here(float64, tmp_path):
    _, _, variables = trained(tmp_path)
    optimizer = keras_rmsprop.RMSprop(
        halfway.RATE, momentum=MOMENTUM, gradient_accumulation_steps=3
    )
    optimizer.build(variables)
    interop.tf1.load(optimizer, tmp_path, named(variables), steps=7)
    assert (int(optimizer.iterations), int(optimizer._iterations)) == (7, 21)


# What cannot be the same.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"centered": True}, "`centered` is True here and False there"),
        ({"epsilon_inside_sqrt": False}, "`epsilon_inside_sqrt` is False here and True there"),
        ({"nesterov": True, "momentum": 0.5}, "`nesterov` is True here and False there"),
        ({"bias_correction": True}, "`bias_correction` is True here and False there"),
    ],
)
def test_steps_that_would_not_be_tf1_s_are_refused(float64, tmp_path, settings, message):
    _, _, variables = trained(tmp_path)
    optimizer = keras_rmsprop.RMSprop(halfway.RATE, **settings)
    optimizer.build(variables)
    before = optimizer.state_dict()
    with pytest.raises(NotExactError, match=f"{message}.*exact=False.*Nothing has changed"):
        interop.tf1.load(optimizer, tmp_path, named(variables))
    models.assert_identical(optimizer.state_dict().values(), before.values())


def test_what_starts_afresh_is_reported_if_the_steps_need_not_be_the_same(float64, tmp_path):
    program, _, variables = trained(tmp_path)
    optimizer = built(variables, centered=True, momentum=MOMENTUM)
    pairs = named(variables)
    del pairs[NAMES[2]]
    with pytest.warns(UserWarning, match="these start afresh"):
        report = interop.tf1.load(optimizer, tmp_path, pairs, exact=False)
    assert report is optimizer.load_report
    scale, kernel, bias = (variable.path for variable in variables)
    assert set(report.initialized) == {
        *(f"{path}/gradient_average" for path in (scale, kernel, bias)),
        f"{bias}/square_average",
        f"{bias}/momentum",
    }
    assert {f"{kernel}/square_average", f"{kernel}/momentum"} <= set(report.restored)
    got = models.values(optimizer._square_averages)
    models.assert_identical(got[:2], program.slot("rms")[:2])
    np.testing.assert_array_equal(got[2], 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon_inside_sqrt": False}, "`epsilon_inside_sqrt` is False here"),
        ({"nesterov": True, "momentum": 0.5}, "`nesterov` is True here"),
        ({"bias_correction": True}, "`bias_correction` is True here"),
        ({"weight_decay": 0.1}, r"`weight_decay` is 0\.1 here"),
        ({"maximize": True}, "`maximize` is True here"),
        ({"groups": {"b": {"learning_rate": 0.5}}}, "different learning rates here"),
        ({"groups": {"b": {"momentum": 0.5}}}, r"`momentum` is 0\.5 here and 0\.0 there \(of 'b'"),
    ],
)
def test_a_state_that_tf1_cannot_go_on_with_is_not_written(float64, tmp_path, settings, message):
    variables = [keras.Variable(np.ones(2), name=name) for name in ("a", "b")]
    optimizer = keras_rmsprop.RMSprop(halfway.RATE, **settings)
    optimizer.build(variables)
    with pytest.raises(NotExactError, match=message):
        interop.tf1.save(optimizer, tmp_path / "back", None)
    assert list(tmp_path.iterdir()) == []
    interop.tf1.save(optimizer, tmp_path / "back", None, exact=False)
    assert tf.train.load_checkpoint(str(tmp_path / "back")).has_tensor("b/RMSProp")


def test_a_full_disk_is_an_error_of_python_and_the_old_checkpoint_stays(float64, tmp_path):
    weights = [keras.Variable(np.zeros(500), name="a")]
    optimizer = built(weights)
    interop.tf1.save(optimizer, tmp_path / "c", {"a": weights[0]})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with disk.full(), pytest.raises(OSError, match=r"File too large: '.*c'") as raised:
        interop.tf1.save(optimizer, tmp_path / "c", {"a": weights[0]})
    assert "\n" not in str(raised.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_l2_belongs_into_the_loss_there(float64, tmp_path):
    program, _, variables = trained(tmp_path)
    optimizer = keras_rmsprop.RMSprop(halfway.RATE, momentum=MOMENTUM, l2=0.1, clipnorm=1.0)
    optimizer.build(variables)
    interop.tf1.load(optimizer, tmp_path, named(variables))
    assert_holds(optimizer, program)
    interop.tf1.save(optimizer, tmp_path / "back", named(variables))


def test_a_buffer_of_directions_becomes_one_of_steps_while_the_rate_is_constant(float64, tmp_path):
    optimizer = keras_rmsprop.RMSprop(
        0.25, momentum=MOMENTUM, lr_in_momentum=False, jit_compile=False
    )
    ours = peers.Ours(optimizer, zeros())
    halfway.steps(ours, make_problem("schedule"), 0, 3)
    program = make_program(zeros(), "momentum")
    program.restore(interop.tf1.save(optimizer, tmp_path / "back", named(ours.variables)))
    for got, want in zip(program.slot("momentum"), optimizer._momentums, strict=True):
        np.testing.assert_allclose(got, 0.25 * models.values([want])[0], rtol=1e-15)


# Files.


def test_what_is_no_checkpoint_is_refused(float64, tmp_path):
    optimizer = built([keras.Variable(np.ones(3), name="w")])
    with pytest.raises(ValueError, match=r"'.*none\.ckpt' is not a checkpoint of TensorFlow"):
        interop.tf1.load(optimizer, tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint of TensorFlow"):
        interop.tf1.load(optimizer, tmp_path)
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(ValueError, match="is not a checkpoint of TensorFlow"):
        interop.tf1.load(optimizer, tmp_path / "text")
    with pytest.raises(ValueError, match="There is no folder"):
        interop.tf1.save(optimizer, tmp_path / "none" / "back", None)


@pytest.mark.parametrize("rest", [b"", None], ids=["cut off", "zeros"])
def test_a_damaged_checkpoint_is_refused_whole(float64, tmp_path, rest):
    _, optimizer, variables = trained(tmp_path)
    (data,) = tmp_path.glob("*.data-*")
    content = data.read_bytes()
    half = len(content) // 2
    data.write_bytes(content[:half] + (bytes(len(content) - half) if rest is None else rest))
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="The checkpoint is damaged"):
        interop.tf1.load(optimizer, tmp_path, named(variables))
    models.assert_identical(optimizer.state_dict().values(), before.values())


def test_a_graph_with_more_variables_restores_what_was_saved(float64, tmp_path):
    # Such as the averages of a batch normalization, paired or from the template.
    further = {"net/bn/mean": np.full(3, 2.0), "net/other": np.array(5, np.int32)}
    program, optimizer, variables = trained(tmp_path, further=further)
    mean = keras.Variable(np.full(3, 7.0), dtype="float64", trainable=False)
    pairs = named(variables) | {"net/bn/mean": mean}
    interop.tf1.load(optimizer, tmp_path, pairs)
    assert_holds(optimizer, program)
    template = tf.train.latest_checkpoint(tmp_path)
    path = interop.tf1.save(optimizer, tmp_path / "back", pairs, template=template)
    blank = {name: np.zeros_like(value) for name, value in further.items()}
    program = make_program(zeros(), "momentum", further=blank)
    program.restore(path)
    assert_holds(optimizer, program)
    np.testing.assert_array_equal(program.value_of("net/bn/mean"), 7.0)
    assert program.value_of("net/other") == 5


def test_a_template_of_other_shapes_is_refused(float64, tmp_path):
    _, optimizer, variables = trained(tmp_path)
    other = Program([np.zeros(3), np.zeros((2, 4)), np.zeros(3)])
    (tmp_path / "other").mkdir()
    template = other.save(tmp_path / "other")
    with pytest.raises(ValueError, match=r"'net/scale' has shape \(\), and \(3,\) in the template"):
        interop.tf1.save(optimizer, tmp_path / "back", named(variables), template=template)
    assert not list(tmp_path.glob("back*"))


def test_half_precision_slots_have_the_dtype_of_their_variables_there(tmp_path):
    problem = halfway.make_problem(*SHAPES, moving=False, dtype="float16")
    ours = peers.Ours(conventions.tf1(halfway.RATE, momentum=MOMENTUM), problem.starts)
    ours.optimizer.jit_compile = False
    halfway.steps(ours, problem, 0, 3)
    program = Program([w.astype("float16") for w in zeros()], momentum=MOMENTUM)
    with pytest.raises(NotExactError, match="the slots are rounded to float16 there"):
        interop.tf1.save(ours.optimizer, tmp_path / "back", named(ours.variables))
    program.restore(
        interop.tf1.save(ours.optimizer, tmp_path / "back", named(ours.variables), exact=False)
    )
    for got, want in zip(program.slot("momentum"), ours.optimizer._momentums, strict=True):
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, models.values([want])[0].astype("float16"))
    again = built(ours.variables, momentum=MOMENTUM)
    path = program.save(tmp_path)
    with pytest.raises(NotExactError, match="the slots are rounded to float16 there"):
        interop.tf1.load(again, path, named(ours.variables))
    interop.tf1.load(again, path, named(ours.variables), exact=False)
    for got, want in zip(again._square_averages, program.slot("rms"), strict=True):
        np.testing.assert_array_equal(models.values([got])[0], want)


# `interop.like`.


@pytest.mark.parametrize("case", CASES)
def test_like_takes_the_steps_that_tf1_takes_in_float32_numbers(float64, tmp_path, case):
    # TF1 rounds 0.9 to float32 even for float64 variables.
    arguments = {"decay": 0.9, "epsilon": 1e-3, **CASES[case]}
    problem = halfway.make_problem(*SHAPES, moving=False)
    want = peers.follow("tf1", problem.starts, problem.gradients, learning_rate=0.01, **arguments)
    source = tf.compat.v1.train.RMSPropOptimizer(0.01, **arguments)
    fresh = interop.like(source, jit_compile=False)
    assert fresh.name == "RMSProp"
    got = peers.follow_ours(fresh, problem.starts, problem.gradients)
    halfway.assert_same(got[halfway.HALF :], want, problem)


def test_like_reads_a_checkpoint_and_needs_the_value_of_a_tensor(float64, tmp_path):
    program, _, variables = trained(tmp_path)
    pairs = named(variables)
    with pytest.raises(ValueError, match=r"learning_rate of the TF1 optimizer is a tensor.*Pass"):
        interop.like(program.optimizer, variables, pairs, state=tmp_path)
    optimizer = interop.like(
        program.optimizer, variables, pairs, state=tmp_path, learning_rate=halfway.RATE
    )
    assert_holds(optimizer, program)
    assert (optimizer.rho, optimizer.momentum, optimizer.epsilon) == (DECAY, MOMENTUM, EPSILON)
    assert optimizer.initial_square_average == 1.0
    assert int(optimizer.iterations) == halfway.HALF
    with pytest.raises(NotExactError, match="`centered`"):
        interop.like(
            program.optimizer, variables, pairs, state=tmp_path, learning_rate=0.1, centered=True
        )


def test_like_takes_numbers_that_are_functions_at_their_present_value():
    source = tf.compat.v1.train.RMSPropOptimizer(lambda: 0.5, decay=tf.constant(0.75))
    optimizer = interop.like(source)
    assert (float(optimizer.learning_rate), optimizer.rho) == (0.5, 0.75)
    assert math.isclose(optimizer.epsilon, 1e-10, rel_tol=1e-7)


def test_like_calls_a_rate_at_each_step_as_tf1_does():
    rates = [0.1]
    optimizer = interop.like(tf.compat.v1.train.RMSPropOptimizer(lambda: rates[0]))
    assert float(optimizer.learning_rate) == np.float32(0.1)
    rates[0] = 0.3
    assert float(optimizer.learning_rate) == np.float32(0.3)
    # Tensors and NumPy's numbers keep their digits.
    rates[0] = np.float64(0.1)
    assert float(optimizer.learning_rate) == 0.1


def test_other_numbers_in_functions_are_refused_with_a_state_unless_wanted(float64, tmp_path):
    _, _, variables = trained(tmp_path)
    source = tf.compat.v1.train.RMSPropOptimizer(
        halfway.RATE, decay=lambda: DECAY, momentum=MOMENTUM, epsilon=EPSILON
    )
    pairs = named(variables)
    with pytest.raises(NotExactError, match="The rho of the TF1 optimizer may change"):
        interop.like(source, variables, pairs, state=tmp_path)
    assert interop.like(source, variables, pairs, state=tmp_path, exact=False).rho == DECAY
    assert interop.like(source, variables, pairs, state=tmp_path, rho=0.5).rho == 0.5
