"""Find the framework whose RMSprop makes the steps of a configuration, and what it lacks.

`CONVENTIONS` says of each function of `keras_rmsprop.conventions` which settings its arguments are
for and which it fixes; the tests hold it to those functions. All other settings are off there.

The nearest convention is the one with the fewest differences; among equals, the one that needs the
fewest arguments besides the learning rate; among those, the first in the order of `CONVENTIONS`,
which begins with Keras.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_rmsprop._settings._describe import is_narrow
from keras_rmsprop._settings._groups import SettingsByPattern

Settings = Mapping[str, Any]

# Where the framework's function has no default.
REQUIRED = inspect.Parameter.empty

# The values with which a setting does nothing. `rho` and `epsilon` have none.
OFF: dict[str, Any] = {
    "momentum": 0.0,
    "centered": False,
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "nesterov": False,
    "epsilon_inside_sqrt": True,
    "lr_in_momentum": True,
    "bias_correction": False,
    "initial_square_average": 0.0,
    "l2": 0.0,
    "maximize": False,
    "skip_nonfinite": False,
    "transform": None,
    "state_dtype": None,
}

# Settings that choose how a step is run, not what it computes.
HOW_STEPS_RUN = frozenset({"jit_compile", "lazy"})


class Argument(NamedTuple):
    """A framework's argument for a setting."""

    name: str
    # In the words of the setting: 0.0 where optax has None for no momentum.
    default: Any
    # Other arguments that must accompany it.
    beside: Mapping[str, Any] = {}
    # Whether the framework takes a value as it is.
    takes: Callable[[Any], bool] = lambda _: True


class Convention(NamedTuple):
    """A framework's RMSprop."""

    # The framework's function, and the one of `keras_rmsprop.conventions`.
    function: str
    name: str
    # By setting.
    arguments: Mapping[str, Argument]
    # Settings that it fixes at other values than `OFF`, or at a value that depends on others.
    fixed: Mapping[str, Any] = {}
    # The names of a group's settings in its param groups; None if it has no such groups.
    groups: Mapping[str, str] | None = None
    # Schedules that it has arguments for: by registered name, its arguments by those of the
    # schedule.
    schedules: Mapping[str, Mapping[str, str]] = {}
    # What else it can do, among the words of `BEYOND`.
    beyond: frozenset[str] = frozenset()


# What a step may do that is no setting.
CONSTRAINTS, EXCLUSIONS = "constraints of variables", "variables excluded from weight decay"
BEYOND = (CONSTRAINTS, EXCLUSIONS)


def _arguments(**by_setting: tuple[str, Any] | Argument) -> dict[str, Argument]:
    return {setting: Argument(*given) for setting, given in by_setting.items()}


def _is_no_callable(learning_rate: Any) -> bool:
    """Whether optax, which passes the count of steps, can use a learning rate."""
    is_schedule = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
    return is_schedule or not callable(learning_rate)


CONVENTIONS: dict[str, Convention] = {
    convention.name: convention
    for convention in (
        Convention(
            "keras.optimizers.RMSprop",
            "keras",
            _arguments(
                learning_rate=("learning_rate", 0.001),
                rho=("rho", 0.9),
                momentum=("momentum", 0.0),
                epsilon=("epsilon", 1e-7),
                centered=("centered", False),
                weight_decay=("weight_decay", None),
                clipnorm=("clipnorm", None),
                clipvalue=("clipvalue", None),
                global_clipnorm=("global_clipnorm", None),
                use_ema=("use_ema", False),
                ema_momentum=("ema_momentum", 0.99),
                ema_overwrite_frequency=("ema_overwrite_frequency", None),
                loss_scale_factor=("loss_scale_factor", None),
                gradient_accumulation_steps=("gradient_accumulation_steps", None),
            ),
            beyond=frozenset(BEYOND),
        ),
        Convention(
            "torch.optim.RMSprop",
            "torch",
            _arguments(
                learning_rate=("lr", 0.01),
                rho=("alpha", 0.99),
                epsilon=("eps", 1e-8),
                l2=("weight_decay", 0.0),
                momentum=("momentum", 0.0),
                centered=("centered", False),
                maximize=("maximize", False),
            ),
            fixed={"epsilon_inside_sqrt": False, "lr_in_momentum": False},
            groups={
                "learning_rate": "lr",
                "rho": "alpha",
                "epsilon": "eps",
                "l2": "weight_decay",
                "momentum": "momentum",
                "maximize": "maximize",
            },
        ),
        Convention(
            "optax.rmsprop",
            "optax",
            _arguments(
                learning_rate=Argument("learning_rate", REQUIRED, takes=_is_no_callable),
                rho=("decay", 0.9),
                epsilon=("eps", 1e-8),
                initial_square_average=("initial_scale", 0.0),
                epsilon_inside_sqrt=("eps_in_sqrt", True),
                centered=("centered", False),
                momentum=("momentum", 0.0),
                nesterov=("nesterov", False),
                bias_correction=("bias_correction", False),
            ),
        ),
        Convention(
            "tf.compat.v1.train.RMSPropOptimizer",
            "tf1",
            _arguments(
                learning_rate=("learning_rate", REQUIRED),
                rho=("decay", 0.9),
                momentum=("momentum", 0.0),
                epsilon=("epsilon", 1e-10),
                centered=("centered", False),
            ),
            fixed={"initial_square_average": 1.0},
        ),
        Convention(
            "tf_keras.optimizers.legacy.RMSprop",
            "tf_keras_legacy",
            _arguments(
                learning_rate=("learning_rate", 0.001),
                rho=("rho", 0.9),
                momentum=("momentum", 0.0),
                # It replaces 0 by its default.
                epsilon=Argument("epsilon", 1e-7, takes=bool),
                centered=("centered", False),
                clipnorm=("clipnorm", None),
                clipvalue=("clipvalue", None),
                global_clipnorm=("global_clipnorm", None),
            ),
            fixed={"epsilon_inside_sqrt": lambda settings: bool(settings["momentum"])},
            schedules={
                "keras_rmsprop>TimeDecay": {"learning_rate": "learning_rate", "decay": "decay"}
            },
            beyond=frozenset({CONSTRAINTS}),
        ),
        Convention(
            "timm.optim.RMSpropTF",
            "timm",
            _arguments(
                learning_rate=("lr", 0.01),
                rho=("alpha", 0.9),
                epsilon=("eps", 1e-10),
                l2=("weight_decay", 0.0),
                weight_decay=Argument("weight_decay", None, beside={"decoupled_decay": True}),
                momentum=("momentum", 0.0),
                centered=("centered", False),
                lr_in_momentum=("lr_in_momentum", True),
            ),
            fixed={"initial_square_average": 1.0},
        ),
        Convention(
            "conventions.hinton",
            "hinton",
            _arguments(learning_rate=("learning_rate", REQUIRED), rho=("rho", 0.9)),
            fixed={"epsilon": 0.0},
        ),
        Convention(
            "conventions.graves",
            "graves",
            _arguments(
                learning_rate=("learning_rate", 1e-4),
                rho=("rho", 0.95),
                momentum=("momentum", 0.9),
                epsilon=("epsilon", 1e-4),
            ),
            fixed={"centered": True},
        ),
    )
}


class Word(str):
    """A word that stands in a call for a value that cannot be written there."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Match(NamedTuple):
    """A convention with the arguments that come nearest to a configuration."""

    convention: Convention
    arguments: Mapping[str, Any]
    # In words; none if the steps are the same.
    differences: tuple[str, ...]
    # How many of the arguments are not the framework's defaults, the learning rate apart.
    chosen: int
    # The names of other conventions that make the same steps.
    also: tuple[str, ...] = ()

    def call(self) -> str:
        """Return the call of the framework's function.

        A schedule and a callable learning rate appear as the words `schedule` and `rate`.
        """
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.convention.function}({given})"

    def in_words(self, call: str) -> str:
        """Say which convention it is, and how the configuration differs from it.

        Args:
            call: how to write the call.
        """
        if self.differences:
            return f"nearest is {call}, except for {_listed(self.differences)}."
        return f"exactly {call}{', also ' if self.also else ''}{_listed(self.also)}."


def nearest(
    settings: Settings,
    learning_rate: Any,
    groups: SettingsByPattern | None = None,
    beyond: Collection[str] = (),
) -> Match:
    """Return the nearest convention.

    Args:
        settings: the hyperparameters by name.
        learning_rate: as for `_describe.equations`.
        groups: for each pattern, the settings of its variables.
        beyond: what else a step does; the words of `BEYOND`, or others that no framework knows.
    """
    number = number_of(learning_rate)
    rate = learning_rate if number is None else number
    matches = [match_with(each, settings, rate, groups, beyond) for each in CONVENTIONS.values()]
    first, *others = sorted(matches, key=lambda m: (len(m.differences), m.chosen))
    if first.differences:
        return first
    same = {other.convention.name for other in others if not other.differences}
    return first._replace(also=tuple(name for name in CONVENTIONS if name in same))


def match_with(
    convention: Convention,
    settings: Settings,
    learning_rate: Any,
    groups: SettingsByPattern | None = None,
    beyond: Collection[str] = (),
) -> Match:
    """Return the arguments with which a convention comes nearest; see `nearest`."""
    groups = groups or {}
    effective = _effective(settings, groups)
    of_rate = _rate_arguments(convention, learning_rate)
    arguments = dict(of_rate)
    differing: list[tuple[str, Any]] = []
    if not convention.arguments["learning_rate"].takes(learning_rate):
        differing.append(("learning_rate", learning_rate))
    for setting, argument in convention.arguments.items():
        if setting not in effective:
            continue
        value = effective.pop(setting)
        if value == argument.default:
            continue
        if argument.takes(value) and argument.name not in arguments:
            arguments |= {argument.name: value, **argument.beside}
        else:
            differing.append((setting, value))
    for setting, value in effective.items():
        fixed = convention.fixed.get(setting, OFF.get(setting))
        if value != (fixed(settings) if callable(fixed) else fixed):
            differing.append((setting, value))
    chosen = len(arguments) - len(of_rate)
    differences = [_in_words(*each) for each in differing]
    if groups:
        param_groups = _param_groups(convention, settings, learning_rate, groups)
        if param_groups is not None:
            arguments["params"] = param_groups
        elif any(_own(settings, groups).values()):
            differences.append("groups")
    differences += [words for words in beyond if words not in convention.beyond]
    return Match(convention, arguments, tuple(differences), chosen)


def _effective(settings: Settings, groups: SettingsByPattern) -> dict[str, Any]:
    """Return the settings that have an effect on the steps."""
    every = [settings, *({**settings, **own} for own in groups.values())]
    without_effect = set(HOW_STEPS_RUN)
    if not any(each["momentum"] for each in every):
        without_effect |= {"lr_in_momentum", "nesterov"}
    if not any(each["epsilon"] for each in every):
        without_effect |= {"epsilon_inside_sqrt"}
    if not settings["use_ema"]:
        without_effect |= {"ema_momentum", "ema_overwrite_frequency"}
    return {
        setting: _canonical(setting, value)
        for setting, value in settings.items()
        if setting not in without_effect
    }


def _canonical(setting: str, value: Any) -> Any:
    """Return a value; if 0, False and None all mean "off", the one that `OFF` has."""
    return OFF[setting] if setting in OFF and not (value or OFF[setting]) else value


def _own(settings: Settings, groups: SettingsByPattern) -> dict[str, dict[str, Any]]:
    """Return the settings by which the steps of each group differ from the others."""
    base = {"learning_rate": 1.0, **settings}
    return {
        pattern: {
            setting: value
            for setting, value in own.items()
            if setting not in HOW_STEPS_RUN
            and _canonical(setting, value) != _canonical(setting, base[setting])
        }
        for pattern, own in groups.items()
    }


def _param_groups(
    convention: Convention, settings: Settings, learning_rate: Any, groups: SettingsByPattern
) -> list[dict[str, Any]] | None:
    """Return the groups as a framework's param groups, or None if it cannot have them."""
    names, rate = convention.groups, number_of(learning_rate)
    if names is None:
        return None
    found = []
    for pattern, differing in _own(settings, groups).items():
        # The rate of a param group is a number, not a factor.
        if not differing.keys() <= names.keys() or ("learning_rate" in differing and not rate):
            return None
        own = {
            names[setting]: value * rate if setting == "learning_rate" and rate else value
            for setting, value in groups[pattern].items()
            if setting in names and (rate or setting != "learning_rate")
        }
        found.append({"params": pattern, **own})
    return found


def _rate_arguments(convention: Convention, learning_rate: Any) -> dict[str, Any]:
    name = convention.arguments["learning_rate"].name
    if not isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        number = number_of(learning_rate)
        return {name: Word("rate") if number is None else number}
    known = convention.schedules.get(keras.saving.get_registered_name(type(learning_rate)))
    if known is None:
        return {name: Word("schedule")}
    config = learning_rate.get_config()
    return {theirs: config[ours] for ours, theirs in known.items()}


def number_of(learning_rate: Any) -> float | None:
    """Return a learning rate with the digits it was given with; None for one that changes."""
    if callable(learning_rate):
        return None
    number = float(learning_rate)
    return float(str(np.float32(number))) if is_narrow(learning_rate) else number


def _in_words(setting: str, value: Any) -> str:
    match setting:
        case "epsilon_inside_sqrt":
            return f"epsilon {'under' if value else 'outside'} the root"
        case "lr_in_momentum":
            return f"the learning rate {'inside' if value else 'outside'} the momentum buffer"
        case "initial_square_average":
            return f"a square average that starts from {value:g}"
    if callable(value):
        # Markdown would take "<lambda>" for HTML.
        value = getattr(value, "__name__", type(value).__name__).strip("<>")
    return f"{setting}={value}"


def _listed(words: Collection[str]) -> str:
    *others, last = words or [""]
    return f"{', '.join(others)} and {last}" if others else last
