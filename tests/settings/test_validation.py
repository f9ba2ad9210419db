"""Test that every hyperparameter is checked, at construction and on assignment."""

import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop
from keras_rmsprop._settings import _validation
from tests.conftest import since_keras

NAN, INFINITY = float("nan"), float("inf")

NUMBERS_OUTSIDE = {
    "rho": (1.0, 1.5, -0.1),
    "momentum": (1.0, 2.0, -0.5),
    "epsilon": (-1e-7, INFINITY),
    "initial_square_average": (-1.0, INFINITY),
    "l2": (-0.01, INFINITY),
    "weight_decay": (-1.0, INFINITY),
    "clipnorm": (-1.0, INFINITY),
    "clipvalue": (-1.0, INFINITY),
    "global_clipnorm": (-1.0, INFINITY),
    "ema_momentum": (-0.1, 1.1),
    "loss_scale_factor": (0.0, -2.0, INFINITY),
    "ema_overwrite_frequency": (-1, 2.5),
    "gradient_accumulation_steps": (1, -2, 2.5),
}
NUMBERS_AT_THE_EDGE = {
    "rho": (0.0, 1.0 - 1e-9),
    "momentum": (0.0, 1.0 - 1e-9),
    "epsilon": (0.0, 1e30),
    "initial_square_average": (0.0, 1e30),
    "l2": (0.0, 1e30),
    "weight_decay": (0.0, None),
    "clipnorm": (1e-30, 0.0, None),
    "clipvalue": (1e-30, 0.0, None),
    "global_clipnorm": (1e-30, 0.0, None),
    "ema_momentum": (0.0, 1.0),
    "loss_scale_factor": (1e-30, None),
    "ema_overwrite_frequency": (1, 0, None),
    "gradient_accumulation_steps": (2, 0, None),
}
FLAGS = [
    name
    for name, hyperparameter in _validation.HYPERPARAMETERS.items()
    if hyperparameter.accepted == "True or False"
]
INTEGERS = ("ema_overwrite_frequency", "gradient_accumulation_steps")
OUTSIDE = [(name, value) for name, values in NUMBERS_OUTSIDE.items() for value in values]
AT_THE_EDGE = [(name, value) for name, values in NUMBERS_AT_THE_EDGE.items() for value in values]
# Values that no hyperparameter accepts; all but the last could pass for a number or a flag.
NEVER = (NAN, np.float32("nan"), "0.5", "True", [0.5], np.array([0.5]), 1j, object())


def built(**arguments: Any) -> RMSprop:
    """A built optimizer."""
    optimizer = RMSprop(**arguments)
    optimizer.build([keras.Variable([1.0, 2.0], name="weight")])
    return optimizer


# At construction.


def test_the_tables_of_this_file_name_every_hyperparameter() -> None:
    own = {*NUMBERS_OUTSIDE, *FLAGS, "jit_compile", "transform", "state_dtype"}
    checked_elsewhere = {"learning_rate", "name", "groups", "diagnostics"}
    arguments = set(inspect.signature(RMSprop).parameters) - checked_elsewhere
    assert set(NUMBERS_AT_THE_EDGE) == set(NUMBERS_OUTSIDE)
    assert own == arguments == set(_validation.HYPERPARAMETERS)


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_number_outside_its_range_is_refused_and_the_range_named(name: str, value: Any) -> None:
    accepted = re.escape(_validation.HYPERPARAMETERS[name].accepted)
    received = re.escape(f"received {name}={value!r}")
    with pytest.raises(ValueError, match=f"`{name}` must be {accepted}, {received}"):
        RMSprop(**{name: value})


@pytest.mark.parametrize(("name", "value"), AT_THE_EDGE)
def test_the_edges_of_a_range_that_belong_to_it_are_accepted(name: str, value: Any) -> None:
    assert getattr(RMSprop(**{name: value}), name) == value


@pytest.mark.parametrize("value", NEVER, ids=[*map(repr, NEVER[:-1]), "object()"])
@pytest.mark.parametrize("name", _validation.HYPERPARAMETERS)
def test_nan_and_values_of_other_types_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be .*, received {name}="):
        RMSprop(**{name: value})


# Options that both 0 and False switch off.
SWITCHED_OFF = (
    "momentum",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "ema_overwrite_frequency",
    "gradient_accumulation_steps",
)


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_false_switches_off_what_zero_does(name: str) -> None:
    optimizer = RMSprop(**{name: False})
    assert type(getattr(optimizer, name)) is not bool
    assert getattr(optimizer, name) == 0


def test_a_whole_float_is_accepted_as_an_integer() -> None:
    options = {"ema_overwrite_frequency": 2.0, "gradient_accumulation_steps": np.array(3)}
    optimizer = RMSprop(use_ema=True, **options)
    assert [type(getattr(optimizer, name)) for name in options] == [int, int]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in ("learning_rate", *NUMBERS_OUTSIDE)
        for value in (True, False, np.True_)
        if value is not False or name not in SWITCHED_OFF
    ],
)
def test_a_bool_is_not_accepted_as_a_number(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be .*, received {name}="):
        RMSprop(**{name: value})


@pytest.mark.parametrize("name", ["centered", "use_ema"])
def test_keras_flags_accept_zero_one_and_none(name: str) -> None:
    assert [getattr(RMSprop(**{name: value}), name) for value in (0, 1, None)] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("value", [0, 1, 1.0, None], ids=repr)
@pytest.mark.parametrize("name", sorted({*FLAGS} - {"centered", "use_ema"}))
def test_a_number_is_not_accepted_as_a_flag(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be True or False, received {name}="):
        RMSprop(**{name: value})


@pytest.mark.parametrize("value", [0, 1, "yes", None], ids=repr)
def test_jit_compile_accepts_only_auto_and_bools(value: Any) -> None:
    with pytest.raises(ValueError, match="`jit_compile` must be 'auto', True or False, received"):
        RMSprop(jit_compile=value)


@pytest.mark.parametrize("name", ["rho", "momentum", "epsilon", "l2", "ema_momentum"])
def test_none_is_refused_if_it_has_no_meaning(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be a .*received {name}=None"):
        RMSprop(**{name: None})


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`epsilon` must be .*, received epsilon=1000.*\.\.\."):
        RMSprop(epsilon=10**400)


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.float32(0.5), np.float16(0.5), Fraction(1, 2)], ids=repr
)
@pytest.mark.parametrize("name", [name for name in NUMBERS_OUTSIDE if name not in INTEGERS])
def test_any_real_number_is_kept_as_a_python_float(name: str, value: Any) -> None:
    held = getattr(RMSprop(**{name: value}), name)
    assert held == 0.5
    assert type(held) is float


@pytest.mark.parametrize("name", ["epsilon", "l2", "weight_decay", "clipnorm", "ema_momentum"])
def test_an_integer_is_kept_as_a_python_float(name: str) -> None:
    held = getattr(RMSprop(**{name: 1}), name)
    assert held == 1.0
    assert type(held) is float


@pytest.mark.parametrize("name", INTEGERS)
def test_a_numpy_integer_is_kept_as_a_python_int(name: str) -> None:
    held = getattr(RMSprop(**{name: np.int64(3)}), name)
    assert held == 3
    assert type(held) is int


@pytest.mark.parametrize("name", ["centered", "maximize", "jit_compile"])
def test_a_numpy_bool_is_kept_as_a_python_bool(name: str) -> None:
    assert getattr(RMSprop(**{name: np.True_}), name) is True


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rho", "torch calls it `alpha`, TF1 and optax `decay`"),
        ("epsilon", "torch and optax call it `eps`"),
        ("initial_square_average", "optax calls it `initial_scale`"),
        ("l2", "torch and timm call it `weight_decay`"),
        ("weight_decay", "torch's `weight_decay` is `l2` here"),
        ("epsilon_inside_sqrt", "optax calls it `eps_in_sqrt`"),
        ("learning_rate", "torch and timm call it `lr`"),
    ],
)
def test_the_error_gives_the_name_in_other_frameworks(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RMSprop(**{name: NAN})


def test_a_name_that_is_not_a_string_is_refused() -> None:
    with pytest.raises(ValueError, match="`name` must be a string"):
        RMSprop(name=3)  # type: ignore[arg-type]


def test_a_large_value_is_abbreviated_in_the_error() -> None:
    with pytest.raises(ValueError, match="`rho` must be") as caught:
        RMSprop(rho=np.zeros((40, 40)))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


# Together.


def test_nesterov_without_momentum_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="needs `momentum` > 0: it looks ahead along the momentum"):
        RMSprop(nesterov=True)


def test_bias_correction_of_a_start_that_is_not_zero_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"averages that start from zero.*=1\.0.* one of the two"):
        RMSprop(bias_correction=True, initial_square_average=1.0)


@pytest.mark.parametrize(
    "two",
    [
        ("clipnorm", "clipvalue"),
        ("clipnorm", "global_clipnorm"),
        ("clipvalue", "global_clipnorm"),
    ],
)
def test_two_clippings_are_refused_and_both_named(two: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"Only one of .* received \w+=1\.0, \w+=1\.0"):
        RMSprop(**dict.fromkeys(two, 1.0))


def test_a_corrected_variance_that_starts_at_zero_warns_with_the_remedy() -> None:
    with pytest.warns(UserWarning, match="first variance exactly zero.*Leave one of them") as seen:
        RMSprop(centered=True, bias_correction=True)
    assert seen[0].filename == __file__


# Unknown arguments.


@pytest.mark.parametrize(
    ("unknown", "answer"),
    [
        ("lr", "`learning_rate`"),
        ("alpha", "`rho`"),
        ("eps", "`epsilon`"),
        ("initial_scale", "`initial_square_average`"),
        ("eps_in_sqrt", "`epsilon_inside_sqrt`"),
        ("eps_inside_sqrt", "`epsilon_inside_sqrt`"),
        ("decoupled_decay", "`weight_decay` here, and without it `l2`"),
        ("max_norm", "`global_clipnorm`"),
        ("params", "`build` or the first `apply`"),
    ],
)
def test_the_error_translates_argument_names_of_other_frameworks(unknown: str, answer: str) -> None:
    with pytest.raises(ValueError, match=f"no argument `{unknown}`, received {unknown}=.*{answer}"):
        RMSprop(**{unknown: 0.5})


def test_every_argument_name_of_other_frameworks_has_a_test() -> None:
    (mark,) = test_the_error_translates_argument_names_of_other_frameworks.pytestmark  # type: ignore[attr-defined]
    assert {unknown for unknown, _ in mark.args[1]} == set(_validation.FOREIGN_ARGUMENTS) - {
        "decay"
    }


def test_decay_is_ignored_with_a_warning_that_translates_it() -> None:
    words = "will be ignored, as in Keras. TF1's and optax's `decay` is `rho` here; .*InverseTime"
    with pytest.warns(UserWarning, match=words):
        optimizer = RMSprop(decay=0.5)
    assert optimizer.rho == 0.9


def test_no_argument_name_of_other_frameworks_is_an_argument_here() -> None:
    assert not set(_validation.FOREIGN_ARGUMENTS) & set(inspect.signature(RMSprop).parameters)


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [("epsilom", "epsilon"), ("learning_rates", "learning_rate"), ("Centered", "centered")],
)
def test_the_error_for_a_misspelt_argument_suggests_the_nearest_one(
    unknown: str, nearest: str
) -> None:
    with pytest.raises(ValueError, match=f"`{unknown}`.* Did you mean `{nearest}`"):
        RMSprop(**{unknown: 0.5})


def test_the_error_for_an_unknown_argument_lists_all_arguments() -> None:
    with pytest.raises(ValueError, match=r"Accepted are `learning_rate`, `rho`, .*, `maximize`"):
        RMSprop(qqq=0.5)  # type: ignore[call-arg]


@since_keras("3.15", "generates its optimizer's name by default")
def test_the_signature_is_explicit_and_starts_with_that_of_keras() -> None:
    ours = inspect.signature(RMSprop).parameters
    theirs = inspect.signature(keras.optimizers.RMSprop).parameters
    first = list(theirs)[:-1]  # without **kwargs
    assert list(ours)[: len(first)] == first
    assert [ours[name].default for name in first] == [theirs[name].default for name in first]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(ours[name].kind is positional for name in first)
    assert all(
        parameter.kind is inspect.Parameter.KEYWORD_ONLY
        for name, parameter in ours.items()
        if name not in first
    )


# Assignment.


@pytest.mark.parametrize("make", [RMSprop, built], ids=["unbuilt", "built"])
@pytest.mark.parametrize("name", _validation.HYPERPARAMETERS)
def test_a_refused_assignment_leaves_the_old_value(name: str, make: Callable[[], RMSprop]) -> None:
    optimizer = make()
    before = getattr(optimizer, name)
    with pytest.raises(ValueError, match=f"`{name}` must be .*, received {name}=nan"):
        setattr(optimizer, name, NAN)
    assert getattr(optimizer, name) is before


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_an_assigned_number_goes_through_the_same_check(name: str, value: Any) -> None:
    optimizer = RMSprop()
    with pytest.raises(ValueError, match=f"`{name}` must be .*, received {name}="):
        setattr(optimizer, name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rho", 0.5),
        ("epsilon", np.float64(1e-3)),
        ("l2", 1),
        ("weight_decay", 0.1),
        ("clipnorm", 2),
        ("ema_momentum", 0.5),
        ("loss_scale_factor", 8),
        ("epsilon_inside_sqrt", np.False_),
        ("bias_correction", True),
        ("maximize", True),
        ("jit_compile", False),
    ],
)
def test_settings_that_need_no_slot_can_change_after_build(name: str, value: Any) -> None:
    optimizer = built()
    setattr(optimizer, name, value)
    assert getattr(optimizer, name) == value
    assert type(getattr(optimizer, name)) in (bool, float)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("centered", True, "about the mean only when `centered`"),
        ("use_ema", True, "a slot of its own"),
        ("gradient_accumulation_steps", 4, "the accumulator is a slot of its own"),
        ("initial_square_average", 1.0, "has already started"),
        ("lr_in_momentum", False, "steps in one case and directions in the other"),
        ("momentum", 0.9, "created by `build`, and only for momentum > 0"),
    ],
)
def test_settings_that_decide_the_slots_cannot_change_after_build(
    name: str, value: Any, reason: str
) -> None:
    optimizer = built()
    before = getattr(optimizer, name)
    with pytest.raises(
        ValueError, match=f"`{name}` cannot change once .*{reason}.*Make a new optimizer"
    ):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == before


@pytest.mark.parametrize("name", [*_validation.STRUCTURAL, "momentum"])
def test_assigning_the_current_value_is_accepted(name: str) -> None:
    optimizer = built()
    setattr(optimizer, name, getattr(optimizer, name))


@pytest.mark.parametrize("name", [*_validation.STRUCTURAL, "momentum"])
def test_settings_that_decide_the_slots_can_change_before_build(name: str) -> None:
    optimizer = RMSprop()
    old = getattr(optimizer, name)
    new = (not old) if isinstance(old, bool) else 2 if old is None else 0.5
    new = "bfloat16" if name == "state_dtype" else new
    setattr(optimizer, name, new)
    assert getattr(optimizer, name) == new


def test_momentum_can_be_switched_off_and_on_again_if_there_is_a_buffer() -> None:
    optimizer = built(momentum=0.9)
    optimizer.momentum = 0.0
    optimizer.momentum = 0.5
    assert optimizer.momentum == 0.5


@pytest.mark.parametrize(
    ("settings", "name", "value", "message"),
    [
        ({"momentum": 0.9, "nesterov": True}, "momentum", 0.0, "`nesterov=True` needs"),
        ({}, "nesterov", True, "`nesterov=True` needs"),
        ({"initial_square_average": 1.0}, "bias_correction", True, "start from zero"),
        ({"bias_correction": True}, "initial_square_average", 1.0, "start from zero"),
        ({"clipnorm": 1.0}, "clipvalue", 1.0, "Only one of"),
    ],
)
def test_an_assignment_that_contradicts_another_setting_is_refused(
    settings: dict[str, Any], name: str, value: Any, message: str
) -> None:
    optimizer = RMSprop(**settings)
    before = getattr(optimizer, name)
    with pytest.raises(ValueError, match=message):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == before


def test_one_clipping_can_replace_another_when_the_old_one_is_removed_first() -> None:
    optimizer = RMSprop(clipnorm=1.0)
    optimizer.clipnorm = None
    optimizer.global_clipnorm = 2.0
    assert (optimizer.clipnorm, optimizer.global_clipnorm) == (None, 2.0)


# What the peers accept. When one of them starts to check, its test here fails.


UNCHECKED = [{"rho": 1.5}, {"epsilon": -1.0}, {"learning_rate": NAN}]


@pytest.mark.parametrize("arguments", UNCHECKED, ids=str)
def test_keras_accepts_what_is_refused_here(arguments: dict[str, float]) -> None:
    assert keras.optimizers.RMSprop(**arguments).built is False
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        RMSprop(**arguments)


@pytest.mark.parametrize("arguments", UNCHECKED, ids=str)
def test_optax_accepts_what_is_refused_here(arguments: dict[str, float]) -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    words = {"rho": "decay", "epsilon": "eps", "learning_rate": "learning_rate"}
    translated = {words[name]: value for name, value in arguments.items()}
    optimizer = optax.rmsprop(**{"learning_rate": 0.1, **translated})
    optimizer.init(np.zeros(2, np.float32))
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        RMSprop(**arguments)
