"""Test that the table of conventions says what the functions of `conventions` do."""

import inspect
import re
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop, _assignment, conventions
from keras_rmsprop._settings import _conventions, _validation
from keras_rmsprop._settings._conventions import CONVENTIONS, OFF, Match, match_with, nearest
from keras_rmsprop._settings._describe import equations
from yardsticks.agreement import rmsprop

pytestmark = pytest.mark.filterwarnings("ignore:.*makes the first variance exactly")

# Arguments that do not change the steps, or are refused unless they are off.
WITHOUT_EFFECT = {
    "torch": {"capturable", "foreach", "differentiable"},
    "tf1": {"use_locking"},
    "timm": {"corrected_weight_decay", "caution", "foreach"},
}

SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
RATES = [0.5, 0.001, SCHEDULE, lambda: 0.25]
FRACTIONS = [0.0, 0.5, 0.9, 0.95, 0.99]
EPSILONS = [0.0, 1e-10, 1e-8, 1e-7, 1e-4, 1.0]
FLAGS = [False, True]
CLIPS = [None, 0.5]

# Legal values by the name of an argument, and for some conventions others.
LEGAL: dict[str, list[Any]] = {
    "learning_rate": RATES,
    "lr": RATES,
    **dict.fromkeys(["rho", "alpha", "decay", "momentum"], FRACTIONS),
    **dict.fromkeys(["epsilon", "eps"], EPSILONS),
    **dict.fromkeys(["centered", "nesterov", "eps_in_sqrt", "bias_correction", "use_ema"], FLAGS),
    **dict.fromkeys(["maximize", "decoupled_decay", "lr_in_momentum"], FLAGS),
    **dict.fromkeys(["clipnorm", "clipvalue", "global_clipnorm"], CLIPS),
    "weight_decay": [0.01, 0.25],
    "ema_momentum": [0.5, 0.99],
    "ema_overwrite_frequency": [None, 7],
    "loss_scale_factor": [None, 4.0],
    "gradient_accumulation_steps": [None, 3],
    "initial_scale": [0.0, 1.0],
    "name": ["mine"],
    # Powers of two as rates, so that a factor survives being written as a rate.
    "params": [
        None,
        [{"params": "backbone/.*", "lr": 0.25, "momentum": 0.7}, {"params": "head", "eps": 0.1}],
        [{"params": ".*", "alpha": 0.3, "weight_decay": 0.125, "maximize": True}],
        [{"params": "nothing of its own"}],
    ],
}
LEGAL_OF: dict[tuple[str, str], list[Any]] = {
    ("tf_keras_legacy", "decay"): [0.0, 0.25],
    ("optax", "learning_rate"): [0.5, 0.001, SCHEDULE, lambda count: 0.5 / (1 + count)],
}
DRAWS = 40


def drawn(name: str, rng: np.random.Generator) -> tuple[dict[str, Any], RMSprop]:
    """Random arguments that a convention accepts, and its optimizer."""
    function = getattr(conventions, name)
    while True:
        arguments = {}
        for parameter in inspect.signature(function).parameters.values():
            argument = parameter.name
            if parameter.kind is parameter.VAR_KEYWORD or argument in WITHOUT_EFFECT.get(name, ()):
                continue
            if parameter.default is parameter.empty or rng.random() < 0.5:
                choices = LEGAL_OF.get((name, argument), LEGAL.get(argument, []))
                assert choices, f"no values for `{argument}` of {name}"
                arguments[argument] = choices[rng.integers(len(choices))]
        try:
            return arguments, function(**arguments)
        except ValueError:
            # Some arguments exclude each other; the conventions' own tests say which.
            continue


def match_of(optimizer: RMSprop, name: str | None = None) -> Match:
    """The nearest convention of an optimizer, or how it matches one of them."""
    groups = _assignment.groups_in_use(optimizer)
    known = optimizer._settings(), optimizer._learning_rate, groups
    return nearest(*known) if name is None else match_with(CONVENTIONS[name], *known)


def evaluated(match: Match, optimizer: RMSprop) -> RMSprop:
    """The optimizer that the call in a description makes."""
    call = match.call().replace(match.convention.function, "function")
    rate = optimizer._learning_rate
    names = {"function": getattr(conventions, match.convention.name), "schedule": rate}
    return eval(call, {**names, "rate": rate})  # type: ignore[no-any-return]


def steps_of(optimizer: RMSprop) -> Any:
    """All that determines the steps of an optimizer, without the settings that have no effect."""
    blocks = equations(optimizer._settings(), optimizer._learning_rate)
    # An epsilon of 0 is nowhere.
    lines = [line[0].replace("sqrt(s + 0)", "sqrt(s) + 0") for b in blocks for line in b.lines]
    groups = _assignment.groups_in_use(optimizer)
    return lines, {pattern: own for pattern, own in groups.items() if own}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_optimizer_of_a_convention_is_found_to_be_of_it(
    name: str, rng: np.random.Generator
) -> None:
    seen = set()
    for _ in range(DRAWS):
        arguments, optimizer = drawn(name, rng)
        own, found = match_of(optimizer, name), match_of(optimizer)
        assert own.differences == found.differences == (), arguments
        assert name in (found.convention.name, *found.also), arguments
        for match in (own, found):
            assert steps_of(evaluated(match, optimizer)) == steps_of(optimizer), arguments
        seen.add(found.convention.name)
    # By its defaults each is told from the others.
    assert name in seen


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_call_gives_the_same_config(name: str, rng: np.random.Generator) -> None:
    compared = 0
    for _ in range(DRAWS):
        _, optimizer = drawn(name, rng)
        if callable(optimizer._learning_rate):
            continue
        compared += 1
        configs = [
            each.get_config()
            for each in (optimizer, evaluated(match_of(optimizer, name), optimizer))
        ]
        for config in configs:
            del config["name"]
            # Both mean none.
            config["weight_decay"] = config["weight_decay"] or None
            # These have no effect.
            if not config["use_ema"]:
                del config["ema_momentum"], config["ema_overwrite_frequency"]
            if not config["momentum"] and not config["groups"]:
                del config["lr_in_momentum"]
            if not config["epsilon"] and not config["groups"]:
                del config["epsilon_inside_sqrt"]
        assert configs[0] == configs[1]
    assert compared > 5


@pytest.mark.parametrize("name", CONVENTIONS)
def test_arguments_and_defaults_are_those_of_the_function(name: str) -> None:
    parameters = inspect.signature(getattr(conventions, name)).parameters
    convention = CONVENTIONS[name]
    for argument in convention.arguments.values():
        default = parameters[argument.name].default
        is_off = not default and not argument.default
        assert default == argument.default or is_off, argument
    known = {argument.name for argument in convention.arguments.values()}
    known |= {other for argument in convention.arguments.values() for other in argument.beside}
    known |= {theirs for schedule in convention.schedules.values() for theirs in schedule.values()}
    known |= {"params"} if convention.groups else set()
    # Further arguments of `RMSprop`.
    known |= {"options"}
    # `lr` is the old name of `learning_rate` in tf_keras.
    known |= {"name", *WITHOUT_EFFECT.get(name, ()), *(["lr"] if "legacy" in name else [])}
    assert set(parameters) <= known


def test_the_conventions_are_those_that_are_published() -> None:
    functions = {name for name in conventions.__all__ if name.islower()}
    assert {*CONVENTIONS} == functions


def test_every_setting_has_a_value_for_off_or_has_no_effect_on_steps() -> None:
    settings = {*OFF, "rho", "epsilon", *_conventions.HOW_STEPS_RUN}
    assert settings >= {*_validation.HYPERPARAMETERS}
    defaults = inspect.signature(RMSprop).parameters
    assert {setting: defaults[setting].default for setting in OFF} == OFF


# What is said of single configurations.


def said(learning_rate: Any = 0.001, **arguments: Any) -> str:
    match = match_of(rmsprop(learning_rate=learning_rate, **arguments))
    return match.in_words(match.call())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly keras.optimizers.RMSprop(learning_rate=0.001), also optax."),
        (
            {"epsilon": 1e-8, "momentum": 0.9, "nesterov": True},
            "exactly optax.rmsprop(learning_rate=0.001, momentum=0.9, nesterov=True).",
        ),
        (
            {"rho": 0.99, "epsilon": 1e-8, "epsilon_inside_sqrt": False},
            "exactly torch.optim.RMSprop(lr=0.001), also optax and tf_keras_legacy.",
        ),
        (
            {"epsilon": 0.01, "momentum": 0.9, "initial_square_average": 1.0},
            "exactly tf.compat.v1.train.RMSPropOptimizer(learning_rate=0.001, momentum=0.9, "
            "epsilon=0.01), also optax and timm.",
        ),
        (
            {"weight_decay": 0.01, "initial_square_average": 1.0, "epsilon": 1e-10},
            "exactly timm.optim.RMSpropTF(lr=0.001, weight_decay=0.01, decoupled_decay=True).",
        ),
        (
            {"weight_decay": 0.01, "skip_nonfinite": True, "lazy": False, "jit_compile": False},
            "nearest is keras.optimizers.RMSprop(learning_rate=0.001, weight_decay=0.01), "
            "except for skip_nonfinite=True.",
        ),
        (
            {"momentum": 0.9, "lr_in_momentum": False},
            "nearest is keras.optimizers.RMSprop(learning_rate=0.001, momentum=0.9), "
            "except for the learning rate outside the momentum buffer.",
        ),
        (
            {"weight_decay": 0.01, "epsilon_inside_sqrt": False, "l2": 0.1},
            "nearest is torch.optim.RMSprop(lr=0.001, alpha=0.9, eps=1e-07, weight_decay=0.1), "
            "except for weight_decay=0.01.",
        ),
        (
            {"initial_square_average": 0.5, "maximize": True, "transform": "centralize"},
            "nearest is optax.rmsprop(learning_rate=0.001, eps=1e-07, initial_scale=0.5), "
            "except for maximize=True and transform=centralize.",
        ),
        (
            {"groups": {"a": {"learning_rate": 0.5}}, "epsilon_inside_sqrt": False},
            "exactly torch.optim.RMSprop(lr=0.001, alpha=0.9, eps=1e-07, "
            "params=[{'params': 'a', 'lr': 0.0005}]).",
        ),
        (
            {"groups": {"a": {"learning_rate": 0.5}}},
            "nearest is keras.optimizers.RMSprop(learning_rate=0.001), except for groups.",
        ),
        # These groups change nothing.
        (
            {"groups": {"a": {"rho": 0.9, "transform": None, "weight_decay": 0.0}, "b": {}}},
            "exactly keras.optimizers.RMSprop(learning_rate=0.001), also optax.",
        ),
        (
            {"epsilon": 0.0},
            "exactly conventions.hinton(learning_rate=0.001), also keras, torch and optax.",
        ),
        (
            {"learning_rate": SCHEDULE, "clipnorm": 1.0},
            "exactly keras.optimizers.RMSprop(learning_rate=schedule, clipnorm=1.0).",
        ),
    ],
    # Without the address of the schedule, so that the names are the same in every process.
    ids=lambda value: re.sub(" object at 0x[0-9a-f]+", "", str(value)),
)  # fmt: skip
def test_the_nearest_convention_is_named_with_what_it_lacks(
    arguments: dict[str, Any], words: str
) -> None:
    assert said(**arguments) == words


def test_the_paper_of_graves_is_told_by_its_numbers() -> None:
    match = match_of(conventions.graves())
    assert match.call() == "conventions.graves(learning_rate=0.0001)"
    assert match.also == ("keras", "optax", "tf_keras_legacy")


def test_the_decay_of_tf_keras_is_an_argument() -> None:
    match = match_of(conventions.tf_keras_legacy(0.5, momentum=0.9, decay=0.25), "tf_keras_legacy")
    assert match.call() == (
        "tf_keras.optimizers.legacy.RMSprop(learning_rate=0.5, decay=0.25, momentum=0.9)"
    )


def test_what_no_setting_says_counts_as_a_difference_where_a_framework_lacks_it() -> None:
    settings = {**rmsprop()._settings(), "weight_decay": 0.1}
    beyond = [*_conventions.BEYOND, "the `update_step` of Mine"]
    keras_match = nearest(settings, 0.1, beyond=beyond)
    assert keras_match.convention.name == "keras"
    assert keras_match.differences == ("the `update_step` of Mine",)
    legacy = match_with(CONVENTIONS["tf_keras_legacy"], settings, 0.1, beyond=beyond)
    assert _conventions.EXCLUSIONS in legacy.differences
    assert _conventions.CONSTRAINTS not in legacy.differences


def test_fewer_differences_come_before_fewer_arguments() -> None:
    optimizer = rmsprop(momentum=0.9, epsilon=1e-10, nesterov=True, maximize=True)
    assert len(match_of(optimizer, "tf1").differences) == 3
    assert match_of(optimizer, "tf1").chosen < match_of(optimizer, "optax").chosen
    assert match_of(optimizer).convention.name == "optax"


def test_optax_takes_no_rate_that_is_called_without_a_count() -> None:
    optimizer = rmsprop(learning_rate=lambda: 0.1, epsilon=1e-8)
    assert match_of(optimizer).convention.name == "keras"
    assert match_of(optimizer, "optax").differences == ("learning_rate=lambda",)


@pytest.mark.parametrize("rate", [0.1, 1 / 3, 1e-5])
def test_a_rate_in_float32_is_written_with_the_digits_it_has(rate: float) -> None:
    found = match_of(rmsprop(learning_rate=rate)).arguments["learning_rate"]
    assert np.float32(found) == np.float32(rate)
    assert len(repr(found)) <= 11
