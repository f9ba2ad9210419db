"""Test that each convention makes the steps of the framework it is named for.

Both sides get the same arguments, gradients and learning rates; weights and state are compared
after every step. The hyperparameters are numbers that float32 holds exactly, because TF1 and
tf_keras round theirs to float32 even for float64 weights.

Hinton's slide and Graves's paper are compared with their equations, written out in NumPy.
"""

import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions
from tests.tools import models
from yardsticks import peers
from yardsticks.agreement import TOLERANCE, compare_runs
from yardsticks.peers import Array, Snapshot

STEPS = 40
RHO, MOMENTUM, EPSILON, DECAY = 0.875, 0.75, 2.0**-7, 2.0**-5

Arguments = dict[str, Any]


def every(*axes: list[Arguments]) -> list[Arguments]:
    """All ways to take one set of arguments from each axis."""
    return [
        {key: value for choice in choices for key, value in choice.items()}
        for choices in itertools.product(*axes)
    ]


CENTERED: list[Arguments] = [{}, {"centered": True}]
WITH_MOMENTUM: list[Arguments] = [{}, {"momentum": MOMENTUM}]

VARIANTS: dict[str, list[Arguments]] = {
    "keras": [
        {},
        *every([{"rho": RHO, "epsilon": EPSILON}], CENTERED, WITH_MOMENTUM),
        *every(
            [{"weight_decay": DECAY}, {"clipnorm": 1.5}, {"clipvalue": 0.5}],
            WITH_MOMENTUM,
        ),
        {"global_clipnorm": 2.0, "loss_scale_factor": 4.0},
    ],
    "torch": [
        {},
        *every(
            [{"alpha": RHO, "eps": EPSILON}],
            CENTERED,
            WITH_MOMENTUM,
            [{}, {"weight_decay": DECAY}, {"weight_decay": DECAY, "maximize": True}],
        ),
        {"maximize": True},
        {"foreach": False},
        {"foreach": True, "momentum": MOMENTUM},
    ],
    "timm": [
        {},
        *every(
            [{"alpha": RHO, "eps": EPSILON}],
            CENTERED,
            [*WITH_MOMENTUM, {"momentum": MOMENTUM, "lr_in_momentum": False}],
        ),
        *every(
            [{"weight_decay": DECAY, "momentum": MOMENTUM}],
            [{}, {"decoupled_decay": True}],
            [{"foreach": True}, {"lr_in_momentum": False}],
        ),
    ],
    "stable_baselines3": [
        {},
        *every(
            [{"alpha": RHO, "eps": EPSILON}], CENTERED, WITH_MOMENTUM, [{}, {"weight_decay": DECAY}]
        ),
    ],
    "optax": [
        {},
        *every(
            [{"decay": RHO, "eps": EPSILON}],
            CENTERED,
            [*WITH_MOMENTUM, {"momentum": MOMENTUM, "nesterov": True}],
            [{}, {"eps_in_sqrt": False}],
        ),
        *every([{"decay": RHO, "initial_scale": 0.5}], CENTERED),
        *every(
            [{"decay": RHO, "bias_correction": True}],
            WITH_MOMENTUM,
            [{}, {"eps_in_sqrt": False}],
        ),
        {"momentum": 0.0, "nesterov": True},
        {"nesterov": True},
    ],
    "tf1": every(
        [{"decay": RHO}], CENTERED, WITH_MOMENTUM, [{}, {"epsilon": EPSILON, "use_locking": True}]
    ),
    "tf_keras_legacy": [
        *every([{"rho": RHO}], CENTERED, WITH_MOMENTUM, [{"epsilon": EPSILON}]),
        {"rho": RHO},
        {"rho": RHO, "epsilon": 0.0},
        {"rho": RHO, "clipnorm": 1.5},
        {"rho": RHO, "clipvalue": 0.5},
        {"rho": RHO, "global_clipnorm": 2.0, "momentum": MOMENTUM},
    ],
}


def cases() -> Iterator[Any]:
    for name, variants in VARIANTS.items():
        for arguments in variants:
            text = "-".join(f"{key}={value:.3g}" for key, value in arguments.items())
            yield pytest.param(name, arguments, id=f"{name}-{text or 'defaults'}")


@pytest.fixture(scope="module")
def problem() -> SimpleNamespace:
    """A scalar and a matrix, gradients whose sizes span two decades, and a changing rate.

    The rates are exact in float32; one is zero.
    """
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape) for shape in [(), (2, 4)]]
    sizes = [10.0 ** rng.uniform(-1.0, 1.0, start.shape) for start in starts]
    gradients = [[size * rng.normal(0.3, 1.0, size.shape) for size in sizes] for _ in range(STEPS)]
    rates = (0.02 * (1.0 + 0.5 * np.sin(np.arange(STEPS)))).astype("float32").tolist()
    rates[7] = 0.0
    return SimpleNamespace(starts=starts, gradients=gradients, rates=rates)


def skip_unless_available(name: str) -> None:
    reason = peers.unavailable(name)
    if reason is not None:
        pytest.skip(reason)


def make(name: str, arguments: Arguments) -> keras_rmsprop.RMSprop:
    """A convention's optimizer; if the rate has no default, the caller sets one later."""
    needs_rate = name in ("optax", "tf1", "hinton") and "learning_rate" not in arguments
    extra = {"learning_rate": 0.0} if needs_rate else {}
    if name == "stable_baselines3":
        name, extra = "timm", {"alpha": 0.99, "eps": 1e-8, "lr_in_momentum": False}
    optimizer: keras_rmsprop.RMSprop = getattr(conventions, name)(**(extra | arguments))
    return op_by_op(optimizer)


def op_by_op(optimizer: keras_rmsprop.RMSprop) -> keras_rmsprop.RMSprop:
    """Switch compilation off: it takes seconds and is tested elsewhere."""
    optimizer.jit_compile = False
    return optimizer


def assert_same(
    got: Sequence[Snapshot],
    want: Sequence[Snapshot],
    starts: Sequence[Array],
    tolerance: float = TOLERANCE["float64"],
) -> None:
    """Fail unless every weight and slot is the same after every step, element by element."""
    assert len(got) == len(want)
    assert got[-1].slots.keys() == want[-1].slots.keys()
    found = compare_runs(got, want, starts, tolerance)
    assert {key: d for key, d in found.items() if not d.share <= 1.0} == {}
    for first, last, start in zip(want[0].weights, want[-1].weights, starts, strict=True):
        assert np.all((first != start) | (last != start)), (
            "nothing moved, so agreement proves nothing"
        )


# The steps of the real frameworks.


@pytest.mark.parametrize(("name", "arguments"), list(cases()))
def test_a_convention_makes_the_steps_of_its_framework(float64, problem, name, arguments):
    skip_unless_available(name)
    ours = peers.follow_ours(
        make(name, arguments), problem.starts, problem.gradients, problem.rates
    )
    theirs = peers.follow(name, problem.starts, problem.gradients, problem.rates, **arguments)
    # There Keras computes norms in float32, whatever the dtype of the gradients.
    rounds = (
        name == "keras"
        and keras.backend.backend() != "tensorflow"
        and not arguments.keys().isdisjoint({"clipnorm", "global_clipnorm"})
    )
    assert_same(ours, theirs, problem.starts, TOLERANCE["float32" if rounds else "float64"])


@pytest.mark.filterwarnings("ignore:.*makes the first variance exactly")
@pytest.mark.parametrize("momentum", [None, MOMENTUM], ids="momentum={}".format)
def test_bias_correction_of_centered_averages_follows_optax(float64, problem, momentum):
    skip_unless_available("optax")
    # optax subtracts equal numbers at the first step; a large epsilon hides the rounding error.
    arguments = {"eps": 16.0, "centered": True, "bias_correction": True, "momentum": momentum}
    ours = peers.follow_ours(
        make("optax", arguments), problem.starts, problem.gradients, problem.rates
    )
    theirs = peers.follow("optax", problem.starts, problem.gradients, problem.rates, **arguments)
    assert_same(ours, theirs, problem.starts)


@pytest.mark.parametrize("arguments", every(CENTERED, WITH_MOMENTUM), ids=str)
def test_tf_keras_since_2_11_makes_the_steps_of_keras(float64, problem, arguments):
    skip_unless_available("tf_keras")
    arguments = {"rho": RHO, "epsilon": EPSILON, **arguments}
    ours = peers.follow_ours(
        make("keras", arguments), problem.starts, problem.gradients, problem.rates
    )
    theirs = peers.follow("tf_keras", problem.starts, problem.gradients, problem.rates, **arguments)
    assert_same(ours, theirs, problem.starts)


@pytest.mark.parametrize("momentum", [0.0, MOMENTUM], ids="momentum={}".format)
def test_decay_of_tf_keras_divides_the_rate_by_the_time(float64, problem, momentum):
    skip_unless_available("tf_keras_legacy")
    arguments = {"learning_rate": 0.0625, "rho": RHO, "momentum": momentum, "decay": 0.25}
    ours = peers.follow_ours(make("tf_keras_legacy", arguments), problem.starts, problem.gradients)
    theirs = peers.follow("tf_keras_legacy", problem.starts, problem.gradients, **arguments)
    assert_same(ours, theirs, problem.starts)


@pytest.mark.parametrize("momentum", [None, MOMENTUM], ids="momentum={}".format)
def test_an_optax_schedule_is_called_from_count_zero(float64, problem, momentum):
    skip_unless_available("optax")
    import optax

    arguments = {
        "learning_rate": optax.warmup_cosine_decay_schedule(0.125, 0.5, 8, 40, 0.0625),
        "momentum": momentum,
    }
    ours = peers.follow_ours(make("optax", arguments), problem.starts, problem.gradients)
    theirs = peers.follow("optax", problem.starts, problem.gradients, **arguments)
    assert_same(ours, theirs, problem.starts)


# The steps of the slide and of the paper, written out.

Update = Callable[[dict[str, Any], Array, Array, float], Array]


def written_out(
    update: Update, problem: SimpleNamespace, slots: Callable[[dict[str, Any]], dict[str, Array]]
) -> list[Snapshot]:
    """Run `update(state, w, g, lr) -> w`; `slots` reads this package's slots from its state."""
    weights = list(problem.starts)
    states: list[dict[str, Any]] = [{} for _ in weights]
    snapshots = []
    for gradients, rate in zip(problem.gradients, problem.rates, strict=True):
        weights = [
            update(state, w, g, rate)
            for state, w, g in zip(states, weights, gradients, strict=True)
        ]
        each = [slots(state) for state in states]
        snapshots.append(Snapshot(weights, {name: [e[name] for e in each] for name in each[0]}))
    return snapshots


def test_hinton_divides_by_the_root_of_the_mean_square(float64, problem):
    def update(state: dict[str, Any], w: Array, g: Array, lr: float) -> Array:
        mean_square = 0.9 * state.get("mean_square", 0.0) + 0.1 * g**2
        state["mean_square"] = mean_square
        return w - lr * g / np.sqrt(mean_square)

    ours = peers.follow_ours(make("hinton", {}), problem.starts, problem.gradients, problem.rates)
    theirs = written_out(update, problem, lambda state: {"square_average": state["mean_square"]})
    assert_same(ours, theirs, problem.starts)


def test_graves_makes_the_steps_of_equations_38_to_45(float64, problem):
    def update(state: dict[str, Any], w: Array, g: Array, lr: float) -> Array:
        n = 0.95 * state.get("n", 0.0) + 0.05 * g**2
        m = 0.95 * state.get("m", 0.0) + 0.05 * g
        delta = 0.9 * state.get("delta", 0.0) - lr * g / np.sqrt(n - m**2 + 1e-4)
        state.update(n=n, m=m, delta=delta)
        return w + delta

    def slots(state: dict[str, Any]) -> dict[str, Array]:
        return {
            "square_average": state["n"] - state["m"] ** 2,
            "gradient_average": state["m"],
            "momentum": -state["delta"],
        }

    ours = peers.follow_ours(conventions.graves(), problem.starts, problem.gradients, problem.rates)
    assert_same(ours, written_out(update, problem, slots), problem.starts)


def test_graves_has_the_learning_rate_of_equation_44():
    assert float(conventions.graves().learning_rate) == np.float32(1e-4)


# Arguments.


def signature_of(name: str) -> inspect.Signature:
    """The installed framework's own signature."""
    match name:
        case "keras":
            return inspect.signature(keras.optimizers.RMSprop)
        case "torch" | "timm":
            return inspect.signature(peers.PEERS[name].framework())
        case "optax":
            import optax

            return inspect.signature(optax.rmsprop)
        case "tf1":
            import tensorflow as tf

            return inspect.signature(tf.compat.v1.train.RMSPropOptimizer)
        case "tf_keras_legacy":
            return inspect.signature(peers._tf_keras().optimizers.legacy.RMSprop)
    raise AssertionError(name)


@pytest.mark.parametrize("name", sorted({*VARIANTS} - {"stable_baselines3"}))
def test_argument_order_and_defaults_match_the_framework(name):
    skip_unless_available(name)
    # `apply` receives torch's `params`; the next test covers **kwargs.
    theirs = [
        (p.name, p.default)
        for p in signature_of(name).parameters.values()
        if p.name != "params" and p.kind is not p.VAR_KEYWORD
    ]
    ours = inspect.signature(getattr(conventions, name)).parameters.values()
    further = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    assert [(p.name, p.default) for p in ours if p.kind not in further] == theirs


def test_keyword_arguments_match_those_that_tf_keras_allows():
    skip_unless_available("tf_keras_legacy")
    parameters = inspect.signature(conventions.tf_keras_legacy).parameters.values()
    ours = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    with pytest.raises(TypeError, match="Allowed kwargs") as error:
        peers._tf_keras().optimizers.legacy.RMSprop(nothing=1)
    assert all(f"'{name}'" in str(error.value) for name in ours)
    assert str(error.value).split("{")[1].count("'") == 2 * len(ours)


@pytest.mark.parametrize("name", sorted({*conventions.__all__} - {"keras"}))
def test_every_argument_is_documented_in_its_order(name):
    function = getattr(conventions, name)
    documented = inspect.getdoc(function).split("Args:\n")[1].split("\n\n")[0]
    lines = [line for line in documented.splitlines() if not line.startswith(" " * 8)]
    assert [line.split(":")[0].strip(" *") for line in lines] == [
        *inspect.signature(function).parameters
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm", {"caution": True}, "`caution` of conventions.timm .* masks"),
        (
            "timm",
            {"decoupled_decay": True, "corrected_weight_decay": True},
            r"`corrected_weight_decay` .* lr\*\*2",
        ),
        (
            "optax",
            {"bias_correction": True, "initial_scale": 1.0},
            r"`initial_scale` .* 1 - decay\*\*t",
        ),
        (
            "tf_keras_legacy",
            {"clipvalue": 1.0, "clipnorm": 2.0},
            "`clipnorm` .* one way at a time.*Received clipnorm=2.0, clipvalue=1.0",
        ),
        ("tf_keras_legacy", {"clipvalue": 1.0, "global_clipnorm": 2.0}, "`clipvalue` .* one way"),
        (
            "tf_keras_legacy",
            {"learning_rate": lambda: 0.1, "decay": 0.1},
            "`decay` .* schedule or callable",
        ),
    ],
)
def test_an_argument_that_cannot_be_expressed_is_refused_by_name(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(name, arguments)


@pytest.mark.parametrize("decay", [-0.1, float("nan"), float("inf")])
def test_an_invalid_decay_is_refused(decay):
    with pytest.raises(ValueError, match="`decay` must be finite and >= 0"):
        conventions.tf_keras_legacy(decay=decay)


def test_a_negative_rate_with_a_decay_is_refused():
    with pytest.raises(ValueError, match="`learning_rate` must be"):
        conventions.tf_keras_legacy(-0.1, decay=0.1)


IGNORED = [
    ("torch", {"foreach": True}),
    ("torch", {"capturable": True}),
    ("torch", {"differentiable": True}),
    ("tf1", {"use_locking": True}),
    ("timm", {"foreach": True}),
    ("optax", {"nesterov": True}),
]


# Keras's get_config reads the learning rate in a way that NumPy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
@pytest.mark.parametrize(("name", "arguments"), IGNORED, ids=str)
def test_an_argument_without_effect_is_accepted_and_logged(caplog, name, arguments):
    plain = make(name, {}).get_config()
    (argument,) = arguments
    with caplog.at_level(logging.INFO, logger="keras_rmsprop"):
        config = make(name, arguments).get_config()
    assert {**config, "name": None} == {**plain, "name": None}
    assert [record.getMessage() for record in caplog.records] == [
        f"conventions.{name}: `{argument}=True` has no effect: it does not change the steps."
    ]


def test_nothing_is_logged_for_default_arguments(caplog):
    with caplog.at_level(logging.DEBUG, logger="keras_rmsprop"):
        for name in ("torch", "tf1", "timm", "optax"):
            make(name, {})
    assert not caplog.records


def test_the_old_name_of_the_learning_rate_overrides_the_new_one():
    optimizer = conventions.tf_keras_legacy(0.5, lr=0.25)
    assert float(optimizer.learning_rate) == 0.25


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")
def test_keras_passes_every_argument_on():
    arguments = {
        "learning_rate": 0.5,
        "rho": 0.8,
        "momentum": 0.7,
        "epsilon": 1e-3,
        "centered": True,
        "weight_decay": 0.1,
        "clipnorm": 1.5,
        "use_ema": True,
        "ema_momentum": 0.6,
        "ema_overwrite_frequency": 7,
        "loss_scale_factor": 4.0,
        "gradient_accumulation_steps": 3,
        "name": "mine",
    }
    others = {"clipvalue": None, "global_clipnorm": None}
    parameters = {*inspect.signature(conventions.keras).parameters}
    assert {*arguments, *others, "options"} == parameters
    config = conventions.keras(**arguments).get_config()
    assert {**arguments, **others} == {key: config[key] for key in (*arguments, *others)}
    for clip in others:
        assert conventions.keras(**{clip: 1.5}).get_config()[clip] == 1.5


def test_the_name_is_passed_on():
    names = [make(name, {"name": "mine"}).name for name in ("keras", "tf1", "tf_keras_legacy")]
    assert names == ["mine"] * 3


@pytest.mark.parametrize("name", ["keras", "torch", "tf1", "tf_keras_legacy", "timm", "hinton"])
def test_every_convention_accepts_a_keras_schedule(name):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    assert float(getattr(conventions, name)(schedule).learning_rate) == 0.5


# Functions of the count.


@keras.saving.register_keras_serializable(package="tests", name="halving")
def halving(count: Any) -> Any:
    return 0.5 * keras.ops.power(0.5, count)


def test_a_schedule_of_the_count_survives_serialization(float64, problem):
    optimizer = make("optax", {"learning_rate": halving, "momentum": MOMENTUM})
    again = op_by_op(keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)))
    ours = peers.follow_ours(again, problem.starts, problem.gradients)
    theirs = peers.follow_ours(optimizer, problem.starts, problem.gradients)
    assert_same(ours, theirs, problem.starts)


@pytest.mark.parametrize("kind", ["lambda", "partial"])
def test_saving_a_schedule_of_an_unregistered_function_raises_with_the_remedy(kind):
    import functools

    function = functools.partial(halving) if kind == "partial" else lambda _: 0.1
    optimizer = conventions.optax(function)
    with pytest.raises(ValueError, match="Register it, before saving and before loading"):
        keras.optimizers.serialize(optimizer)


def test_loading_a_schedule_of_an_unknown_function_raises():
    with pytest.raises(ValueError, match="'mine>lost' is not registered here"):
        conventions.CountSchedule.from_config({"function": "mine>lost"})


def test_a_schedule_must_be_callable():
    with pytest.raises(ValueError, match="must take a count"):
        conventions.CountSchedule(0.1)


def test_a_count_may_be_that_of_steps_of_several_batches(float64):
    schedule = conventions.CountSchedule(halving, gradient_accumulation_steps=3)
    assert [schedule(i) for i in range(7)] == [halving(i // 3) for i in range(7)]
    # In a trace the batches are a tensor.
    assert float(schedule._traced(keras.ops.convert_to_tensor(5))) == halving(1)
    config = schedule.get_config()
    assert config == {"function": "tests>halving", "gradient_accumulation_steps": 3}
    assert conventions.CountSchedule.from_config(config)(5) == halving(1)


@pytest.mark.parametrize("jit_compile", [False, "auto"], ids="jit_compile={}".format)
def test_a_schedule_of_the_count_goes_through_fit(jit_compile):
    def half(count):
        return 0.5 * keras.ops.power(0.5, keras.ops.cast(count, "float32"))

    schedules = (
        conventions.CountSchedule(half),
        keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5),
    )
    networks = [models.model() for _ in schedules]
    start = models.values(networks[0].trainable_variables)
    for network, schedule in zip(networks, schedules, strict=True):
        optimizer = keras_rmsprop.RMSprop(schedule)
        models.fit(network, optimizer, jit_compile=jit_compile)
    got, want = (models.values(each.trainable_variables) for each in networks)
    models.assert_same(got, want, start, steps=10)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, None])
def test_an_invalid_number_of_batches_of_a_step_is_refused(steps):
    with pytest.raises(ValueError, match="`gradient_accumulation_steps` must be an integer >= 1"):
        conventions.CountSchedule(halving, gradient_accumulation_steps=steps)


def test_a_keras_schedule_is_not_taken_for_a_function_of_the_count():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    optimizer = conventions.optax(schedule)
    assert optimizer.get_config()["learning_rate"]["class_name"] == "ExponentialDecay"


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch traces no steps")
def test_a_schedule_of_the_count_can_be_traced():
    schedule = conventions.CountSchedule(halving)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        traced = tf.function(schedule)
        rate = traced(tf.constant(2))
    else:
        import jax

        rate = jax.jit(schedule)(2)
    assert float(rate) == 0.125


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only graphs refuse it")
def test_a_jax_schedule_in_a_tensorflow_graph_is_refused_with_the_remedies():
    import optax
    import tensorflow as tf

    schedule = conventions.CountSchedule(optax.cosine_decay_schedule(0.1, 10))
    with pytest.raises(TypeError, match=r"Write it with `keras.ops`, or .*run_eagerly=True"):
        tf.function(schedule)(tf.constant(2))


# Faults of the frameworks that are not reproduced, on purpose.


def steady(steps: int) -> tuple[list[Array], list[list[Array]]]:
    """64 float32 weights, and gradients between 1 and 2 with relative noise of 1e-4."""
    rng = np.random.default_rng(0)
    level = rng.uniform(1.0, 2.0, 64)
    gradients = [level * (1.0 + 1e-4 * rng.normal(size=64)) for _ in range(steps)]
    return [np.zeros(64, "float32")], [[g.astype("float32")] for g in gradients]


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_steady_gradient_makes_the_centered_framework_nan_but_not_ours(name):
    skip_unless_available(name)
    # An epsilon too small to hide the rounding, as torch's and optax's defaults are.
    arguments: Arguments = {"centered": True}
    if name in ("torch", "stable_baselines3"):
        arguments["alpha"] = 0.9
    if name == "tf_keras_legacy":
        arguments["epsilon"] = 1e-8
    starts, gradients = steady(160)
    rates = [1e-3] * len(gradients)
    with np.errstate(invalid="ignore", over="ignore"):
        theirs = peers.follow(name, starts, gradients, rates, **arguments)
    ours = peers.follow_ours(make(name, arguments), starts, gradients, rates)
    assert not np.all(np.isfinite(theirs[-1].weights[0]))
    assert np.all(np.isfinite(ours[-1].weights[0]))


@pytest.mark.filterwarnings("ignore:.*makes the first variance exactly")
def test_the_first_corrected_variance_is_zero_here_and_a_rounding_error_in_optax(rng):
    skip_unless_available("optax")
    gradient = rng.normal(size=256).astype("float32")
    arguments = {"centered": True, "bias_correction": True, "eps": 1e-6}
    start, rate = np.zeros(256, "float32"), 1e-3
    (theirs,) = peers.follow("optax", [start], [[gradient]], [rate], **arguments)
    (ours,) = peers.follow_ours(make("optax", arguments), [start], [[gradient]], [rate])
    exact = -rate * gradient.astype("float64") / 1e-3
    np.testing.assert_allclose(ours.weights[0], exact, rtol=1e-6)
    assert not np.allclose(theirs.weights[0], exact, rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow has rows")
def test_repeated_rows_are_summed_before_squaring_here_and_after_it_in_keras():
    import tensorflow as tf

    def first_step(optimizer: Any, gradient: Any) -> Array:
        table = keras.Variable(np.zeros((3, 2), "float32"))
        optimizer.apply([gradient], [table])
        return table.numpy()

    rows = tf.IndexedSlices(tf.ones((4, 2)), tf.constant([1, 1, 1, 1]), tf.constant([3, 2]))
    summed = tf.convert_to_tensor(np.array([[0, 0], [4, 4], [0, 0]], "float32"))
    right = first_step(keras.optimizers.RMSprop(0.1), summed)
    np.testing.assert_allclose(first_step(conventions.keras(0.1), rows), right, rtol=1e-6)
    # A row that occurs four times moves sqrt(4) times too far.
    np.testing.assert_allclose(
        first_step(keras.optimizers.RMSprop(0.1), rows), 2.0 * right, rtol=1e-6
    )


# Further arguments.


@pytest.mark.parametrize("name", [n for n in conventions.__all__ if n.islower()])
def test_every_convention_takes_groups_and_other_arguments(name):
    groups = {"head/.*": {"learning_rate": 0.5}}
    optimizer = make(name, {"groups": groups, "skip_nonfinite": True})
    plain = make(name, {})
    config = optimizer.get_config()
    assert config["groups"]["head/.*"]["learning_rate"] == 0.5
    changed = {"groups": config["groups"], "skip_nonfinite": True, "name": config["name"]}
    assert config == {**plain.get_config(), **changed}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torch", {"l2": 0.1}, r"conventions\.torch sets `l2` from arguments of its own"),
        ("torch", {"learning_rate": 0.1}, "sets `learning_rate` .*received learning_rate=0.1"),
        ("tf1", {"initial_square_average": 0.0}, "sets `initial_square_average`"),
        ("torch", {"params": [{"params": "a", "lr": 1}], "groups": {}}, "sets `groups`"),
        ("hinton", {"epsilon": 0.1}, "sets `epsilon`"),
        ("timm", {"grups": {}}, "There is no argument `grups`.* Did you mean `groups`"),
    ],
)
def test_options_that_a_convention_sets_or_nobody_knows_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, options)
