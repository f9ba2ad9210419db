"""Test carrying state between tf_keras's RMSprops, new and legacy, and this package's.

Hyperparameters are numbers that float32 holds, to which the legacy class rounds them, unless a test
is about that.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions, interop
from keras_rmsprop.interop import NotExactError
from tests.tools import halfway, models
from tests.tools.models import Array, WithPath
from yardsticks import peers

if peers.unavailable("tf_keras"):
    pytest.skip(str(peers.unavailable("tf_keras")), allow_module_level=True)

import tensorflow as tf

tf_keras = peers._tf_keras()

SHAPES = ((), (2, 4), (3,))
RHO, MOMENTUM, EPSILON = 0.875, 0.75, 2.0**-10
CLASSES = {"new": peers.TFKeras, "legacy": peers.TFKerasLegacy}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": MOMENTUM},
    "centered": {"centered": True},
    "centered, momentum": {"centered": True, "momentum": MOMENTUM},
    "clipped": {"momentum": MOMENTUM, "clipnorm": 1.5},
}
# Of the new class alone.
NEW_CASES: dict[str, dict[str, Any]] = {
    "decayed": {"weight_decay": 0.125},
    "ema": {"use_ema": True, "ema_momentum": 0.75, "ema_overwrite_frequency": 4},
}
EVERY = [
    *((kind, case) for kind in CLASSES for case in CASES),
    *(("new", case) for case in NEW_CASES),
]
RATES = ("constant", "assigned", "schedule")
BOUNDARIES, VALUES = [3, 8, 12], [2.0**-6, 2.0**-7, 2.0**-5, 2.0**-8]


def make_problem(rate: str) -> halfway.Problem:
    problem = halfway.make_problem(*SHAPES, moving=rate == "assigned")
    return problem._replace(rates=None) if rate == "schedule" else problem


def arguments_of(case: str) -> dict[str, Any]:
    return {"rho": RHO, "epsilon": EPSILON, **(CASES | NEW_CASES)[case]}


def make_peer(kind: str, weights: Sequence[Array], case: str, rate: str = "constant") -> Any:
    learning_rate: Any = halfway.RATE
    if rate == "schedule":
        schedules = tf_keras.optimizers.schedules
        learning_rate = schedules.PiecewiseConstantDecay(BOUNDARIES, VALUES)
    return CLASSES[kind](weights, learning_rate=learning_rate, **arguments_of(case))


def build(peer: Any) -> Any:
    """Create the slots of a peer that makes no step."""
    if isinstance(peer, peers.TFKeras):
        peer.optimizer.build(peer.variables)
    else:
        peer.optimizer._create_all_weights(peer.variables)
    return peer


def make_optimizer(kind: str, case: str, rate: str = "constant") -> keras_rmsprop.RMSprop:
    learning_rate: Any = halfway.RATE
    if rate == "schedule":
        schedules = keras.optimizers.schedules
        learning_rate = schedules.PiecewiseConstantDecay(BOUNDARIES, VALUES)
    make = conventions.keras if kind == "new" else conventions.tf_keras_legacy
    return make(learning_rate, **arguments_of(case))


@functools.cache
def whole_training(kind: str, case: str, rate: str) -> list[peers.Snapshot]:
    problem = make_problem(rate)
    return halfway.steps(make_peer(kind, problem.starts, case, rate), problem, 0, halfway.STEPS)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_ten_steps_there_and_ten_here(float64, kind, case, rate):
    problem, want = make_problem(rate), whole_training(kind, case, rate)

    def bring(peer: Any, variables: list[Any]) -> Any:
        return interop.like(peer.optimizer, variables, "order")

    got = halfway.there_then_here(make_peer(kind, problem.starts, case, rate), bring, problem)
    halfway.assert_same(got, want, problem)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("kind", "case"), EVERY)
def test_ten_steps_here_and_ten_there(float64, kind, case, rate):
    problem, want = make_problem(rate), whole_training(kind, case, rate)
    if case == "ema":
        # An average starts as a copy of the weights after the first step here, before it there.
        ours = peers.Ours(make_optimizer(kind, case, rate), problem.starts)
        ours.optimizer.jit_compile = False
        want = halfway.steps(ours, problem, 0, halfway.STEPS)

    def take(optimizer: Any, peer: Any, _: list[Any]) -> None:
        interop.tf_keras.assign(optimizer, build(peer).optimizer, "order")
        assert int(peer.optimizer.iterations) == halfway.HALF

    got = halfway.here_then_there(
        make_optimizer(kind, case, rate),
        lambda weights: make_peer(kind, weights, case, rate),
        take,
        problem,
    )
    halfway.assert_same(got, want, problem)


def test_a_moving_average_is_carried_over(float64):
    problem = make_problem("constant")
    peer = make_peer("new", problem.starts, "ema")
    halfway.steps(peer, problem, 0, halfway.HALF)
    want = [average.numpy() for average in peer.optimizer._model_variables_moving_average]
    variables = [keras.Variable(w, dtype="float64") for w in peer.weights()]
    optimizer = interop.like(peer.optimizer, variables, "order")
    got = [parameter.average for parameter in optimizer._roster.parameters]
    models.assert_identical(models.values(got), want)
    other = build(make_peer("new", problem.starts, "ema")).optimizer
    interop.tf_keras.assign(optimizer, other, "order")
    models.assert_identical([v.numpy() for v in other._model_variables_moving_average], want)
    with pytest.raises(NotExactError, match="`use_ema` is False here and True there"):
        interop.like(peer.optimizer, variables, "order", use_ema=False)


def test_the_decay_of_a_legacy_optimizer_is_a_schedule(float64):
    problem = make_problem("schedule")
    decay = {"decay": 0.25, "rho": RHO, "momentum": MOMENTUM, "learning_rate": 0.125}

    def make(weights: Sequence[Array]) -> Any:
        return peers.TFKerasLegacy(weights, **decay)

    want = halfway.steps(make(problem.starts), problem, 0, halfway.STEPS)

    def bring(peer: Any, variables: list[Any]) -> Any:
        return interop.like(peer.optimizer, variables, "order")

    got = halfway.there_then_here(make(problem.starts), bring, problem)
    halfway.assert_same(got, want, problem)

    def take(optimizer: Any, peer: Any, _: list[Any]) -> None:
        interop.tf_keras.assign(optimizer, build(peer).optimizer, "order")

    ours = conventions.tf_keras_legacy(**decay)
    got = halfway.here_then_there(ours, make, take, problem)
    halfway.assert_same(got, want, problem)


@pytest.mark.parametrize("case", CASES)
def test_like_takes_the_steps_of_a_legacy_optimizer_in_float32_numbers(float64, case):
    # It rounds 0.9 to float32 even for float64 variables, but not epsilon.
    problem = make_problem("schedule")
    arguments = {**CASES[case], "rho": 0.9, "learning_rate": 0.01, "epsilon": 1e-3}
    want = peers.follow("tf_keras_legacy", problem.starts, problem.gradients, **arguments)
    fresh = peers.TFKerasLegacy(problem.starts, **arguments)
    got = peers.follow_ours(
        interop.like(fresh.optimizer, jit_compile=False), problem.starts, problem.gradients
    )
    halfway.assert_same(got[halfway.HALF :], want, problem)

    def bring(peer: Any, variables: list[Any]) -> Any:
        return interop.like(peer.optimizer, variables, "order")

    second = halfway.there_then_here(fresh, bring, problem)
    halfway.assert_same(second, want, problem)


def test_settings_that_float32_rounds_are_not_refused(float64):
    peer = peers.TFKerasLegacy(zeros(), rho=0.9, momentum=0.9, learning_rate=0.01)
    halfway.steps(peer, make_problem("schedule"), 0, 3)
    optimizer = conventions.tf_keras_legacy(0.01, rho=0.9, momentum=0.9)
    optimizer.build([keras.Variable(w, dtype="float64") for w in zeros()])
    interop.tf_keras.load(optimizer, peer.optimizer, "order")
    interop.tf_keras.assign(optimizer, peer.optimizer, "order")
    optimizer.rho = 0.9001
    with pytest.raises(NotExactError, match=r"`rho` is 0\.9001 here and 0\.89999\d* there"):
        interop.tf_keras.load(optimizer, peer.optimizer, "order")


def zeros() -> list[Array]:
    return [np.zeros(shape) for shape in SHAPES]


# Names.


def trained_model(optimizer: Any) -> Any:
    """A model of tf_keras that `fit` has trained."""
    layers = [
        tf_keras.layers.Dense(4, activation="relu", name="hidden", input_shape=(3,)),
        tf_keras.layers.Dense(1, name="last"),
    ]
    model = tf_keras.Sequential(layers, name="old")
    model.set_weights(models.model().get_weights())
    model.compile(optimizer, loss="mse")
    fit(model)
    return model


def fit(model: Any) -> list[Array]:
    """Train for two epochs, in order."""
    x, y = models.data()
    model.fit(x, y, batch_size=models.BATCH, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(weight) for weight in model.get_weights()]


def twin_of(model: Any) -> keras.Model:
    twin = models.model()
    twin.set_weights(model.get_weights())
    return twin


def make_old(kind: str, **settings: Any) -> Any:
    module = tf_keras.optimizers.legacy if kind == "legacy" else tf_keras.optimizers
    return module.RMSprop(0.01, momentum=MOMENTUM, **settings)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_model_that_fit_has_trained_goes_on_by_its_names(kind):
    old = trained_model(make_old(kind))
    twin = twin_of(old)
    start = twin.get_weights()
    # In another order, which only names can undo.
    optimizer = interop.like(old.optimizer, twin.trainable_variables[::-1])
    assert int(optimizer.iterations) == 2 * models.BATCHES
    assert optimizer.load_report.initialized == ()
    (momentum,) = [v for v in old.optimizer.variables() if "momentum" in v.name][:1]
    np.testing.assert_array_equal(models.values(optimizer._momentums)[-1], momentum.numpy())
    twin.compile(interop.like(old.optimizer, twin.trainable_variables), loss="mse")
    models.assert_same(models.go_on(twin), fit(old), start, steps=8)
    # And back, where the weights are those of the twin.
    old.set_weights(twin.get_weights())
    interop.tf_keras.assign(twin.optimizer, old.optimizer)
    start = twin.get_weights()
    models.assert_same(models.go_on(twin), fit(old), start, steps=8)


@pytest.mark.parametrize("built_by", ["build", "apply_gradients", "a scope"])
@pytest.mark.parametrize("kind", CLASSES)
def test_names_do_not_depend_on_how_the_optimizer_was_built(kind, built_by):
    optimizer = make_old(kind)
    variables = [tf.Variable(np.ones(3), name=name) for name in ("velocity/rms", "b")]
    gradients = [tf.ones(3, tf.float64)] * 2
    if built_by == "build" and kind == "new":
        optimizer.build(variables)
    elif built_by == "build":
        optimizer._create_all_weights(variables)
    elif built_by == "apply_gradients":
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    else:
        with tf.name_scope("training"):
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
    assert interop.tf_keras.read(optimizer).names == ("velocity/rms", "b")


def test_variables_of_one_name_are_paired_by_order_or_number(float64):
    peer = make_peer("new", zeros(), "momentum")
    halfway.steps(peer, make_problem("constant"), 0, 3)
    assert interop.tf_keras.read(peer.optimizer).names == ("Variable", "Variable#1", "Variable#2")
    variables = [keras.Variable(w, dtype="float64") for w in zeros()]
    pairs = dict(zip(("Variable", "Variable#1", "Variable#2"), variables, strict=True))
    optimizer = interop.like(peer.optimizer, variables, pairs)
    want = [velocity.numpy() for velocity in peer.optimizer._velocities]
    models.assert_identical(models.values(optimizer._square_averages), want)


@pytest.mark.parametrize("kind", CLASSES)
def test_pairs_that_do_not_fit_are_refused_whole(kind):
    old = trained_model(make_old(kind)).optimizer
    twin = models.model()
    kernel, bias, last_kernel, last_bias = twin.trainable_variables
    optimizer = conventions.keras(0.01, momentum=MOMENTUM)
    optimizer.build(twin.trainable_variables)
    pairs = {
        "hidden/kernel": kernel,
        "hidden/bias": bias,
        "last/kernel": last_kernel,
        "last/bias": last_bias,
    }
    swapped = pairs | {"hidden/kernel": last_kernel, "last/kernel": kernel}
    missing = {name: v for name, v in pairs.items() if name != "last/bias"}
    before = optimizer.state_dict(), state_of(old)
    for wrong, message in (
        (swapped, r"hidden/kernel.* has shape .*last/kernel.* has shape"),
        (missing, r"no variable is paired with 'last/bias'; no parameter is paired with '.*last/b"),
        (missing | {"last/baas": last_bias}, "no parameter 'last/baas'; did you mean 'last/bias'"),
        (pairs | {"last/bias": last_kernel}, "'last/bias' and 'last/kernel' are both paired with"),
    ):
        for carry in (interop.tf_keras.load, interop.tf_keras.assign):
            with pytest.raises(ValueError, match=message):
                carry(optimizer, old, wrong)
        models.assert_identical(optimizer.state_dict().values(), before[0].values())
        models.assert_identical(state_of(old), before[1])


def state_of(optimizer: Any) -> list[Array]:
    variables = optimizer.variables
    return [v.numpy() for v in (variables() if callable(variables) else variables)]


# What cannot be the same.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": 0.5}, r"`rho` is 0\.5 here and 0\.875 there"),
        ({"momentum": 0.5}, r"`momentum` is 0\.5 here and 0\.75 there"),
        ({"epsilon": 0.5}, r"`epsilon` is 0\.5 here and 0\.0009765625 there"),
        ({"centered": True}, "`centered` is True here and False there"),
        ({"clipnorm": 1.0}, r"`clipnorm` is 1\.0 here and None there"),
        ({"nesterov": True}, "`nesterov` is True here and False there"),
        ({"groups": {"b": {"learning_rate": 0.5}}}, "the learning rate of 'b' is|different"),
    ],
)
@pytest.mark.parametrize("kind", CLASSES)
def test_other_steps_are_refused_in_both_directions(float64, kind, settings, message):
    variables = [WithPath(name, np.ones(3)) for name in ("a", "b")]
    old = built_old(kind, ["a", "b"])
    same = {"rho": RHO, "momentum": MOMENTUM, "epsilon": EPSILON}
    optimizer = keras_rmsprop.RMSprop(halfway.RATE, **(same | settings))
    optimizer.build(variables)
    before = optimizer.state_dict(), state_of(old)
    for carry in (interop.tf_keras.load, interop.tf_keras.assign):
        with pytest.raises(NotExactError, match=message):
            carry(optimizer, old)
    models.assert_identical(optimizer.state_dict().values(), before[0].values())
    models.assert_identical(state_of(old), before[1])


def built_old(kind: str, names: list[str], **more: Any) -> Any:
    """An optimizer of tf_keras that has made a step."""
    settings = {"rho": RHO, "momentum": MOMENTUM, "epsilon": EPSILON} | more
    module = tf_keras.optimizers.legacy if kind == "legacy" else tf_keras.optimizers
    old = module.RMSprop(halfway.RATE, **settings)
    variables = [tf.Variable(np.ones(3), name=name) for name in names]
    gradients = [tf.constant(np.array([1.0, 2.0, -3.0]) * (i + 1)) for i in range(len(names))]
    old.apply_gradients(zip(gradients, variables, strict=True))
    return old


@pytest.mark.parametrize("kind", CLASSES)
def test_without_exactness_the_rest_starts_afresh_and_is_reported(float64, kind):
    old = built_old(kind, ["a", "b"], momentum=0.0)
    variables = [WithPath(name, np.ones(3)) for name in ("a", "c")]
    optimizer = keras_rmsprop.RMSprop(halfway.RATE, momentum=0.5, rho=0.5)
    optimizer.build(variables)
    with pytest.warns(UserWarning, match="these start afresh"):
        report = interop.tf_keras.load(optimizer, old, exact=False)
    assert set(report.initialized) == {"a/momentum", "c/square_average", "c/momentum"}
    assert "a/square_average" in report.restored
    assert optimizer.rho == 0.5


@pytest.mark.parametrize("kind", CLASSES)
def test_slots_that_only_the_target_has_start_afresh_too(float64, kind):
    old = built_old(kind, ["a"], centered=True)
    optimizer = keras_rmsprop.RMSprop(halfway.RATE)
    optimizer.build([WithPath("a", np.ones(3))])
    optimizer.apply([keras.ops.ones(3, "float64")])
    interop.tf_keras.assign(optimizer, old, exact=False)
    source = interop.tf_keras.read(old)
    (slots,) = source.slots.values()
    np.testing.assert_array_equal(slots.gradient_average, 0.0)
    np.testing.assert_array_equal(slots.momentum, 0.0)
    np.testing.assert_array_equal(
        slots.square_average, models.values(optimizer._square_averages)[0]
    )
    assert source.steps == 1


@pytest.mark.parametrize("kind", CLASSES)
def test_a_schedule_that_has_another_rate_is_refused(float64, kind):
    schedule = tf_keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.5, 0.25])
    peer = build(CLASSES[kind](zeros()[2:], learning_rate=schedule))
    variables = [keras.Variable(np.zeros(3), dtype="float64")]
    make = conventions.keras if kind == "new" else conventions.tf_keras_legacy
    number = make(0.5)
    number.build(variables)
    with pytest.raises(NotExactError, match="is a number here, and changes by a schedule"):
        interop.tf_keras.assign(number, peer.optimizer, "order")
    with pytest.raises(NotExactError, match="is a number here, and changes by a schedule"):
        interop.tf_keras.load(number, peer.optimizer, "order")
    other = make(keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.5, 0.125]))
    other.build(variables)
    # The rates are still the same.
    for carry in (interop.tf_keras.assign, interop.tf_keras.load):
        with pytest.raises(NotExactError, match=r"after 6 steps is 0\.125 here and 0\.25 there"):
            carry(other, peer.optimizer, "order")
    other.iterations.assign(7)
    with pytest.raises(NotExactError, match=r"after 7 steps is 0\.125 here and 0\.25 there"):
        interop.tf_keras.assign(other, peer.optimizer, "order")
    assert int(peer.optimizer.iterations) == 0
    same = make(keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.5, 0.25]))
    same.build(variables)
    interop.tf_keras.load(same, peer.optimizer, "order")
    interop.tf_keras.assign(same, peer.optimizer, "order")
    other.iterations.assign(6)
    interop.tf_keras.assign(other, peer.optimizer, "order", exact=False)
    assert int(peer.optimizer.iterations) == 6


def test_an_optimizer_without_state_or_with_transformers_is_refused():
    optimizer = keras_rmsprop.RMSprop()
    optimizer.build([keras.Variable(np.zeros(3))])
    for kind in CLASSES:
        with pytest.raises(ValueError, match="has no state"):
            interop.tf_keras.load(optimizer, make_old(kind))
        like = interop.like(make_old(kind), optimizer._roster.weights)
        assert (like.momentum, int(like.iterations)) == (MOMENTUM, 0)
    with pytest.raises(ValueError, match="must be an RMSprop of tf_keras, received one of"):
        interop.tf_keras.load(optimizer, tf_keras.optimizers.Adam())
    with pytest.raises(ValueError, match="has `gradient_transformers`"):
        interop.tf_keras.load(
            optimizer, built_old("legacy", ["a"], gradient_transformers=[lambda pairs: pairs])
        )


# `interop.like`.


@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_variables_that_are_excluded_from_weight_decay_become_a_group(float64, by):
    problem = halfway.make_problem((3,), (3,), moving=False)
    variables = [
        tf.Variable(w, name=name)
        for name, w in zip(("kernel", "bias"), problem.starts, strict=True)
    ]
    old = tf_keras.optimizers.RMSprop(halfway.RATE, rho=RHO, weight_decay=0.5)
    chosen = {"var_list": variables[1:]} if by == "var_list" else {"var_names": ["bias"]}
    old.exclude_from_weight_decay(**chosen)
    for gradients in problem.gradients[: halfway.HALF]:
        old.apply_gradients(zip(map(tf.constant, gradients), variables, strict=True))
    start = [v.numpy() for v in variables]
    ours = [WithPath(v.name.partition(":")[0], v.numpy()) for v in variables]
    with pytest.raises(ValueError, match="different settings, which become groups"):
        interop.like(old)
    optimizer = interop.like(old, ours, jit_compile=False)
    for gradients in problem.gradients[halfway.HALF :]:
        old.apply_gradients(zip(map(tf.constant, gradients), variables, strict=True))
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], ours)
    models.assert_same(models.values(ours), [v.numpy() for v in variables], start, steps=10)
    interop.tf_keras.assign(optimizer, old)
    optimizer.groups["bias"].weight_decay = 0.5
    with pytest.raises(NotExactError, match=r"`weight_decay` is 0\.5 here and None there"):
        interop.tf_keras.assign(optimizer, old)


def test_like_has_the_settings_of_the_new_class():
    optimizer = interop.like(
        tf_keras.optimizers.RMSprop(
            0.5, rho=0.75, momentum=0.25, epsilon=0.125, centered=True, weight_decay=0.1,
            global_clipnorm=2.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=7,
        )
    )  # fmt: skip
    wanted = {
        "learning_rate": 0.5,
        "rho": 0.75,
        "momentum": 0.25,
        "epsilon": 0.125,
        "centered": True,
        "weight_decay": 0.1,
        "global_clipnorm": 2.0,
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 7,
        "epsilon_inside_sqrt": True,
        "initial_square_average": 0.0,
    }
    config = optimizer.get_config()
    assert {name: config[name] for name in wanted} == wanted


def test_only_the_first_clip_of_the_new_class_is_in_effect():
    optimizer = interop.like(tf_keras.optimizers.RMSprop(clipnorm=1.0, clipvalue=0.5))
    assert (optimizer.clipnorm, optimizer.clipvalue) == (1.0, None)
    with pytest.raises(ValueError, match="clip"):
        interop.like(tf_keras.optimizers.legacy.RMSprop(clipnorm=1.0, clipvalue=0.5))


class Warmup(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that Keras does not have."""

    def __call__(self, step: Any) -> Any:
        """Return the rate after `step` steps."""
        return tf.cast(step, tf.float32) * 0.125

    def get_config(self) -> dict[str, Any]:
        """Return no arguments."""
        return {}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_schedule_that_keras_does_not_have_is_asked_for(kind):
    module = tf_keras.optimizers.legacy if kind == "legacy" else tf_keras.optimizers
    source = module.RMSprop(Warmup())
    with pytest.raises(ValueError, match="'Warmup' of tf_keras is not one of Keras's"):
        interop.like(source)
    assert float(interop.like(source, learning_rate=0.5).learning_rate) == 0.5


def test_a_learning_rate_in_a_function_is_carried_over(float64):
    # Rounded to float32, like all numbers of a legacy optimizer.
    rates = [0.1]
    source = tf_keras.optimizers.legacy.RMSprop(lambda: rates[0], rho=RHO)
    variable = tf.Variable(np.ones(3), name="a")
    source.apply_gradients([(tf.ones(3, tf.float64), variable)])
    start = variable.numpy()
    ours = WithPath("a", start)
    optimizer = interop.like(source, [ours], jit_compile=False)
    assert float(optimizer.learning_rate) == np.float32(0.1)
    for rate in (0.1, 0.01, 0.7):
        rates[0] = rate
        source.apply_gradients([(tf.ones(3, tf.float64), variable)])
        optimizer.apply([keras.ops.ones(3, "float64")], [ours])
    models.assert_same(models.values([ours]), [variable.numpy()], [start], steps=3)
    interop.tf_keras.assign(optimizer, source)
    number = conventions.tf_keras_legacy(0.7, rho=RHO)
    number.build([ours])
    with pytest.raises(NotExactError, match="is a number here, and changes by a schedule"):
        interop.tf_keras.load(number, source)


def test_a_function_and_a_decay_are_asked_for():
    source = tf_keras.optimizers.legacy.RMSprop(lambda: 0.5, decay=0.5)
    with pytest.raises(ValueError, match="a callable and `decay`"):
        interop.like(source)


@pytest.mark.parametrize("legacy", [False, True], ids="legacy={}".format)
def test_a_subclass_with_steps_of_its_own_is_refused(legacy):
    base = tf_keras.optimizers.legacy.RMSprop if legacy else tf_keras.optimizers.RMSprop
    method = "_resource_apply_dense" if legacy else "update_step"
    own = type("Own", (base,), {method: lambda *_: None})
    with pytest.raises(NotExactError, match=f"`{method}` is that of Own there"):
        interop.like(own(0.5))
    interop.like(own(0.5), exact=False)
    interop.like(type("Same", (base,), {})(0.5))


def test_other_numbers_in_functions_are_refused_unless_wanted():
    source = tf_keras.optimizers.legacy.RMSprop(0.5, rho=lambda: RHO)
    source.apply_gradients([(tf.ones(3), tf.Variable(tf.ones(3), name="a"))])
    ours = [WithPath("a", np.ones(3))]
    with pytest.raises(NotExactError, match="`rho` changes by a schedule or a callable there"):
        interop.like(source, ours)
    assert interop.like(source, ours, exact=False).rho == RHO


@pytest.mark.parametrize("kind", CLASSES)
def test_a_rate_given_to_like_stays_where_exactness_is_not_wanted(float64, kind):
    source = built_old(kind, ["a"])
    ours = [WithPath("a", np.ones(3))]
    assert float(interop.like(source, ours, exact=False, learning_rate=0.5).learning_rate) == 0.5
    with pytest.raises(NotExactError, match=r"`learning_rate` is 0\.5 here and 0\.0156"):
        interop.like(source, ours, learning_rate=0.5)


def test_the_new_class_rounds_its_decay_to_float32(float64):
    source = built_old("new", ["a"], weight_decay=0.1)
    assert interop.like(source, [WithPath("a", np.ones(3))]).weight_decay == np.float32(0.1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_slots_are_widened_here_and_rounded_there(dtype):
    old = tf_keras.optimizers.RMSprop(halfway.RATE, momentum=MOMENTUM)
    variable = tf.Variable(tf.ones(3, dtype), name="a")
    old.apply_gradients([(tf.constant([1.0, 2.0, 3.0], dtype), variable)])
    ours = keras.Variable(np.ones(3), dtype=dtype, name="a")
    with pytest.raises(NotExactError, match=f"the slots are rounded to {dtype} there"):
        interop.like(old, [ours])
    optimizer = interop.like(old, [ours], exact=False)
    (slot,) = optimizer._momentums
    assert slot.dtype == "float32"
    want = tf.cast(old._momentums[0], tf.float32).numpy()
    np.testing.assert_array_equal(models.values([slot])[0], want)
    optimizer.apply([keras.ops.cast([1.0, 2.0, 3.0], dtype)], [ours])
    with pytest.raises(NotExactError, match=f"the slots are rounded to {dtype} there"):
        interop.tf_keras.assign(optimizer, old)
    interop.tf_keras.assign(optimizer, old, exact=False)
    got = tf.cast(old._momentums[0], tf.float32).numpy()
    want = tf.cast(tf.cast(models.values([slot])[0], dtype), tf.float32).numpy()
    np.testing.assert_array_equal(got, want)
