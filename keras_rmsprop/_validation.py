"""What values do the hyperparameters take, and which do not go together?

Every check runs before the optimizer has any state, and again when an attribute is assigned.
A message says what was received, what is accepted, and what other frameworks call the thing.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras


class Range(NamedTuple):
    """The numbers that a hyperparameter takes."""

    accepted: str
    holds: Callable[[float], bool]
    elsewhere: str = ""
    optional: bool = False
    integer: bool = False


def _fraction(x: float) -> bool:
    return 0.0 <= x < 1.0


def _non_negative(x: float) -> bool:
    return 0.0 <= x < math.inf


def _positive(x: float) -> bool:
    return 0.0 < x < math.inf


RANGES: dict[str, Range] = {
    "rho": Range("in [0, 1)", _fraction, "torch calls it `alpha`, TF1 and optax `decay`."),
    "momentum": Range("in [0, 1)", _fraction, "It is `momentum` in every framework."),
    "epsilon": Range("finite and >= 0", _non_negative, "torch and optax call it `eps`."),
    "initial_square_average": Range(
        "finite and >= 0", _non_negative, "optax calls it `initial_scale`; TF1 starts from 1."
    ),
    "l2": Range(
        "finite and >= 0",
        _non_negative,
        "torch calls it `weight_decay`; Keras's `weight_decay` is the decoupled kind.",
    ),
    "weight_decay": Range(
        "None or a finite number >= 0",
        _non_negative,
        "It is the decoupled kind; torch's `weight_decay` is `l2` here.",
        optional=True,
    ),
    "clipnorm": Range("None or a finite number > 0", _positive, optional=True),
    "clipvalue": Range("None or a finite number > 0", _positive, optional=True),
    "global_clipnorm": Range(
        "None or a finite number > 0",
        _positive,
        "torch clips with `clip_grad_norm_(max_norm=)`, optax with `clip_by_global_norm`.",
        optional=True,
    ),
    "ema_momentum": Range("in [0, 1]", lambda x: 0.0 <= x <= 1.0),
    "ema_overwrite_frequency": Range(
        "None or an integer >= 1", lambda x: x >= 1, optional=True, integer=True
    ),
    "loss_scale_factor": Range("None or a finite number > 0", _positive, optional=True),
    "gradient_accumulation_steps": Range(
        "None or an integer >= 2", lambda x: x >= 2, optional=True, integer=True
    ),
}

FLAGS: dict[str, str] = {
    "centered": "",
    "nesterov": "",
    "epsilon_inside_sqrt": "optax calls it `eps_in_sqrt`.",
    "lr_in_momentum": "",
    "bias_correction": "",
    "maximize": "",
    "use_ema": "",
}

HYPERPARAMETERS = frozenset({*RANGES, *FLAGS})

# Attributes that decide which slots exist or what a slot means, with what they would need.
STRUCTURAL: dict[str, str] = {
    "centered": "the square average is kept about the mean only when `centered`",
    "use_ema": "the average of the weights is a slot of its own",
    "gradient_accumulation_steps": "the accumulator is a slot of its own, and the count of "
    "steps is kept in units of it",
    "initial_square_average": "the square average has already started",
    "lr_in_momentum": "the momentum buffer holds steps in one case and directions in the other",
}


def checked(name: str, value: Any) -> Any:
    """Return hyperparameter `name` as a plain bool, int, float or None.

    Raises: ValueError naming what was received and what is accepted.
    """
    if name in FLAGS:
        return _checked_flag(name, value)
    spec = RANGES[name]
    if value is None and spec.optional:
        return None
    kind = numbers.Integral if spec.integer else numbers.Real
    # bool is a subclass of int, but `momentum=True` is a mistake.
    if isinstance(value, bool) or not isinstance(value, kind) or not spec.holds(float(value)):
        raise ValueError(_message(name, spec.accepted, value, spec.elsewhere))
    return int(value) if spec.integer else float(value)


def _checked_flag(name: str, value: Any) -> bool:
    # numpy.bool_ is what a comparison of arrays gives; 0 and 1 are taken for numbers.
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise ValueError(_message(name, "True or False", value, FLAGS[name]))
    return bool(value)


def checked_learning_rate(value: Any) -> Any:
    """Return a learning rate as a float, or unchanged if it is a schedule or callable.

    Raises: ValueError if it is neither, or negative, infinite or NaN.
    """
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    if callable(value) and not isinstance(value, keras.Variable):
        return value
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if _non_negative(number):
            return number
    raise ValueError(
        _message(
            "learning_rate",
            "a finite number >= 0, a LearningRateSchedule, or a callable without arguments",
            value,
            "torch and timm call it `lr`. An optax schedule goes through "
            "`keras_rmsprop.conventions.optax`.",
        )
    )


def check_together(settings: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that contradict each other.

    Raises: ValueError with the reason and what to do.
    """
    if settings["nesterov"] and settings["momentum"] == 0.0:
        raise ValueError(
            "`nesterov=True` needs `momentum` > 0: it looks ahead along the momentum buffer, "
            "received momentum=0.0. Set `momentum`, or leave `nesterov` out."
        )
    if settings["bias_correction"] and settings["initial_square_average"] > 0.0:
        raise ValueError(
            "`bias_correction=True` corrects for averages that start from zero, but received "
            f"initial_square_average={settings['initial_square_average']!r}. Use one of the two: "
            "both exist to tame the first steps."
        )
    clips = {name: settings[name] for name in ("clipnorm", "clipvalue", "global_clipnorm")}
    given = {name: value for name, value in clips.items() if value is not None}
    if len(given) > 1:
        raise ValueError(
            "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set, received "
            + ", ".join(f"{name}={value!r}" for name, value in given.items())
            + "."
        )


def check_change(name: str, old: Any, new: Any) -> None:
    """Refuse an assignment that the slots of a built optimizer cannot follow.

    Raises: ValueError with the reason and what to do.
    """
    if old == new:
        return
    reason = STRUCTURAL.get(name)
    if name == "momentum" and old == 0.0:
        reason = "the momentum buffer is created by `build`, and only for momentum > 0"
    if reason is not None:
        raise ValueError(
            f"`{name}` cannot change once the optimizer is built: {reason}. Received "
            f"{name}={new!r} where it was {old!r}. Make a new optimizer with this setting."
        )


def _message(name: str, accepted: str, value: Any, elsewhere: str) -> str:
    received = f"`{name}` must be {accepted}, received {name}={value!r}."
    return f"{received} {elsewhere}".rstrip()
