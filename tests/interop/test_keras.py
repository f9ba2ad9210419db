"""Test carrying state between `keras.optimizers.RMSprop`, live or in files, and this package's."""

import functools
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions, interop, recipes
from keras_rmsprop.interop import NotExactError
from tests.tools import halfway, hdf5, models
from tests.tools.models import Array, WithPath
from yardsticks import peers

SHAPES = ((), (2, 4))
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.7},
    "centered": {"centered": True, "epsilon": 1e-3},
    "centered, momentum": {"centered": True, "epsilon": 1e-3, "momentum": 0.7},
    "everything": {
        # Keras rounds some of these to float32 on some backends, but not these numbers.
        "weight_decay": 0.125,
        "clipvalue": 0.5,
        "rho": 0.8,
        "momentum": 0.7,
        "use_ema": True,
        "ema_momentum": 0.75,
        "ema_overwrite_frequency": 4,
    },
}
RATES = ("constant", "assigned", "schedule")


def make_problem(rate: str) -> halfway.Problem:
    problem = halfway.make_problem(*SHAPES, moving=rate == "assigned")
    return problem._replace(rates=None) if rate == "schedule" else problem


def arguments_of(case: str, rate: str) -> dict[str, Any]:
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.7)
    return {"learning_rate": schedule if rate == "schedule" else 0.01, **CASES[case]}


@functools.cache
def whole_training(case: str, rate: str) -> list[peers.Snapshot]:
    return peers.follow("keras", *make_problem(rate), **arguments_of(case, rate))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_there_and_ten_here(float64, case, rate):
    problem, arguments = make_problem(rate), arguments_of(case, rate)
    want = whole_training(case, rate)

    def bring(peer: Any, variables: list[Any]) -> Any:
        return interop.like(peer.optimizer, variables, "order")

    got = halfway.there_then_here(peers.Keras(problem.starts, **arguments), bring, problem)
    halfway.assert_same(got, want, problem)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_here_and_ten_there(float64, case, rate):
    problem, arguments = make_problem(rate), arguments_of(case, rate)
    want = whole_training(case, rate)

    def take(optimizer: Any, peer: Any, _: list[Any]) -> None:
        peer.optimizer.build(peer.variables)
        interop.keras.assign(optimizer, peer.optimizer, "order")
        assert int(peer.optimizer.iterations) == halfway.HALF

    got = halfway.here_then_there(
        conventions.keras(**arguments),
        lambda weights: peers.Keras(weights, **arguments),
        take,
        problem,
    )
    halfway.assert_same(got, want, problem)


def test_gradients_are_accumulated_on(float64):
    # Few steps: on JAX, Keras compiles each of them.
    variables = zeros("a")
    settings = {"learning_rate": 0.01, "momentum": 0.7, "gradient_accumulation_steps": 2}
    # In the middle of a step.
    source = trained(variables, steps=3, **settings)
    copies = zeros("a")
    copies[0].assign(variables[0])
    start = models.values(variables)
    optimizer = interop.like(source, copies, jit_compile=False)
    assert (int(optimizer.iterations), int(optimizer._iterations)) == (1, 3)
    for each, own in ((source, variables), (optimizer, copies)):
        apply(each, own, range(3, 7))
    models.assert_same(models.values(copies), models.values(variables), start, steps=2)
    # And back: what the target has accumulated is replaced.
    apply(source, variables, range(7, 8))
    interop.keras.assign(optimizer, source)
    assert int(source._iterations) == 7
    sums = [optimizer._roster.parameters[0].accumulator, *source._accumulated_gradients]
    ours, theirs = models.values(sums)
    np.testing.assert_array_equal(theirs, ours)
    assert np.all(theirs)
    # A step is a step, however many gradients make it, but a part of one is another.
    with pytest.raises(ValueError, match="1 of 2 gradients are accumulated"):
        interop.like(source, variables, gradient_accumulation_steps=None)
    other = trained(zeros("a"), steps=1, **settings | {"gradient_accumulation_steps": None})
    with pytest.raises(ValueError, match="1 of 2 gradients are accumulated"):
        interop.keras.assign(optimizer, other)
    apply(source, variables, range(7, 8))
    optimizer = interop.like(source, variables, gradient_accumulation_steps=None)
    assert int(optimizer._iterations) == 4


def test_gradients_are_accumulated_on_by_a_schedule(float64):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 100)
    settings = {"learning_rate": schedule, "gradient_accumulation_steps": 3}
    variables, copies = zeros("a"), zeros("a")
    source = trained(variables, steps=4, **settings)
    copies[0].assign(variables[0])
    start = models.values(variables)
    optimizer = interop.like(source, copies, jit_compile=False)
    for each, own in ((source, variables), (optimizer, copies)):
        apply(each, own, range(4, 8))
    models.assert_same(models.values(copies), models.values(variables), start, steps=1)
    interop.keras.assign(optimizer, source)
    assert int(source._iterations) == 8


def built(variables: Sequence[Any], **settings: Any) -> keras_rmsprop.RMSprop:
    optimizer = keras_rmsprop.RMSprop(**({"jit_compile": False} | settings))
    optimizer.build(list(variables))
    return optimizer


def trained(variables: Sequence[Any], steps: int = 2, **settings: Any) -> Any:
    """Keras's optimizer after some steps."""
    optimizer = keras.optimizers.RMSprop(**({"learning_rate": 0.01} | settings))
    optimizer.build(list(variables))
    apply(optimizer, variables, range(steps))
    return optimizer


def apply(optimizer: Any, variables: Sequence[Any], steps: range) -> None:
    """Make steps with gradients that depend only on the step."""
    for step in steps:
        rng = np.random.default_rng(step)
        gradients = [rng.normal(0.3, 1.0, v.shape).astype(v.dtype) for v in variables]
        optimizer.apply(models.tensors(gradients), list(variables))


def zeros(*names: str, shape: tuple[int, ...] = (3,)) -> list[Any]:
    return [WithPath(name, np.zeros(shape)) for name in names]


# Names.


def test_the_same_variables_are_paired_whatever_their_names_and_order(float64):
    variables = zeros("a", "a", "b")
    source = trained(variables, momentum=0.7)
    optimizer = interop.like(source, variables[::-1])
    want = models.values([*source._velocities[::-1], *source._momentums[::-1]])
    got = models.values([*optimizer._square_averages, *optimizer._momentums])
    models.assert_identical(got, want)
    target = trained(variables[1:] + variables[:1], momentum=0.7)
    interop.keras.assign(optimizer, target)
    order = [1, 2, 0]
    models.assert_identical(
        models.values(target._velocities), models.values(source._velocities[i] for i in order)
    )


def test_other_variables_are_paired_by_their_paths(float64):
    source = trained(zeros("old/layer/a", "old/layer/b"))
    optimizer = interop.like(source, zeros("new/layer/b", "new/layer/a"))
    models.assert_identical(
        models.values(optimizer._square_averages), models.values(source._velocities[::-1])
    )
    pairs = {"old/layer/a": "new/layer/b", "old/layer/b": "layer/a"}
    optimizer = interop.like(source, zeros("new/layer/b", "new/layer/a"), pairs)
    models.assert_identical(
        models.values(optimizer._square_averages), models.values(source._velocities)
    )


@pytest.mark.parametrize("carry", [interop.keras.load, interop.keras.assign])
def test_pairs_that_do_not_fit_are_refused_whole(float64, carry):
    there = zeros("a", shape=(2, 4)) + zeros("b")
    here = zeros("a", shape=(2, 4)) + zeros("b")
    source, optimizer = trained(there), built(here, learning_rate=0.01)
    before = models.values([*source.variables, *optimizer.variables])
    for pairs, message in (
        ({"a": "b", "b": "a"}, r"'[ab]' has shape .*; '[ab]' has shape .*Nothing has changed"),
        ({"a": "a"}, "no variable is paired with 'b'; no parameter is paired with 'b'"),
        ({"a": "a", "c": "b"}, "There is no parameter 'c'"),
        ({"a": "a", "b": "c"}, "paired with 'c', which is not a variable"),
        ({"a": "a", "b": "a"}, "'b' and 'a' are both paired with 'a'"),
    ):
        with pytest.raises(ValueError, match=message):
            carry(optimizer, source, pairs)
        models.assert_identical(models.values([*source.variables, *optimizer.variables]), before)


def test_variables_without_slots_are_left_out(float64):
    variables = zeros("a", "scale")
    variables[1].overwrite_with_gradient = True
    source = trained(variables)
    assert source._velocities[1] is None
    optimizer = interop.like(source, variables)
    got = models.values(optimizer._square_averages[:1])
    models.assert_identical(got, models.values(source._velocities[:1]))
    target = trained(variables)
    target._velocities[0].assign([5.0] * 3)
    interop.keras.assign(optimizer, target)
    models.assert_identical(models.values(target._velocities[:1]), got)


# What cannot be the same.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": 0.5}, r"`rho` is 0\.5 here and 0\.9 there"),
        ({"momentum": 0.5}, r"`momentum` is 0\.5 here and 0\.7 there"),
        ({"epsilon": 0.5}, r"`epsilon` is 0\.5 here and 1e-07 there"),
        ({"epsilon_inside_sqrt": False}, "`epsilon_inside_sqrt` is False here and True there"),
        ({"centered": True}, "`centered` is True here and False there"),
        ({"weight_decay": 0.1}, r"`weight_decay` is 0\.1 here and None there"),
        ({"clipvalue": 0.1}, r"`clipvalue` is 0\.1 here and None there"),
        ({"use_ema": True}, "`use_ema` is True here and False there"),
        ({"l2": 0.1}, r"`l2` is 0\.1 here and 0\.0 there"),
        ({"bias_correction": True}, "`bias_correction` is True here and False there"),
        ({"maximize": True}, "`maximize` is True here and False there"),
        ({"groups": {"b": {"rho": 0.5}}}, r"`rho` is 0\.5 here and 0\.9 there \(of 'b'\)"),
    ],
)
@pytest.mark.parametrize("carry", [interop.keras.load, interop.keras.assign])
def test_other_steps_are_refused(float64, carry, settings, message):
    variables = zeros("a", "b")
    source = trained(variables, momentum=0.7)
    optimizer = built(variables, **({"momentum": 0.7, "learning_rate": 0.01} | settings))
    before = models.values([*source.variables, *optimizer.variables])
    with pytest.raises(NotExactError, match=f"{message}.*exact=False.*Nothing has changed"):
        carry(optimizer, source)
    models.assert_identical(models.values([*source.variables, *optimizer.variables]), before)


@pytest.mark.parametrize("carry", [interop.keras.load, interop.keras.assign])
def test_a_schedule_that_has_another_rate_is_refused(float64, carry):
    variables = zeros("a")
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.5, 0.25])
    source = trained(variables, learning_rate=schedule)
    other = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.125])
    optimizer = built(variables, learning_rate=other)
    optimizer.iterations.assign(2)
    with pytest.raises(NotExactError, match=r"0\.125 here.* 0\.5 "):
        carry(optimizer, source)
    carry(optimizer, source, exact=False)
    # And a callable.
    source = trained(variables, learning_rate=lambda: 0.25)
    with pytest.raises(NotExactError, match="a schedule here and a callable there, which cannot"):
        carry(optimizer, source)


SCHEDULES = keras.optimizers.schedules


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        # They agree now, and after 1, 10, 100, 1,000 and 10,000 more steps.
        (
            SCHEDULES.PiecewiseConstantDecay([5, 13], [0.5, 0.125, 0.5]),
            SCHEDULES.PiecewiseConstantDecay([100], [0.5, 0.5]),
            "after 6 steps is 0.125 here and 0.5 there",
        ),
        (
            SCHEDULES.PiecewiseConstantDecay([1_234_567], [0.5, 0.25]),
            SCHEDULES.PiecewiseConstantDecay([1_234_569], [0.5, 0.25]),
            "after 1234568 steps is 0.25 here and 0.5 there",
        ),
        # One takes only one count at a time.
        (
            SCHEDULES.CosineDecay(0.125, 200, warmup_target=0.5, warmup_steps=50),
            SCHEDULES.PolynomialDecay(0.125, 50, 0.5),
            "after 52 steps",
        ),
        (
            SCHEDULES.CosineDecay(0.5, 200, name="mine"),
            SCHEDULES.CosineDecay(0.5, 200),
            None,
        ),
        (
            SCHEDULES.CosineDecay(0.0, 200, warmup_target=0.5, warmup_steps=0),
            SCHEDULES.CosineDecay(0.5, 200),
            None,
        ),
    ],
)
@pytest.mark.parametrize("carry", [interop.keras.load, interop.keras.assign])
def test_schedules_are_compared_at_all_that_is_to_come(float64, carry, here, there, words):
    variables = zeros("a")
    source = trained(variables, learning_rate=there)
    optimizer = built(variables, learning_rate=here)
    if words is None:
        carry(optimizer, source)
        return
    with pytest.raises(NotExactError) as raised:
        carry(optimizer, source)
    assert words in str(raised.value)


def test_schedules_are_compared_by_steps_where_gradients_are_accumulated(float64):
    variables = zeros("a")
    schedule = SCHEDULES.ExponentialDecay(0.5, 10, 0.5)
    source = trained(variables, learning_rate=schedule)
    with pytest.raises(NotExactError, match="the learning rate after 2 steps is"):
        interop.like(source, variables, gradient_accumulation_steps=2)
    slower = SCHEDULES.ExponentialDecay(0.5, 20, 0.5)
    interop.like(source, variables, gradient_accumulation_steps=2, learning_rate=slower)


@pytest.mark.parametrize("carry", [interop.keras.load, interop.keras.assign])
def test_a_callable_is_the_same_rate_only_as_itself(float64, carry):
    variables = zeros("a")

    def rate() -> float:
        return 0.25

    optimizer = built(variables, learning_rate=rate)
    carry(optimizer, trained(variables, learning_rate=rate))
    for other in (SCHEDULES.PiecewiseConstantDecay([5], [0.25, 0.25]), lambda: 0.25):
        with pytest.raises(NotExactError, match=r"is a callable here and .* cannot be compared"):
            carry(optimizer, trained(variables, learning_rate=other))


def test_a_decay_is_the_number_that_keras_uses(float64):
    # Rounded to float32 on TensorFlow only.
    variables = zeros("a")
    source = trained(variables, weight_decay=0.1)
    ours = [keras.Variable(models.values(variables)[0], name="a")]
    optimizer = interop.like(source, ours, jit_compile=False)
    start = models.values(variables)
    for step in range(3, 8):
        gradient = keras.ops.convert_to_tensor(np.full(variables[0].shape, 0.5 + step))
        source.apply([gradient], variables)
        optimizer.apply([gradient], ours)
    models.assert_same(models.values(ours), models.values(variables), start, steps=5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_slots_in_half_precision_are_refused_unless_wanted(tmp_path, dtype):
    variables = [keras.Variable(np.ones(3), name="a", dtype=dtype)]
    source = keras.optimizers.RMSprop(0.25)
    source.build(variables)
    source.apply([keras.ops.ones(3, dtype)])
    message = f"the slots are rounded to {dtype} there, and not here"
    with pytest.raises(NotExactError, match=message):
        interop.like(source, variables)
    optimizer = interop.like(source, variables, exact=False)
    (slot,) = optimizer._square_averages
    want = keras.ops.cast(source._velocities[0], "float32")
    np.testing.assert_array_equal(models.values([slot])[0], keras.ops.convert_to_numpy(want))
    with pytest.raises(NotExactError, match=message):
        interop.keras.assign(optimizer, source)
    interop.keras.assign(optimizer, source, exact=False)


def test_half_precision_slots_in_a_file_are_refused_unless_wanted(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="float16")])
    model.compile(keras.optimizers.RMSprop(0.25))
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "half.weights.h5"
    model.save_weights(path)
    optimizer = built(model.trainable_variables, learning_rate=0.25)
    with pytest.raises(NotExactError, match="the slots are rounded to float16 in the file"):
        interop.keras.load(optimizer, path)
    interop.keras.load(optimizer, path, exact=False)


def test_averages_that_do_not_fit_into_float32_are_refused(float64):
    wide = [keras.Variable(np.ones(3), name="a")]
    narrow = [keras.Variable(np.ones(3), name="a", dtype="float32")]
    source, target = keras.optimizers.RMSprop(0.25), keras.optimizers.RMSprop(0.25)
    source.build(wide)
    target.build(narrow)
    for value, word in ((1e59, "reaches 1e+59, which is infinite"), (1e-59, None)):
        source._velocities[0].assign(np.full(3, value))
        optimizer = built(wide)
        interop.keras.load(optimizer, source)
        before = models.values(target.variables)
        if word is None:
            # Beside epsilon this is nothing.
            interop.like(source, narrow, "order")
            interop.keras.assign(optimizer, target, "order")
            continue
        with pytest.raises(NotExactError) as raised:
            interop.like(source, narrow, "order")
        assert f"{word} in float32 here" in str(raised.value)
        with pytest.raises(NotExactError) as raised:
            interop.keras.assign(optimizer, target, "order")
        assert f"{word} in float32 there" in str(raised.value)
        models.assert_identical(models.values(target.variables), before)
    source.epsilon = 0.0
    with pytest.raises(NotExactError, match="as small as 1e-59, which is 0 in float32 here"):
        interop.like(source, narrow, "order")


def test_the_rate_is_carried_over_and_back(float64):
    variables = zeros("a")
    source = trained(variables)
    source.learning_rate = 0.3
    optimizer = built(variables)
    interop.keras.load(optimizer, source)
    assert float(optimizer.learning_rate) == 0.3
    optimizer.learning_rate = 0.2
    interop.keras.assign(optimizer, source)
    assert float(source.learning_rate) == 0.2


def test_without_exactness_the_rest_starts_afresh_and_is_reported(float64):
    source = trained(zeros("a", "b"), momentum=0.7)
    optimizer = built(zeros("a", "c"), centered=True, momentum=0.5)
    with pytest.warns(UserWarning, match="these start afresh"):
        report = interop.keras.load(optimizer, source, exact=False)
    assert set(report.initialized) == {
        "a/gradient_average",
        "c/square_average",
        "c/gradient_average",
        "c/momentum",
    }
    assert {"a/square_average", "a/momentum", "iteration"} <= set(report.restored)
    assert int(optimizer.iterations) == 2


def test_slots_that_only_the_target_has_start_afresh_too(float64):
    variables = zeros("a")
    target = trained(variables, momentum=0.7, centered=True)
    optimizer = built(variables)
    optimizer.apply(models.tensors([np.ones(3)]), variables)
    interop.keras.assign(optimizer, target, exact=False)
    got = models.values([*target._velocities, *target._momentums, *target._average_gradients])
    want = [*models.values(optimizer._square_averages), np.zeros(3), np.zeros(3)]
    models.assert_identical(got, want)


def test_anything_else_is_refused():
    variables = zeros("a")
    optimizer = built(variables)
    with pytest.raises(ValueError, match="has no state, because it is not built"):
        interop.keras.load(optimizer, keras.optimizers.RMSprop())
    with pytest.raises(ValueError, match=r"must be a keras\.optimizers\.RMSprop .*Adam\."):
        interop.keras.load(optimizer, keras.optimizers.Adam())


# `interop.like`.


def test_variables_that_are_excluded_from_weight_decay_become_a_group(float64):
    variables = zeros("kernel", "bias")
    for variable in variables:
        variable.assign(np.ones(3))
    source = keras.optimizers.RMSprop(0.01, weight_decay=0.5)
    source.exclude_from_weight_decay(var_list=variables[1:])
    source.build(variables)
    with pytest.raises(ValueError, match="different settings, which become groups"):
        interop.like(source)
    copies = zeros("kernel", "bias")
    optimizer = interop.like(source, copies, jit_compile=False)
    start = models.values(variables)
    for copy, value in zip(copies, start, strict=True):
        copy.assign(value)
    for gradient in (1.0, -2.0):
        for each, own in ((source, variables), (optimizer, copies)):
            each.apply(models.tensors([np.full(3, gradient)] * 2), own)
    models.assert_same(models.values(copies), models.values(variables), start, steps=2)
    interop.keras.assign(optimizer, source)


def test_like_has_the_settings_of_keras_s_class():
    source = keras.optimizers.RMSprop(
        0.5, rho=0.75, momentum=0.25, epsilon=0.125, centered=True, weight_decay=0.1, clipnorm=2.0,
        use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=7, loss_scale_factor=4.0,
        gradient_accumulation_steps=3, name="mine",
    )  # fmt: skip
    config = interop.like(source).get_config()
    want = source.get_config()
    assert {name: config[name] for name in want} == want


# Files.


STEPS = 8
# The attributes of Keras's class that hold what is the same here.
SLOTS = {
    "gradient_average": "_average_gradients",
    "momentum": "_momentums",
    "average": "_model_variables_moving_average",
    "accumulator": "_accumulated_gradients",
}


def write(
    folder: Path, optimizer: Any, suffix: str = ".keras", steps: int = STEPS
) -> tuple[keras.Model, Path]:
    """Make steps with a model's optimizer, and save both."""
    model = models.model()
    model.compile(optimizer, loss="mse")
    optimizer.build(model.trainable_variables)
    # Inside one that scales the loss, if there is one.
    apply(getattr(optimizer, "inner_optimizer", optimizer), model.trainable_variables, range(steps))
    path = folder / f"trained{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    return model, path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("suffix", "rate"), [(".keras", "constant"), (".weights.h5", "schedule")])
def test_a_training_in_a_file_goes_on(float64, tmp_path, case, rate, suffix):
    arguments = arguments_of(case, rate)
    theirs, path = write(tmp_path, keras.optimizers.RMSprop(**arguments), suffix)
    ours = models.model()
    start = ours.get_weights()
    optimizer = built(ours.trainable_variables, **arguments)
    report = interop.keras.load(optimizer, path)
    assert report.initialized == report.dropped == ()
    assert int(optimizer.iterations) == STEPS
    ours.set_weights(theirs.get_weights())
    for model, own in ((ours, optimizer), (theirs, theirs.optimizer)):
        apply(own, model.trainable_variables, range(STEPS, 2 * STEPS))
    models.assert_same(ours.get_weights(), theirs.get_weights(), start, steps=2 * STEPS)
    for kind, slots in SLOTS.items():
        held = getattr(theirs.optimizer, slots, ())
        got = [getattr(parameter, kind) for parameter in optimizer._roster.parameters]
        for mine, want in zip(models.values(got) if held else (), models.values(held), strict=True):
            np.testing.assert_allclose(mine, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_file_of_this_package_is_read_too(tmp_path, suffix):
    settings = {"momentum": 0.5, "nesterov": True, "lr_in_momentum": False, "centered": True}
    trained_here = keras_rmsprop.RMSprop(0.01, jit_compile=False, **settings)
    _, path = write(tmp_path, trained_here, suffix)
    optimizer = built(models.model().trainable_variables, **settings)
    interop.keras.load(optimizer, str(path))
    models.assert_identical(optimizer.state_dict().values(), trained_here.state_dict().values())


def test_moving_averages_and_half_an_accumulation_are_in_a_file(tmp_path):
    settings = {"use_ema": True, "gradient_accumulation_steps": 3, "learning_rate": 0.01}
    model, path = write(tmp_path, keras.optimizers.RMSprop(**settings), steps=4)
    optimizer = built(models.model().trainable_variables, **settings)
    interop.keras.load(optimizer, path)
    assert int(optimizer._iterations) == 4
    for kind in ("accumulator", "average"):
        got = [getattr(parameter, kind) for parameter in optimizer._roster.parameters]
        want = models.values(getattr(model.optimizer, SLOTS[kind]))
        assert np.any(want[0] != 0.0)
        models.assert_identical(models.values(got), want)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": 0.5}, r"`rho` is 0\.5 here and 0\.9 there"),
        ({"epsilon": 0.5}, r"`epsilon` is 0\.5 here and 1e-07 there"),
        ({"nesterov": True}, "`nesterov` is True here and False there"),
        ({"momentum": 0.0}, r"`momentum` is 0\.0 here and 0\.7 there"),
    ],
)
def test_a_file_of_other_steps_is_refused(tmp_path, settings, message):
    _, path = write(tmp_path, keras.optimizers.RMSprop(0.01, momentum=0.7))
    optimizer = built(models.model().trainable_variables, **({"momentum": 0.7} | settings))
    before = optimizer.state_dict()
    with pytest.raises(NotExactError, match=f"(?s){message}.*exact=False.*Nothing has changed"):
        interop.keras.load(optimizer, path)
    models.assert_identical(optimizer.state_dict().values(), before.values())
    assert optimizer.load_report is None


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_what_is_not_in_a_file_is_refused_or_starts_afresh(tmp_path, suffix):
    _, path = write(tmp_path, keras.optimizers.RMSprop(0.01), suffix)
    optimizer = built(models.model().trainable_variables, momentum=0.7)
    message = {
        ".keras": r"`momentum` is 0\.7 here and 0\.0 there",
        ".weights.h5": "not in the file",
    }
    with pytest.raises(NotExactError, match=message[suffix]):
        interop.keras.load(optimizer, path)
    assert int(optimizer.iterations) == 0
    with pytest.warns(UserWarning, match="these start afresh: .*momentum"):
        report = interop.keras.load(optimizer, path, exact=False)
    assert {name.rpartition("/")[2] for name in report.initialized} == {"momentum"}
    assert int(optimizer.iterations) == STEPS


def test_variables_may_be_excluded_from_the_decay_in_a_file(tmp_path):
    source = keras.optimizers.RMSprop(0.01, weight_decay=0.1)
    source.exclude_from_weight_decay(var_names=["bias"])
    _, path = write(tmp_path, source)
    optimizer = keras_rmsprop.RMSprop(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(models.model().trainable_variables)
    interop.keras.load(optimizer, path)
    optimizer.weight_decay = 0.2
    with pytest.raises(NotExactError, match=r"`weight_decay` is 0\.2 here and 0\.1 there \(of"):
        interop.keras.load(optimizer, path)


@pytest.mark.parametrize("way", ["load", "assign"])
def test_exclusions_that_a_file_has_lost_are_named_where_they_are_missed(tmp_path, way):
    source = keras.optimizers.RMSprop(0.01, weight_decay=0.1)
    source.exclude_from_weight_decay(var_names=["bias"])
    _, path = write(tmp_path, source)
    theirs = keras.saving.load_model(path).optimizer
    optimizer = keras_rmsprop.RMSprop(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build(models.model().trainable_variables)
    carry = getattr(interop.keras, way)
    with pytest.raises(NotExactError, match="does not hold the exclusions"):
        carry(optimizer, theirs, "order")
    optimizer.rho = 0.5
    again = keras.optimizers.RMSprop(0.01, weight_decay=0.1)
    again.exclude_from_weight_decay(var_names=["bias"])
    again.build(models.model().trainable_variables)
    with pytest.raises(NotExactError) as raised:
        carry(optimizer, again, "order")
    assert "exclusions" not in str(raised.value)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (0.25, "is a number here, and changes by a schedule"),
        (SCHEDULES.ExponentialDecay(0.25, 1, 0.75), r"after 8 steps is 0\.025.* here and 0\.00097"),
        (lambda: 0.25, "a callable here and a schedule there, which cannot be compared"),
        (SCHEDULES.ExponentialDecay(0.25, 1, 0.5), None),
    ],
)
def test_the_schedule_in_a_file_is_compared(tmp_path, rate, message):
    theirs = keras.optimizers.RMSprop(SCHEDULES.ExponentialDecay(0.25, 1, 0.5))
    _, path = write(tmp_path, theirs)
    optimizer = built(models.model().trainable_variables, learning_rate=rate)
    if message is None:
        interop.keras.load(optimizer, path)
        return
    with pytest.raises(NotExactError, match=message):
        interop.keras.load(optimizer, path)


@keras.saving.register_keras_serializable(package="tests_interop")
class Steady(SCHEDULES.LearningRateSchedule):
    """A schedule of the user's."""

    def __call__(self, step: Any) -> Any:
        """Return the rate after `step` steps."""
        return 0.25 + 0.0 * step

    def get_config(self) -> dict[str, Any]:
        """Return no arguments."""
        return {}


def test_a_schedule_that_is_not_known_where_the_file_is_loaded_is_refused(tmp_path, monkeypatch):
    _, path = write(tmp_path, keras.optimizers.RMSprop(Steady()))
    optimizer = built(models.model().trainable_variables, learning_rate=Steady())
    interop.keras.load(optimizer, path)
    monkeypatch.setattr(keras.saving, "get_registered_object", lambda *_: None)
    with pytest.raises(NotExactError, match="'tests_interop>Steady', which is not known here"):
        interop.keras.load(optimizer, path)


@keras.saving.register_keras_serializable(package="tests_interop")
def half(number: float) -> float:
    """Return a half."""
    return number / 2.0


@keras.saving.register_keras_serializable(package="tests_interop")
class Composed(SCHEDULES.LearningRateSchedule):
    """A schedule of the user's that has a function of the user's."""

    def __init__(self, function: Any = half) -> None:
        self.function = function

    def __call__(self, step: Any) -> Any:
        """Return the rate after `step` steps."""
        return self.function(0.5) + 0.0 * step

    def get_config(self) -> dict[str, Any]:
        """Return the function."""
        return {"function": keras.saving.serialize_keras_object(self.function)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return a schedule with the function."""
        return cls(keras.saving.deserialize_keras_object(config["function"]))


def test_a_schedule_of_the_user_s_may_have_what_is_registered(tmp_path):
    _, path = write(tmp_path, keras.optimizers.RMSprop(Composed()))
    optimizer = built(models.model().trainable_variables, learning_rate=Composed())
    interop.keras.load(optimizer, path)
    assert optimizer.load_report is not None
    other = keras.saving.serialize_keras_object(Composed())
    other["config"]["function"] |= {"config": "load_data", "module": "keras.datasets.mnist"}
    rename_rate(path, other)
    with pytest.raises(NotExactError, match="'tests_interop>Composed', which is not known here"):
        interop.keras.load(optimizer, path)


@keras.saving.register_keras_serializable(package="tests_interop")
class Marking:
    """No schedule, but it can be called as one, and shows that it was."""

    marks: ClassVar[list[str]] = []

    @classmethod
    def from_config(cls, _: dict[str, Any]) -> Any:
        """Show that an object is made."""
        cls.marks.append("made")
        return SCHEDULES.ExponentialDecay(0.25, 1, 0.5)

    def get_config(self) -> dict[str, Any]:
        """Return no arguments."""
        return {}


def marking(_: Any = None) -> float:
    """Return a rate, and show that it is called."""
    Marking.marks.append("called")
    return 0.25


def test_what_a_file_names_in_place_of_a_schedule_is_neither_made_nor_called(tmp_path):
    register = keras.saving.register_keras_serializable("tests_interop")
    theirs = keras.optimizers.RMSprop(SCHEDULES.ExponentialDecay(0.25, 1, 0.5))
    _, path = write(tmp_path, theirs)
    optimizer = built(models.model().trainable_variables, learning_rate=theirs._learning_rate)
    interop.keras.load(optimizer, path)
    kind = "tests_interop>Marking"
    serialized = keras.saving.serialize_keras_object
    for rate in (
        {"module": None, "class_name": "Marking", "config": {}, "registered_name": kind},
        serialized(register(marking)),
        {
            **serialized(conventions.CountSchedule(register(marking))),
            "config": {"function": kind},
        },
        {
            **serialized(recipes.AtLeast(Steady(), 0.25)),
            "config": {
                "minimum": 0.25,
                "schedule": {
                    "module": None,
                    "class_name": "Marking",
                    "config": {},
                    "registered_name": kind,
                },
            },
        },
    ):
        rename_rate(path, rate)
        with pytest.raises(NotExactError, match="which is not known here"):
            interop.keras.load(optimizer, path)
        interop.keras.load(optimizer, path, exact=False)
    assert not Marking.marks


def rename_rate(path: Path, rate: dict[str, Any]) -> None:
    """Write another learning rate into the config of a model's file."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    config["compile_config"]["optimizer"]["config"]["learning_rate"] = rate
    contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        ({"transform": "centralize"}, {}, "`transform` is None here and 'keras_rmsprop>central"),
        ({"transform": "centralize"}, {"transform": "centralize"}, None),
        ({"state_dtype": "bfloat16"}, {}, "`state_dtype` is None here and 'bfloat16' there"),
        ({"state_dtype": "bfloat16"}, {"state_dtype": "bfloat16"}, None),
        ({"loss_scale_factor": 2.0}, {}, r"`loss_scale_factor` is None here and 2\.0 there"),
        ({"groups": {".*bias": {"rho": 0.5}}}, {}, "`groups` are .* here and .*bias.* there"),
        (
            {"groups": {".*bias": {"rho": 0.5}}},
            {"groups": {".*bias": {"rho": 0.5}}, "epsilon": 0.5},
            r"`epsilon` is 0\.5 here and 1e-07 there",
        ),
        ({"groups": {".*bias": {"rho": 0.5}}}, {"groups": {".*bias": {"rho": 0.5}}}, None),
    ],
)
def test_what_only_this_package_does_is_compared_in_its_files(tmp_path, theirs, ours, message):
    trained_here = keras_rmsprop.RMSprop(0.25, jit_compile=False, **theirs)
    _, path = write(tmp_path, trained_here)
    optimizer = built(models.model().trainable_variables, **ours)
    if message is None:
        interop.keras.load(optimizer, path)
        return
    with pytest.raises(NotExactError, match=message):
        interop.keras.load(optimizer, path)


def test_the_optimizer_inside_a_loss_scaling_one_is_read(tmp_path):
    inner = keras.optimizers.RMSprop(0.01, momentum=0.7)
    _, path = write(tmp_path, keras.optimizers.LossScaleOptimizer(inner))
    optimizer = built(models.model().trainable_variables, momentum=0.7)
    interop.keras.load(optimizer, path)
    models.assert_identical(models.values(optimizer._momentums), models.values(inner._momentums))
    with pytest.raises(NotExactError, match="`momentum`"):
        interop.keras.load(built(models.model().trainable_variables, momentum=0.5), path)


def test_files_that_hold_no_state_of_an_rmsprop_are_refused(tmp_path):
    optimizer = built(models.model().trainable_variables, momentum=0.7)
    before = optimizer.state_dict()
    uncompiled = tmp_path / "uncompiled.keras"
    models.model().save(uncompiled)
    _, adam = write(tmp_path, keras.optimizers.Adam(0.01))
    _, weights_of_adam = write(tmp_path, keras.optimizers.Adam(0.01), ".weights.h5")
    text, archive = tmp_path / "text", tmp_path / "archive.keras"
    text.write_text("no file of Keras")
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("readme", "nothing")
    for path, message in (
        (tmp_path / "none.keras", "There is no file"),
        (tmp_path, "is a folder"),
        (text, "is not a file that Keras saves"),
        (archive, r"has no model\.weights\.h5"),
        (uncompiled, "holds no optimizer's state"),
        (adam, "state of another optimizer"),
        (weights_of_adam, "state of another optimizer"),
    ):
        with pytest.raises(ValueError, match=message):
            interop.keras.load(optimizer, path)
        models.assert_identical(optimizer.state_dict().values(), before.values())
        assert optimizer.load_report is None


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_damaged_file_is_refused_whole(tmp_path, suffix):
    _, path = write(tmp_path, keras.optimizers.RMSprop(0.01), suffix)
    optimizer = built(models.model().trainable_variables)
    before = optimizer.state_dict()
    content = path.read_bytes()
    for kept in (content[: len(content) // 2], flipped(content)):
        path.write_bytes(kept)
        with pytest.raises(ValueError, match=r"not a file that Keras saves|damaged|holds no"):
            interop.keras.load(optimizer, path)
        models.assert_identical(optimizer.state_dict().values(), before.values())


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("way", hdf5.WAYS_OUT)
def test_a_file_that_leads_to_another_is_refused_and_the_entry_named(tmp_path, way, suffix):
    _, path = write(tmp_path, keras.optimizers.RMSprop(0.01), suffix)
    optimizer = built(models.model().trainable_variables)
    before = optimizer.state_dict()
    entry = hdf5.lead_out(path, way)
    for exact in (True, False):
        with pytest.raises(ValueError, match=f"'{entry}' leads to another file"):
            interop.keras.load(optimizer, path, exact=exact)
    models.assert_identical(optimizer.state_dict().values(), before.values())


def test_a_link_within_a_file_is_followed(tmp_path):
    theirs, path = write(tmp_path, keras.optimizers.RMSprop(0.01), ".weights.h5")
    with h5py.File(path, "a") as file:
        file.move("optimizer/vars/2", "elsewhere")
        file["optimizer/vars/2"] = h5py.SoftLink("/elsewhere")
    optimizer = built(models.model().trainable_variables)
    interop.keras.load(optimizer, path)
    averages = [parameter.square_average for parameter in optimizer._roster.parameters]
    models.assert_identical(models.values(averages), models.values(theirs.optimizer._velocities))


def flipped(content: bytes) -> bytes:
    """Overwrite the first half of a file, after its first bytes."""
    half = len(content) // 2
    return content[:16] + bytes(255 - byte for byte in content[16:half]) + content[half:]


def test_pairs_are_not_for_files(tmp_path):
    with pytest.raises(ValueError, match="`pairs` is for live optimizers"):
        interop.keras.load(built(zeros("a")), tmp_path / "trained.keras", "order")


def test_the_state_in_a_file_of_a_float32_model(tmp_path: Path) -> None:
    # As a user meets it: a float32 model, `fit` and a Keras file.
    theirs = models.model()
    start: list[Array] = theirs.get_weights()
    models.fit(theirs, keras.optimizers.RMSprop(0.01, momentum=0.5))
    theirs.save(path := tmp_path / "trained.keras")
    loaded = keras.saving.load_model(path)
    loaded.compile(interop.like(loaded.optimizer, loaded.trainable_variables), loss="mse")
    models.assert_same(models.go_on(loaded), models.go_on(theirs), start, steps=16)
