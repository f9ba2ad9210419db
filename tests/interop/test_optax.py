"""Test carrying state between optax and this package."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions, interop
from keras_rmsprop.interop import NotExactError
from tests.tools import halfway, models
from yardsticks import peers

if peers.unavailable("optax"):
    pytest.skip(str(peers.unavailable("optax")), allow_module_level=True)

import jax
import optax

SHAPES = ((), (2, 4), (3,))
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.75},
    "nesterov": {"momentum": 0.75, "nesterov": True},
    "centered": {"centered": True},
    "outside": {"eps_in_sqrt": False, "momentum": 0.5},
    "initial_scale": {"initial_scale": 1.0, "centered": True, "momentum": 0.5},
    "bias_correction": {"bias_correction": True, "momentum": 0.5},
    # The first variance is exactly zero in theory; a large epsilon hides its rounding error.
    "centered and bias_correction": {"bias_correction": True, "centered": True, "eps": 1.0},
}


def like(peer: Any, variables: list[Any], **options: Any) -> Any:
    """Bring over a peer, whose rate is a function that the tests change."""
    with jax.enable_x64(True):
        return interop.like(peer.transform, variables, state=peer.state, exact=False, **options)


@pytest.mark.filterwarnings("ignore:.*makes the first variance exactly")
@pytest.mark.parametrize("moving", [False, True], ids=["constant rate", "moving rate"])
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_there_and_ten_here(float64, case, moving):
    problem = halfway.make_problem(*SHAPES, moving=moving)
    want = peers.follow("optax", problem.starts, problem.gradients, problem.rates, **CASES[case])

    def bring(peer: Any, variables: list[Any]) -> Any:
        return like(peer, variables, learning_rate=peer.rate)

    got = halfway.there_then_here(peers.Optax(problem.starts, **CASES[case]), bring, problem)
    halfway.assert_same(got, want, problem)


@pytest.mark.filterwarnings("ignore:.*makes the first variance exactly")
@pytest.mark.parametrize("moving", [False, True], ids=["constant rate", "moving rate"])
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_here_and_ten_there(float64, case, moving):
    problem = halfway.make_problem(*SHAPES, moving=moving)
    want = peers.follow("optax", problem.starts, problem.gradients, problem.rates, **CASES[case])

    def take(optimizer: Any, peer: Any, _: list[Any]) -> None:
        with jax.enable_x64(True):
            template = peer.transform.init(peer.parameters)
            # The rate is a function there, which gives the same rates as the numbers here.
            peer.state = interop.optax.state(optimizer, template, exact=False)
        peer.steps = halfway.HALF

    got = halfway.here_then_there(
        conventions.optax(halfway.RATE, **CASES[case]),
        lambda weights: peers.Optax(weights, **CASES[case]),
        take,
        problem,
    )
    halfway.assert_same(got, want, problem)


# Pytrees, and transformations around optax.rmsprop.


class Training:
    """A training in optax of parameters in a nested dict."""

    def __init__(self, transformation: Any) -> None:
        rng = np.random.default_rng(0)
        self.transformation = transformation
        self.parameters = {
            "dense": {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)},
            "scale": rng.normal(size=()),
        }
        self.gradients = [
            jax.tree.map(lambda w: rng.normal(0.3, 1.0, w.shape), self.parameters)
            for _ in range(12)
        ]
        with jax.enable_x64(True):
            self.parameters = jax.tree.map(jax.numpy.asarray, self.parameters)
            self.state = transformation.init(self.parameters)

    def run(self, first: int, last: int) -> None:
        """Make the steps from `first` up to `last`."""
        with jax.enable_x64(True):
            for gradients in self.gradients[first:last]:
                updates, self.state = self.transformation.update(
                    gradients, self.state, self.parameters
                )
                self.parameters = optax.apply_updates(self.parameters, updates)


def variables_of(parameters: Any) -> dict[str, keras.Variable]:
    """Keras variables for the parameters, in another order than optax has them."""
    dense = parameters["dense"]
    return {
        "scale": keras.Variable(np.asarray(parameters["scale"]), name="scale"),
        "dense/kernel": keras.Variable(np.asarray(dense["kernel"]), name="kernel"),
        "dense/bias": keras.Variable(np.asarray(dense["bias"]), name="bias"),
    }


def go_on(optimizer: Any, variables: dict[str, Any], gradients: Any) -> None:
    optimizer.jit_compile = False
    for each in gradients:
        by_name = {"dense/kernel": each["dense"]["kernel"], "dense/bias": each["dense"]["bias"]}
        by_name["scale"] = each["scale"]
        tensors = [keras.ops.convert_to_tensor(by_name[name]) for name in variables]
        optimizer.apply(tensors, list(variables.values()))


def assert_close(variables: dict[str, Any], parameters: Any, rtol: float = 1e-12) -> None:
    want = {
        "dense/kernel": parameters["dense"]["kernel"],
        "dense/bias": parameters["dense"]["bias"],
    }
    want["scale"] = parameters["scale"]
    for name, variable in variables.items():
        got = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(got, np.asarray(want[name]), rtol=rtol, atol=1e-2 * rtol)


LABELS = {"dense": {"kernel": "fast", "bias": "slow"}, "scale": "slow"}
KERNELS = {"dense": {"kernel": True, "bias": False}, "scale": False}

DECAYED = optax.chain(optax.add_decayed_weights(0.1), optax.rmsprop(0.001))
AROUND: dict[str, Any] = {
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.5),
        optax.add_decayed_weights(0.1),
        optax.rmsprop(0.01, momentum=0.5),
    ),
    "chain in a chain": lambda: optax.chain(optax.chain(optax.rmsprop(0.01, centered=True))),
    "schedule": lambda: optax.rmsprop(lambda count: 0.01 / (1 + count), momentum=0.5),
    "the rate after the trace": lambda: optax.chain(
        optax.scale_by_rms(0.9, eps=1e-4), optax.trace(0.5), optax.scale_by_learning_rate(0.01)
    ),
    "multi_transform": lambda: optax.multi_transform(
        {
            "fast": optax.rmsprop(0.01, decay=0.5, momentum=0.5),
            "slow": optax.rmsprop(0.001, momentum=0.75),
        },
        LABELS,
    ),
    "a norm of all before multi_transform": lambda: optax.named_chain(
        ("norm", optax.clip_by_global_norm(1.5)),
        ("steps", optax.multi_transform({"fast": optax.rmsprop(0.01), "slow": DECAYED}, LABELS)),
    ),
    "masked decay": lambda: optax.chain(
        optax.add_decayed_weights(0.1, mask=KERNELS), optax.rmsprop(0.01, momentum=0.5)
    ),
    "decoupled decay": lambda: optax.chain(
        optax.scale_by_rms(0.9, eps=1e-4),
        optax.add_decayed_weights(0.1, mask=KERNELS),
        optax.scale_by_learning_rate(lambda count: 0.01 / (1 + count)),
    ),
    "both decays, and the rate after the trace": lambda: optax.chain(
        optax.add_decayed_weights(0.2),
        optax.scale_by_stddev(0.9, eps=1e-4),
        optax.trace(0.5),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(0.01),
    ),
    "a function as mask": lambda: optax.chain(
        optax.add_decayed_weights(0.1, mask=lambda tree: jax.tree.map(lambda w: w.ndim > 1, tree)),
        optax.rmsprop(0.01),
    ),
    "a function as labels": lambda: optax.multi_transform(
        {"fast": optax.rmsprop(0.01, decay=0.5), "slow": optax.rmsprop(0.001)}, lambda _: LABELS
    ),
    "two masks": lambda: optax.chain(
        optax.masked(optax.rmsprop(0.01, decay=0.5), KERNELS),
        optax.masked(optax.rmsprop(0.001), jax.tree.map(lambda is_so: not is_so, KERNELS)),
    ),
    "injected numbers": lambda: optax.inject_hyperparams(optax.rmsprop)(
        learning_rate=0.01, decay=0.75, momentum=0.5
    ),
    "an injected schedule": lambda: optax.inject_hyperparams(optax.rmsprop)(
        learning_rate=lambda count: 0.01 / (1 + count)
    ),
    "numbers of a factory": lambda: optax.apply_if_finite(
        optax.inject_hyperparams(
            lambda rate, norm: optax.chain(optax.clip_by_global_norm(norm), optax.rmsprop(rate))
        )(rate=0.01, norm=1.5),
        2**31 - 1,
    ),
}


@pytest.mark.parametrize("around", AROUND)
def test_a_transformation_is_read_and_its_state_carried_both_ways(float64, around):
    training = Training(AROUND[around]())
    training.run(0, 4)
    variables = variables_of(training.parameters)
    with jax.enable_x64(True):
        optimizer = interop.like(
            training.transformation, list(variables.values()), variables, state=training.state
        )
    go_on(optimizer, variables, training.gradients[4:8])
    training.run(4, 8)
    # JAX evaluates schedules in float32.
    tolerance_is_float32 = around in ("schedule", "an injected schedule")
    if not tolerance_is_float32:
        assert_close(variables, training.parameters)
    back = Training(AROUND[around]())
    with jax.enable_x64(True):
        back.parameters = {
            "dense": {
                "kernel": jax.numpy.asarray(keras.ops.convert_to_numpy(variables["dense/kernel"])),
                "bias": jax.numpy.asarray(keras.ops.convert_to_numpy(variables["dense/bias"])),
            },
            "scale": jax.numpy.asarray(keras.ops.convert_to_numpy(variables["scale"])),
        }
        back.state = interop.optax.state(
            optimizer, back.state, variables, transformation=back.transformation
        )
        assert jax.tree.structure(back.state) == jax.tree.structure(training.state)
    back.run(8, 12)
    training.run(8, 12)
    rtol = 1e-5 if tolerance_is_float32 else 1e-12
    for a, b in zip(
        jax.tree.leaves(back.parameters), jax.tree.leaves(training.parameters), strict=True
    ):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=1e-14)


WRAPPED: dict[str, Any] = {
    "masked": lambda: optax.masked(
        optax.rmsprop(0.01, momentum=0.5), {"dense": {"kernel": True, "bias": True}, "scale": True}
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.rmsprop)(
        learning_rate=0.01, momentum=0.5
    ),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.rmsprop(0.01, momentum=0.5), 3),
    "MultiSteps": lambda: optax.MultiSteps(
        optax.rmsprop(0.01, momentum=0.5), 2, accumulator_dtype="float64"
    ),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_state_is_found_in_wrappers(float64, wrapped):
    training = Training(WRAPPED[wrapped]())
    training.run(0, 4)
    variables = variables_of(training.parameters)
    optimizer = conventions.optax(0.01, momentum=0.5)
    if wrapped == "MultiSteps":
        optimizer = keras_rmsprop.RMSprop(
            0.01, momentum=0.5, epsilon=1e-8, gradient_accumulation_steps=2
        )
    optimizer.build(list(variables.values()))
    told = {"transformation": training.transformation} if wrapped == "MultiSteps" else {}
    interop.optax.load(optimizer, training.state, variables, **told)
    go_on(optimizer, variables, training.gradients[4:8])
    training.run(4, 8)
    assert_close(variables, training.parameters)
    with jax.enable_x64(True):
        state = interop.optax.state(optimizer, training.state, variables, **told)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(training.state), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12, atol=1e-14)


def test_masked_parameters_start_afresh_only_if_wanted(float64):
    mask = {"dense": {"kernel": True, "bias": False}, "scale": True}
    training = Training(optax.masked(optax.rmsprop(0.01), mask))
    training.run(0, 4)
    variables = variables_of(training.parameters)
    optimizer = conventions.optax(0.01)
    optimizer.build(list(variables.values()))
    before = models.values(optimizer.variables)
    with pytest.raises(ValueError, match="'dense/bias'"):
        interop.optax.load(optimizer, training.state, variables)
    models.assert_identical(models.values(optimizer.variables), before)
    with pytest.warns(UserWarning, match="start afresh: bias/square_average"):
        report = interop.optax.load(optimizer, training.state, variables, exact=False)
    assert report.initialized == ("bias/square_average",)


def test_a_pytree_of_variables_says_which_is_which(float64):
    training = Training(optax.rmsprop(0.01))
    training.run(0, 4)
    named = variables_of(training.parameters)
    tree = {
        "dense": {"kernel": named["dense/kernel"], "bias": named["dense/bias"]},
        "scale": named["scale"],
    }
    optimizer = conventions.optax(0.01)
    optimizer.build(list(named.values()))
    interop.optax.load(optimizer, training.state, tree)
    go_on(optimizer, named, training.gradients[4:8])
    training.run(4, 8)
    assert_close(named, training.parameters)


def test_swapped_names_of_unlike_shape_are_refused_and_named(float64):
    training = Training(optax.rmsprop(0.01))
    training.run(0, 4)
    variables = variables_of(training.parameters)
    optimizer = conventions.optax(0.01)
    optimizer.build(list(variables.values()))
    before = models.values(optimizer.variables)
    swapped = {**variables, "dense/kernel": variables["dense/bias"]}
    swapped["dense/bias"] = variables["dense/kernel"]
    with pytest.raises(ValueError, match="'dense/kernel' has shape") as raised:
        interop.optax.load(optimizer, training.state, swapped)
    assert "(3, 2) but 'bias' has shape (2,)" in str(raised.value)
    assert "'dense/bias' has shape (2,) but 'kernel' has shape (3, 2)" in str(raised.value)
    models.assert_identical(models.values(optimizer.variables), before)


def test_unfinished_accumulation_is_refused(float64):
    training = Training(optax.MultiSteps(optax.rmsprop(0.01), 3))
    training.run(0, 4)
    variables = variables_of(training.parameters)
    optimizer = conventions.optax(0.01)
    optimizer.build(list(variables.values()))
    with pytest.raises(ValueError, match="1 gradients are accumulated"):
        interop.optax.load(optimizer, training.state, variables)


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ({"momentum": 0.5}, {}, "there is none there"),
        ({"centered": True}, {}, "`centered` is True here and False there"),
        ({}, {"bias_correction": True}, "`bias_correction` is False here and True there"),
    ],
)
def test_what_a_state_shows_to_differ_is_refused(float64, ours, theirs, words):
    training = Training(optax.rmsprop(0.01, **theirs))
    training.run(0, 4)
    variables = variables_of(training.parameters)
    optimizer = conventions.optax(0.01, **ours)
    optimizer.build(list(variables.values()))
    with pytest.raises(NotExactError) as raised:
        interop.optax.load(optimizer, training.state, variables)
    assert words in str(raised.value)


def test_the_transformation_tells_what_a_state_does_not(float64):
    training = Training(optax.rmsprop(0.01, decay=0.95, eps=1e-4))
    training.run(0, 4)
    variables = variables_of(training.parameters)
    optimizer = conventions.optax(0.02)
    optimizer.build(list(variables.values()))
    with pytest.raises(NotExactError) as raised:
        interop.optax.load(
            optimizer, training.state, variables, transformation=training.transformation
        )
    assert "`rho` is 0.9 here and 0.95 there" in str(raised.value)
    assert "`epsilon` is 1e-08 here and 0.0001 there" in str(raised.value)


@pytest.mark.parametrize(
    "transformation",
    [
        lambda: optax.adam(0.01),
        lambda: optax.chain(optax.rmsprop(0.01), optax.scale(0.5)),
        lambda: optax.chain(optax.scale_by_rms(), optax.add_decayed_weights(0.1)),
        lambda: optax.chain(optax.rmsprop(0.01), optax.add_decayed_weights(-0.1)),
        lambda: optax.chain(
            optax.scale_by_rms(),
            optax.scale(-1.0),
            optax.add_decayed_weights(0.1),
            optax.trace(0.5),
        ),
        lambda: optax.chain(
            optax.scale_by_rms(),
            optax.add_decayed_weights(0.1),
            optax.trace(0.5),
            optax.scale(-1.0),
        ),
        lambda: optax.chain(
            optax.scale_by_rms(),
            optax.add_decayed_weights(0.1),
            optax.scale(-1.0),
            optax.trace(0.5),
        ),
        lambda: optax.flatten(optax.rmsprop(0.01)),
        lambda: optax.chain(optax.zero_nans(), optax.rmsprop(0.01)),
        lambda: optax.chain(optax.clip(1.0), optax.apply_if_finite(optax.rmsprop(0.01), 2**31 - 1)),
        lambda: optax.MultiSteps(optax.apply_if_finite(optax.rmsprop(0.01), 2**31 - 1), 2),
        lambda: optax.chain(optax.set_to_zero(), optax.rmsprop(0.01)),
    ],
)
def test_other_transformations_are_refused(transformation):
    with pytest.raises(ValueError, match=r"Known are optax\.rmsprop"):
        interop.like(transformation())


def test_another_optimizer_s_state_is_refused(float64):
    training = Training(optax.adam(0.01))
    variables = variables_of(training.parameters)
    optimizer = conventions.optax(0.01)
    optimizer.build(list(variables.values()))
    with pytest.raises(ValueError, match="ScaleByAdamState, which is another optimizer's"):
        interop.optax.load(optimizer, training.state, variables)
    with pytest.raises(ValueError, match=r"contains none of optax\.rmsprop"):
        interop.optax.load(optimizer, optax.sgd(0.1).init(training.parameters), variables)


def test_like_reads_every_argument():
    transformation = optax.rmsprop(
        0.02, decay=0.95, eps=1e-3, initial_scale=0.5, eps_in_sqrt=False, centered=True,
        momentum=0.5, nesterov=True,
    )  # fmt: skip
    want = conventions.optax(
        0.02, decay=0.95, eps=1e-3, initial_scale=0.5, eps_in_sqrt=False, centered=True,
        momentum=0.5, nesterov=True,
    )  # fmt: skip
    assert interop.like(transformation, name="x").get_config() == {
        **want.get_config(), "name": "x",
    }  # fmt: skip


def halving(count: Any) -> Any:
    """A schedule."""
    return 0.01 * 0.5**count


@pytest.mark.parametrize(
    ("rate", "transformation", "words"),
    [
        (0.01, lambda: optax.rmsprop(halving), "is a number here, and changes by a schedule"),
        (halving, lambda: optax.rmsprop(0.01), "changes by a schedule or a callable here"),
        (0.1, lambda: optax.rmsprop(0.01), "is 0.1 here and 0.01 there"),
        (
            lambda count: halving(count) * (1.0 if count < 9 else 2.0),
            lambda: optax.rmsprop(halving),
            "after 9 steps",
        ),
    ],
)
def test_a_rate_that_stays_or_moves_on_one_side_only_is_refused(rate, transformation, words):
    parameters = [np.ones(3, np.float32)]
    state = transformation().init(parameters)
    optimizer = conventions.optax(rate)
    optimizer.build([keras.Variable(parameters[0])])
    with pytest.raises(NotExactError) as raised:
        interop.optax.state(optimizer, state, transformation=transformation())
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("transformation", "words"),
    [
        (lambda: optax.chain(optax.ema(0.9), optax.rmsprop(0.01)), "contains EmaState"),
        (lambda: optax.chain(optax.trace(0.9), optax.rmsprop(0.01)), "a trace before the averages"),
    ],
)
def test_states_with_more_than_rmsprop_holds_are_refused(transformation, words):
    state = transformation().init([np.ones(3, np.float32)])
    optimizer = conventions.optax(0.01)
    optimizer.build([keras.Variable(np.ones(3))])
    with pytest.raises(ValueError, match=words):
        interop.optax.load(optimizer, state)


def test_injected_numbers_are_compared_and_loaded():
    transformation = optax.inject_hyperparams(optax.rmsprop)(learning_rate=0.5, decay=0.75)
    state = transformation.init([np.ones(3, np.float32)])
    optimizer = conventions.optax(0.01)
    optimizer.build([keras.Variable(np.ones(3))])
    with pytest.raises(NotExactError, match=r"`rho` is 0\.9 here and 0\.75 there"):
        interop.optax.load(optimizer, state)
    optimizer.rho = 0.75
    interop.optax.load(optimizer, state)
    assert float(optimizer.learning_rate) == 0.5


@pytest.mark.parametrize(
    ("transformation", "words"),
    [
        (lambda: optax.rmsprop(halving), "is a number here, and changes by a schedule"),
        (
            lambda: optax.inject_hyperparams(optax.rmsprop)(learning_rate=halving),
            "is a number here, and changes by a schedule",
        ),
        (
            lambda: optax.inject_hyperparams(optax.rmsprop)(0.01, decay=lambda _: 0.9),
            "`rho` changes by a schedule or a callable there",
        ),
        (
            lambda: optax.chain(
                optax.scale_by_rms(), optax.scale(-0.01), optax.trace(0.0, False, "bfloat16")
            ),
            "the slots are rounded to bfloat16 there",
        ),
    ],
)
def test_what_a_state_tells_of_schedules_and_dtypes_is_compared(transformation, words):
    state = transformation().init([np.ones(3, np.float32)])
    optimizer = conventions.optax(0.01, momentum=0.5 if "bfloat16" in words else None)
    optimizer.build([keras.Variable(np.ones(3))])
    for carry in (interop.optax.load, interop.optax.state):
        with pytest.raises(NotExactError) as raised:
            carry(optimizer, state)
        assert words in str(raised.value)
        carry(optimizer, state, exact=False)


@pytest.mark.parametrize("count", [0, 3, 7])
def test_a_schedule_of_optax_gives_the_rate_that_optax_gets(float64, count):
    # In float32, because optax counts in int32.
    schedule = optax.exponential_decay(0.05, 2, 0.3)
    with jax.enable_x64(True):
        want = float(schedule(jax.numpy.asarray(count, "int32")))
        for optimizer in (
            interop.like(optax.rmsprop(schedule)),
            interop.like(optax.rmsprop(lambda n: schedule(n))),
            conventions.optax(schedule),
        ):
            assert float(optimizer._learning_rate(count)) == want


def test_a_rate_given_to_like_stays_where_exactness_is_not_wanted():
    variable = keras.Variable(np.ones(3, np.float32))
    plain = optax.rmsprop(0.25)
    state = plain.init([np.ones(3, np.float32)])
    optimizer = interop.like(plain, [variable], state=state, learning_rate=0.5, exact=False)
    assert float(optimizer.learning_rate) == 0.5
    with pytest.raises(NotExactError, match=r"`learning_rate` is 0\.5 here and 0\.25 there"):
        interop.like(plain, [variable], state=state, learning_rate=0.5)


def test_a_trace_of_unknown_order_is_refused_without_the_transformation():
    transformation = AROUND["the rate after the trace"]()
    state = transformation.init([np.ones(3, np.float32)])
    optimizer = interop.like(transformation, [keras.Variable(np.ones(3))], state=state)
    assert not optimizer.lr_in_momentum
    with pytest.raises(NotExactError, match="Pass `transformation`"):
        interop.optax.load(optimizer, state)


def test_a_schedule_that_ascends_or_is_scaled_is_read_as_it_is():
    scaled = optax.chain(
        optax.scale_by_rms(), optax.scale_by_schedule(lambda count: -0.5 * halving(count))
    )
    assert float(interop.like(scaled).learning_rate) == pytest.approx(0.005)
    ascending = optax.chain(
        optax.scale_by_rms(), optax.scale_by_learning_rate(halving, flip_sign=False)
    )
    assert float(interop.like(ascending).learning_rate) == pytest.approx(-0.01)


@pytest.mark.parametrize("labels", [["x", "y"], {"a": "x", "b": "y"}, {"a": {"k": "x"}, "b": "y"}])
def test_a_multi_transform_of_any_pytree_becomes_groups(labels):
    transforms = {"x": optax.rmsprop(0.0), "y": optax.rmsprop(0.01, decay=0.5)}
    transformation = optax.multi_transform(transforms, labels)
    first, second = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    parameters: Any = [first, second] if isinstance(labels, list) else {"a": first, "b": second}
    if isinstance(labels, dict) and isinstance(labels["a"], dict):
        parameters["a"] = {"k": first}
    state = transformation.init(parameters)
    variables = [keras.Variable(first, name="a"), keras.Variable(second, name="b")]
    pairs = None
    if isinstance(parameters, dict):
        pairs = {"a/k" if isinstance(parameters["a"], dict) else "a": variables[0]}
        pairs["b"] = variables[1]
    optimizer = interop.like(transformation, variables, pairs, state=state)
    assert optimizer._settings_of(0).rho == 0.9
    assert optimizer._settings_of(1).rho == 0.5
    optimizer.apply([keras.ops.ones((2, 3)), keras.ops.ones(3)], variables)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variables[0]), first)
    assert np.all(keras.ops.convert_to_numpy(variables[1]) < second)


def test_norms_of_parts_are_refused():
    part = optax.chain(optax.clip_by_global_norm(1.0), optax.rmsprop(0.01))
    transformation = optax.multi_transform({"x": part, "y": part}, ["x", "y"])
    with pytest.raises(ValueError, match="one norm, of all"):
        interop.like(transformation)


# A state and a transformation that do not belong together.


CARRIED: dict[str, Any] = {
    "like": lambda optimizer, state, transformation: interop.like(
        transformation, optimizer._roster.weights, state=state
    ),
    "load": lambda optimizer, state, transformation: interop.optax.load(
        optimizer, state, transformation=transformation
    ),
    "state": lambda optimizer, state, transformation: interop.optax.state(
        optimizer, state, transformation=transformation
    ),
}


@pytest.mark.parametrize("carry", CARRIED)
@pytest.mark.parametrize(
    ("made", "told", "words"),
    [
        ({"momentum": 0.5}, {}, "The state has a trace"),
        ({}, {"momentum": 0.5}, "The transformation has a trace"),
        ({"centered": True}, {}, "The state has an average of the gradients"),
        ({}, {"centered": True}, "The transformation has an average of the gradients"),
    ],
)
def test_a_state_with_other_slots_than_the_transformation_is_refused(carry, made, told, words):
    state = optax.rmsprop(0.01, **made).init([np.ones(3, np.float32)])
    optimizer = conventions.optax(0.01, **told)
    optimizer.build([keras.Variable(np.ones(3))])
    with pytest.raises(NotExactError, match=words):
        CARRIED[carry](optimizer, state, optax.rmsprop(0.01, **told))


def test_a_trace_without_momentum_belongs_to_its_transformation():
    transformation = optax.rmsprop(0.01, momentum=0.0)
    state = transformation.init([np.ones(3, np.float32)])
    assert interop.like(transformation, [keras.Variable(np.ones(3))], state=state).momentum == 0.0


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (optax.rmsprop(0.01), optax.inject_hyperparams(optax.rmsprop)(0.01)),
        (optax.rmsprop(0.01), optax.multi_transform({"x": optax.rmsprop(0.01)}, ["x"])),
        (optax.rmsprop(0.01), optax.named_chain(("a", optax.rmsprop(0.01)))),
        (optax.rmsprop(0.01), optax.chain(optax.clip(1.0), optax.rmsprop(0.01))),
        (optax.rmsprop(0.01), optax.MultiSteps(optax.rmsprop(0.01), 2)),
        (optax.MultiSteps(optax.rmsprop(0.01), 2), optax.rmsprop(0.01)),
    ],
)
def test_a_state_of_another_structure_is_refused(made, told):
    state = made.init([np.ones(3, np.float32)])
    with pytest.raises(ValueError, match=r"The state is not one of|Only one of the state"):
        interop.like(told, [keras.Variable(np.ones(3))], state=state)


def test_injected_numbers_are_those_of_the_state():
    transformation = optax.inject_hyperparams(optax.rmsprop)(learning_rate=0.5, decay=0.75)
    state = transformation.init([np.ones(3, np.float32)])
    state.hyperparams.update(learning_rate=0.25, decay=0.5)
    optimizer = interop.like(transformation, [keras.Variable(np.ones(3))], state=state)
    assert (float(optimizer.learning_rate), optimizer.rho) == (0.25, 0.5)
    without_state = interop.like(transformation)
    assert (float(without_state.learning_rate), without_state.rho) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("transformation", "words"),
    [
        (lambda: optax.inject_hyperparams(optax.rmsprop)(0.01, decay=halving), "'decay' changes"),
        (
            lambda: optax.inject_hyperparams(lambda rate: optax.rmsprop(2 * rate))(halving),
            "'rate' changes",
        ),
        (
            lambda: optax.inject_hyperparams(
                lambda learning_rate: optax.rmsprop(2 * learning_rate)
            )(halving),
            "cannot be found out: TypeError",
        ),
        (lambda: optax.apply_if_finite(optax.rmsprop(0.01), 5), "no more than 5 in a row"),
        (lambda: optax.MultiSteps(optax.rmsprop(0.01), lambda _: 2), "is a function"),
        (
            lambda: optax.MultiSteps(optax.rmsprop(0.01), 2, use_grad_mean=False),
            "the sum of the gradients",
        ),
        (
            lambda: optax.MultiSteps(
                optax.rmsprop(0.01), 2, should_skip_update_fn=optax.skip_not_finite
            ),
            "should_skip_update_fn",
        ),
        (
            lambda: optax.MultiSteps(optax.rmsprop(0.01), 2, accumulator_dtype="bfloat16"),
            "accumulates in bfloat16",
        ),
        (lambda: optax.masked(optax.rmsprop(0.01), {"a": True, "b": False}), "leave 'b' out"),
        (lambda: optax.masked(optax.rmsprop(0.01), lambda tree: tree), "or a state as well"),
        (lambda: optax.freeze(True), "freezes all parameters"),
        (
            lambda: optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.multi_transform(
                    {"x": optax.set_to_zero(), "y": optax.rmsprop(0.01)}, {"a": "x", "b": "y"}
                ),
            ),
            "also of the gradient of 'a'",
        ),
    ],
)
def test_what_an_rmsprop_does_not_do_is_refused_with_the_reason(transformation, words):
    with pytest.raises(ValueError, match=words):
        interop.like(transformation())


def test_gradients_that_are_not_finite_are_skipped_as_the_user_decides():
    transformation = optax.apply_if_finite(optax.rmsprop(0.01), 5)
    variable = keras.Variable(np.ones(3))
    state = transformation.init([np.ones(3, np.float32)])
    optimizer = interop.like(transformation, [variable], state=state, skip_nonfinite=True)
    assert optimizer.skip_nonfinite
    with pytest.raises(NotExactError, match="`skip_nonfinite` is False here"):
        interop.like(transformation, [variable], state=state, skip_nonfinite=False)


@pytest.mark.parametrize("steps", [None, 4])
def test_another_number_of_accumulated_gradients_is_refused(steps):
    transformation = optax.MultiSteps(optax.rmsprop(0.01), 2)
    state = transformation.init([np.ones(3, np.float32)])
    optimizer = conventions.optax(0.01)
    optimizer.gradient_accumulation_steps = steps
    optimizer.build([keras.Variable(np.ones(3))])
    for carry in (interop.optax.load, interop.optax.state):
        with pytest.raises(NotExactError, match="Pass `transformation`"):
            carry(optimizer, state)
        words = f"is {steps} here, and MultiSteps makes a step of 2 gradients"
        with pytest.raises(NotExactError, match=words):
            carry(optimizer, state, transformation=transformation)
    interop.optax.load(optimizer, state, exact=False)


def test_accumulated_training_goes_on_with_the_same_steps(float64):
    inner = optax.rmsprop(0.01, momentum=0.5)
    training = Training(optax.MultiSteps(inner, 2, accumulator_dtype="float64"))
    training.run(0, 4)
    start = jax.tree.map(np.asarray, training.parameters)
    variables = variables_of(training.parameters)
    optimizer = interop.like(
        training.transformation, list(variables.values()), variables, state=training.state
    )
    go_on(optimizer, variables, training.gradients[4:8])
    training.run(4, 8)
    own = [variables_of(each) for each in (training.parameters, start)]
    want, before = (models.values([each[name] for name in variables]) for each in own)
    models.assert_same(models.values(variables.values()), want, before, steps=2)


def test_gradients_that_are_accumulated_with_fewer_digits_are_refused(float64):
    transformation = optax.MultiSteps(optax.rmsprop(0.01), 2)
    variable = keras.Variable(np.ones(3))
    own = conventions.optax(0.01)
    own.gradient_accumulation_steps = 2
    own.build([variable])
    with jax.enable_x64(True):
        state = transformation.init([np.ones(3)])
    words = r"gradients of float64 parameters in float32 there; make .* accumulator_dtype='float64'"
    for carry in (
        lambda **options: interop.like(transformation, [variable], state=state, **options),
        lambda **options: interop.optax.load(own, state, transformation=transformation, **options),
        lambda **options: interop.optax.state(own, state, transformation=transformation, **options),
    ):
        with pytest.raises(NotExactError, match=words):
            carry()
        carry(exact=False)


@pytest.mark.parametrize(
    ("dtype", "steps", "accumulator"), [("float32", 2, "float32"), ("float64", 1, "float32")]
)
def test_gradients_that_are_accumulated_without_rounding_are_carried_over(
    dtype, steps, accumulator
):
    transformation = optax.MultiSteps(optax.rmsprop(0.01), steps, accumulator_dtype=accumulator)
    with jax.enable_x64(True):
        state = transformation.init([np.ones(3, dtype)])
    interop.like(transformation, [keras.Variable(np.ones(3), dtype=dtype)], state=state)


@pytest.mark.parametrize("has_state", [False, True], ids="has_state={}".format)
def test_an_accumulating_training_has_a_schedule_of_its_steps(float64, has_state):
    # optax's schedule counts completed steps, and Keras's batches.
    schedule = optax.exponential_decay(0.05, 3, 0.5)
    training = Training(optax.MultiSteps(optax.rmsprop(schedule), 2, accumulator_dtype=np.float64))
    if has_state:
        training.run(0, 4)
    variables = variables_of(training.parameters)
    optimizer = interop.like(
        training.transformation,
        list(variables.values()),
        variables,
        state=training.state if has_state else None,
    )
    first = 4 if has_state else 0
    go_on(optimizer, variables, training.gradients[first : first + 4])
    training.run(first, first + 4)
    assert_close(variables, training.parameters)


SCALE = {"dense": {"kernel": False, "bias": False}, "scale": True}
FREEZING: dict[str, Any] = {
    "multi_transform": lambda: optax.multi_transform(
        {"train": optax.rmsprop(0.01, momentum=0.5), "not": optax.set_to_zero()},
        {"dense": "train", "scale": "not"},
    ),
    "selective_transform": lambda: optax.selective_transform(
        optax.rmsprop(0.01, momentum=0.5), freeze_mask=SCALE
    ),
    # With a state, of no use, of what is frozen.
    "freeze": lambda: optax.chain(optax.rmsprop(0.01, momentum=0.5), optax.freeze(SCALE)),
}


@pytest.mark.parametrize("freezing", FREEZING)
def test_frozen_parameters_are_no_variables_of_the_optimizer(float64, freezing):
    training = Training(FREEZING[freezing]())
    training.run(0, 4)
    pairs = variables_of(training.parameters)
    with pytest.raises(ValueError, match="'scale' is frozen there, and its partner"):
        interop.like(training.transformation, list(pairs.values()), pairs, state=training.state)
    trained = {name: variable for name, variable in pairs.items() if name != "scale"}
    with jax.enable_x64(True):
        optimizer = interop.like(
            training.transformation, list(trained.values()), pairs, state=training.state
        )
    go_on(optimizer, trained, training.gradients[4:8])
    training.run(4, 8)
    assert_close(pairs, training.parameters)
    with jax.enable_x64(True):
        state = interop.optax.state(
            optimizer, training.state, pairs, transformation=training.transformation
        )
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(training.state), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12, atol=1e-14)


def test_another_schedule_than_an_injected_one_is_refused():
    transformation = optax.inject_hyperparams(optax.rmsprop)(learning_rate=halving)
    state = transformation.init([np.ones(3, np.float32)])
    optimizer = conventions.optax(lambda count: 0.01 / (1 + count))
    optimizer.build([keras.Variable(np.ones(3))])
    with pytest.raises(NotExactError, match="the learning rate after 2 steps"):
        interop.optax.state(optimizer, state, transformation=transformation)
