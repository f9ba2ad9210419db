"""Validate hyperparameters, alone and in combination.

Checks run before the optimizer has any state, and again when an attribute is assigned. A message
says what was received, what is accepted, and what other frameworks call the hyperparameter.
"""

import difflib
import functools
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, ParamSpec

import keras
import numpy as np
from keras import backend, ops

Arguments = ParamSpec("Arguments")

# The package name under which this package registers its objects.
PACKAGE = "keras_rmsprop"


class Hyperparameter(NamedTuple):
    """The values that a hyperparameter accepts."""

    accepted: str
    # Converts a value to a plain bool, int, float, str or None, or raises _RefusedError.
    parse: Callable[[Any], Any]
    note: str = ""


class _RefusedError(Exception):
    """A value is not accepted."""


def _unboxed(value: Any) -> Any:
    """Convert a 0-d array, tensor or variable to a Python number; return others unchanged."""
    if isinstance(value, np.ndarray | keras.Variable) or ops.is_tensor(value):
        if tuple(value.shape) != ():
            raise _RefusedError
        try:
            return ops.convert_to_numpy(value).item()
        except Exception:
            # It has no value inside a trace; each backend raises its own error.
            raise _RefusedError from None
    return value


def _number(holds: Callable[[float], bool]) -> Callable[[Any], float]:
    """Accept real numbers for which `holds` is true; it must be false for NaN."""

    def parse(value: Any) -> float:
        value = _unboxed(value)
        # bool is a subclass of int, but `momentum=True` is a mistake.
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise _RefusedError
        try:
            number = float(value)
        except OverflowError:
            raise _RefusedError from None
        if not holds(number):
            raise _RefusedError
        return number

    return parse


def _integer(least: int) -> Callable[[Any], int]:
    """Accept integers >= `least`."""

    def parse(value: Any) -> int:
        value = _unboxed(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise _RefusedError
        return int(value)

    return parse


def _none_or_several(value: Any) -> int:
    """Accept 0 and integers >= 2."""
    number = _integer(0)(value)
    if number == 1:
        raise _RefusedError
    return number


def _or_off(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Accept False as well, as 0, which switches an option off in Keras."""
    return lambda value: parse(0 if value is False else value)


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Accept None as well."""
    return lambda value: None if value is None else parse(value)


def _flag(value: Any) -> bool:
    # Comparing arrays gives numpy.bool. 0 and 1 are numbers, not flags.
    if not isinstance(value, bool | np.bool_):
        raise _RefusedError
    return bool(value)


def _flag_of_keras(value: Any) -> bool:
    """Accept 0, 1 and None for a flag as well, as Keras does: config files contain them."""
    if value is None or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    return _flag(value)


def _auto_or_flag(value: Any) -> str | bool:
    return "auto" if isinstance(value, str) and value == "auto" else _flag(value)


def _bfloat16_or_none(value: Any) -> str | None:
    """Accept "bfloat16", None, and dtypes of that name."""
    if value is None:
        return None
    try:
        name = backend.standardize_dtype(value)
    except (ValueError, TypeError):
        raise _RefusedError from None
    if name != "bfloat16":
        raise _RefusedError
    return str(name)


def _transform(value: Any) -> Any:
    """Accept a registered function or its name."""
    if value is None:
        return None
    if isinstance(value, str):
        own = f"{PACKAGE}>{value}"
        found = keras.saving.get_registered_object(value) or keras.saving.get_registered_object(own)
    else:
        found = value if name_of_transform(value) is not None else None
    # Classes can be registered too, but are not functions of a gradient.
    if not callable(found) or inspect.isclass(found):
        raise _RefusedError
    return found


def name_of_transform(function: Any) -> str | None:
    """Return the name under which a function is registered, or None."""
    if not callable(function):
        return None
    try:
        name = keras.saving.get_registered_name(function)
        return name if keras.saving.get_registered_object(name) is function else None
    except (TypeError, AttributeError):
        # An object that has no name or cannot be looked up is not registered.
        return None


# A factor has to fit the variable that holds it, of float32 at least.
factor = _number(lambda x: 0.0 <= x <= float(np.finfo(np.float32).max))
_fraction = _number(lambda x: 0.0 <= x < 1.0)
_non_negative = _number(lambda x: 0.0 <= x < math.inf)
_positive_or_none = _optional(_number(lambda x: 0.0 < x < math.inf))
_non_negative_or_none = _optional(_or_off(_non_negative))

_POSITIVE_OR_NONE = "None or a finite number > 0"
# In Keras 0 means "off", as None does.
_LIMIT_OR_NONE = "None, a finite number > 0, or 0 for none"

HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "rho": Hyperparameter(
        "a number in [0, 1)", _fraction, "torch calls it `alpha`, TF1 and optax `decay`."
    ),
    "momentum": Hyperparameter(
        "a number in [0, 1)",
        _or_off(_fraction),
        "It is `momentum` in every framework; where optax takes None, 0.0 stands for none here.",
    ),
    "epsilon": Hyperparameter(
        "a finite number >= 0", _non_negative, "torch and optax call it `eps`."
    ),
    "initial_square_average": Hyperparameter(
        "a finite number >= 0",
        _non_negative,
        "optax calls it `initial_scale`; TF1 and timm always start from 1.",
    ),
    "l2": Hyperparameter(
        "a finite number >= 0",
        _non_negative,
        "torch and timm call it `weight_decay`; Keras's `weight_decay` is the decoupled kind.",
    ),
    "weight_decay": Hyperparameter(
        "None or a finite number >= 0",
        _non_negative_or_none,
        "It is the decoupled kind; torch's `weight_decay` is `l2` here.",
    ),
    "clipnorm": Hyperparameter(_LIMIT_OR_NONE, _non_negative_or_none),
    "clipvalue": Hyperparameter(
        _LIMIT_OR_NONE, _non_negative_or_none, "torch clips with `clip_grad_value_(clip_value=)`."
    ),
    "global_clipnorm": Hyperparameter(
        _LIMIT_OR_NONE,
        _non_negative_or_none,
        "torch clips with `clip_grad_norm_(max_norm=)`, optax with `clip_by_global_norm`.",
    ),
    "ema_momentum": Hyperparameter("a number in [0, 1]", _number(lambda x: 0.0 <= x <= 1.0)),
    "ema_overwrite_frequency": Hyperparameter(
        "None, an integer >= 1, or 0 for never", _optional(_or_off(_integer(0)))
    ),
    "loss_scale_factor": Hyperparameter(_POSITIVE_OR_NONE, _positive_or_none),
    "gradient_accumulation_steps": Hyperparameter(
        "None, an integer >= 2, or 0 for none",
        _optional(_or_off(_none_or_several)),
        "optax has `MultiSteps` for it.",
    ),
    "centered": Hyperparameter("True or False", _flag_of_keras),
    "nesterov": Hyperparameter("True or False", _flag),
    "epsilon_inside_sqrt": Hyperparameter("True or False", _flag, "optax calls it `eps_in_sqrt`."),
    "lr_in_momentum": Hyperparameter("True or False", _flag),
    "bias_correction": Hyperparameter("True or False", _flag),
    "maximize": Hyperparameter("True or False", _flag),
    "lazy": Hyperparameter("True or False", _flag, "TF1's sparse update leaves averages stale."),
    "use_ema": Hyperparameter("True or False", _flag_of_keras),
    "skip_nonfinite": Hyperparameter("True or False", _flag),
    "state_dtype": Hyperparameter(
        "None or 'bfloat16'",
        _bfloat16_or_none,
        "None keeps the state in each weight's dtype, but at least float32.",
    ),
    "jit_compile": Hyperparameter("'auto', True or False", _auto_or_flag),
    "transform": Hyperparameter(
        "None, a function of (gradient, weight) that is registered, or the name that it is "
        "registered by",
        _transform,
        "Register yours by `@keras.saving.register_keras_serializable(package=...)`, so that a "
        "saved model knows it; `keras_rmsprop.transforms` has some.",
    ),
}

# Attributes that determine which slots exist or what a slot means, with the reason.
STRUCTURAL: dict[str, str] = {
    "centered": "the square average is kept about the mean only when `centered`",
    "use_ema": "the average of the weights is a slot of its own",
    "gradient_accumulation_steps": "the accumulator is a slot of its own, and the count of "
    "steps is kept in units of it",
    "skip_nonfinite": "the count of skipped steps is a variable of its own",
    "initial_square_average": "the square average has already started",
    "lazy": "the counts of rows are variables of their own",
    "lr_in_momentum": "the momentum buffer holds steps in one case and directions in the other",
    "state_dtype": "the slots are stored in it",
}

# Options that move weights without a gradient, which `lazy` rules out.
MOVES_EVERY_ROW: dict[str, str] = {
    "momentum": "the buffer goes on moving a row after its gradient is gone",
    "weight_decay": "decay shrinks every row at every step",
    "l2": "the penalty gives every row a gradient at every step",
    "use_ema": "the average of the weights moves at every step, row by row",
}

# Arguments of other frameworks, and what they are here.
FOREIGN_ARGUMENTS: dict[str, str] = {
    "lr": "It is `learning_rate` here.",
    "alpha": "torch's `alpha` is `rho` here.",
    "decay": "TF1's and optax's `decay` is `rho` here; the learning rate decay of early Keras is "
    "`learning_rate=keras.optimizers.schedules.InverseTimeDecay(...)`.",
    "eps": "It is `epsilon` here.",
    "initial_scale": "optax's `initial_scale` is `initial_square_average` here.",
    "eps_in_sqrt": "optax's `eps_in_sqrt` is `epsilon_inside_sqrt` here.",
    "eps_inside_sqrt": "Chainer's `eps_inside_sqrt` is `epsilon_inside_sqrt` here.",
    "decoupled_decay": "timm's `weight_decay` with `decoupled_decay=True` is `weight_decay` here, "
    "and without it `l2`.",
    "max_norm": "torch's `clip_grad_norm_(max_norm=)` is `global_clipnorm` here.",
    "params": "A Keras optimizer is given the variables by `build` or the first `apply`.",
}


def checked(name: str, value: Any) -> Any:
    """Return hyperparameter `name` as a plain bool, int, float, str or None.

    Raises: ValueError naming what was received and what is accepted.
    """
    return checked_as(name, HYPERPARAMETERS[name], value)


def checked_as(name: str, hyperparameter: Hyperparameter, value: Any) -> Any:
    """Validate a value of `name` and return it as this hyperparameter stores it.

    Raises: ValueError naming what was received and what is accepted.
    """
    try:
        return hyperparameter.parse(value)
    except _RefusedError:
        raise ValueError(
            _message(name, hyperparameter.accepted, value, hyperparameter.note)
        ) from None


def checked_learning_rate(value: Any) -> Any:
    """Return a learning rate as a float, or unchanged if it is a schedule or callable.

    Raises: ValueError if it is neither, or negative, infinite or NaN.
    """
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    if callable(value) and _takes_no_arguments(value):
        return value
    try:
        return _non_negative(value)
    except _RefusedError:
        raise ValueError(_learning_rate_message(value)) from None


def checked_next_learning_rate(value: Any) -> Any:
    """Return the rate that a callable returned for one step, as a float or a scalar tensor.

    Inside a trace a tensor has no value yet and is accepted unchecked.

    Raises: ValueError if it is not a number, or negative, infinite or NaN.
    """
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    if not ops.is_tensor(value):
        return checked_learning_rate(value)
    return _checked_scalar(value)


def checked_assigned_learning_rate(value: Any, current: Any) -> Any:
    """Check a value assigned to the learning rate of an existing optimizer, and return it.

    As in Keras, it may also be a scalar array, tensor or variable, which is returned unchanged.
    Inside a trace such a scalar has no value yet, and only its shape is checked.

    Args:
        value: the new learning rate.
        current: the learning rate as the optimizer holds it: a variable, schedule or callable.

    Raises:
        ValueError: if the value is not one of these, or negative, infinite or NaN.
        TypeError: if a number would replace a schedule or callable: Keras then has no variable
            to hold it.
    """
    is_tensor = ops.is_tensor(value) or isinstance(value, keras.Variable | np.ndarray)
    rate = _checked_scalar(value) if is_tensor else checked_learning_rate(value)
    if not callable(rate) and callable(current):
        kind = type(current).__name__
        raise TypeError(
            f"The learning rate of this optimizer is a {kind}, and a number cannot take its "
            f"place, received learning_rate={shown(value)}. Assign another schedule or callable, "
            "or make a new optimizer with a number."
        )
    return rate


def check_together(settings: Mapping[str, Any]) -> None:
    """Refuse contradictory hyperparameters of one variable.

    Raises: ValueError with the reason and what to do.
    """
    if settings["bias_correction"] and settings["initial_square_average"] > 0.0:
        raise ValueError(
            "`bias_correction=True` corrects for averages that start from zero, but received "
            f"initial_square_average={settings['initial_square_average']!r}. Use one of the two: "
            "both exist to tame the first steps."
        )
    if settings["lazy"]:
        if settings["state_dtype"] is not None:
            raise ValueError(
                "`lazy=True` decays rows when they are next touched, and `state_dtype` rounds "
                f"whole tables at every step, received state_dtype={settings['state_dtype']!r}. "
                "Leave one of the two out."
            )
        for name, reason in MOVES_EVERY_ROW.items():
            if settings[name]:
                raise ValueError(
                    f"`lazy=True` leaves rows without a gradient alone, but {reason}. Received "
                    f"{name}={settings[name]!r}. Leave one of the two out, or set `lazy` for "
                    "the group of the tables alone."
                )
        if settings["transform"] is not None:
            raise ValueError(
                "`transform` is given a whole gradient, and `lazy=True` makes steps of the rows "
                f"of a table, received transform={shown(settings['transform'])}. Leave one of the "
                "two out, or set `lazy` for the group of the tables alone."
            )
    clips = {name: settings[name] for name in ("clipnorm", "clipvalue", "global_clipnorm")}
    given = {name: value for name, value in clips.items() if value is not None}
    if len(given) > 1:
        raise ValueError(
            "Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set, received "
            + ", ".join(f"{name}={value!r}" for name, value in given.items())
            + "."
        )


def refuse_nesterov() -> None:
    """Raise the error for `nesterov` when no variable has momentum.

    Raises: ValueError with the reason and what to do.
    """
    raise ValueError(
        "`nesterov=True` needs `momentum` > 0: it looks ahead along the momentum buffer, "
        "received momentum=0.0. Set `momentum`, or leave `nesterov` out."
    )


def check_change(
    name: str, old: Any, new: Any, *, has_momentum_buffer: bool, counts_rows: bool
) -> None:
    """Refuse an assignment that would not match the slots of a built optimizer.

    Raises: ValueError with the reason and what to do.
    """
    # 0, False and None all mean "off".
    if old == new or (not old and not new):
        return
    reason = STRUCTURAL.get(name)
    if name == "momentum" and not has_momentum_buffer:
        reason = "the momentum buffer is created by `build`, and only for momentum > 0"
    if name == "bias_correction" and counts_rows:
        reason = "with `lazy`, the rows keep the corrections they have seen"
    if reason is not None:
        raise ValueError(
            f"`{name}` cannot change once the optimizer is built: {reason}. Received "
            f"{name}={new!r} where it was {old!r}. Make a new optimizer with this setting."
        )


def explain_unknown_arguments(
    function: Callable[Arguments, None],
) -> Callable[Arguments, None]:
    """Make a function suggest the nearest argument when it receives an unknown one.

    The function keeps its signature, for readers and type checkers.
    """
    accepted = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def explaining(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        if kwargs.pop("decay", None) is not None:
            warnings.warn(
                "Argument `decay` is no longer supported and will be ignored, as in Keras. "
                f"{FOREIGN_ARGUMENTS['decay']}",
                stacklevel=3,
            )
        for name in kwargs:
            if name not in accepted:
                raise ValueError(
                    f"There is no argument `{name}`, received {name}={shown(kwargs[name])}. "
                    f"{hint(name, accepted)}"
                )
        function(*args, **kwargs)

    return explaining


def hint(name: str, accepted: Collection[str]) -> str:
    """Return what the caller may have meant by an unknown argument."""
    if name in FOREIGN_ARGUMENTS:
        return FOREIGN_ARGUMENTS[name]
    nearest = difflib.get_close_matches(name.lower(), accepted, n=1)
    if nearest:
        return f"Did you mean `{nearest[0]}`?"
    return f"Accepted are {', '.join(f'`{word}`' for word in accepted)}."


def _takes_no_arguments(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True  # Some built-in functions have no signature.
    try:
        signature.bind()
    except TypeError:
        return False
    return True


def _checked_scalar(value: Any) -> Any:
    """Check a scalar array, tensor or variable as a learning rate, and return it."""
    shape = tuple(value.shape)
    if shape != ():
        raise ValueError(
            f"`learning_rate` must be a scalar, received an array of shape {shape}. "
            "One optimizer has one learning rate."
        )
    dtype = backend.standardize_dtype(value.dtype)
    if "float" not in dtype and "int" not in dtype:
        raise ValueError(_learning_rate_message(value))
    try:
        number = float(ops.stop_gradient(ops.convert_to_tensor(value)))
    except TypeError:
        return value  # Symbolic: it has no value while tracing.
    try:
        _non_negative(number)
    except _RefusedError:
        raise ValueError(_learning_rate_message(number)) from None
    return value


def _learning_rate_message(value: Any) -> str:
    return _message(
        "learning_rate",
        "a finite number >= 0, a LearningRateSchedule, or a callable without arguments",
        value,
        "torch and timm call it `lr`. An optax schedule, which takes the count of steps, goes "
        "through `keras_rmsprop.conventions.optax`.",
    )


def _message(name: str, accepted: str, value: Any, note: str) -> str:
    received = f"`{name}` must be {accepted}, received {name}={shown(value)}."
    return f"{received} {note}".rstrip()


def shown(value: Any) -> str:
    """Format a value for a message, shortened to one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
