"""Carry a training over from tf_keras's RMSprop, new or legacy, and back.

    optimizer = interop.like(old_model.optimizer, model.trainable_variables)
    interop.tf_keras.assign(optimizer, old_model.optimizer)          # and back

`tf_keras.optimizers.legacy.RMSprop` has two rules: without momentum epsilon is outside the root,
with momentum it is under it. `interop.like` gives the one in use. It rounds its hyperparameters to
float32, so a rho of 0.9 is read as 0.8999999761581421.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras.optimizers import schedules

from keras_rmsprop import conventions
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop import _carry, _live, _schedules, _writing
from keras_rmsprop.interop._pairs import Pair, Pairing
from keras_rmsprop.interop._source import Source

__all__ = ["Pair", "assign", "load"]


def load(
    optimizer: RMSprop, source: Any, pairs: Pairing = None, *, exact: bool = True
) -> LoadReport:
    """Load the state of a `tf_keras.optimizers.RMSprop` or `tf_keras.optimizers.legacy.RMSprop`.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        source: the tf_keras optimizer, which has made a step or was built.
        pairs: None, for variables of the same names ("dense/kernel", without the model's name);
            "order", for variables in the same order; or a mapping from tf_keras's names to Keras
            variables or their paths. Default None.
        exact: whether to refuse a load after which the steps would differ. Default True.

    Returns: the `load_report`.
    Raises: ValueError if something does not fit, or `exact` and the steps would differ; the
        optimizer is unchanged then.
    """
    return _carry.load(optimizer, read(_live.unwrapped(source)), pairs, exact=exact)


def assign(optimizer: RMSprop, target: Any, pairs: Pairing = None, *, exact: bool = True) -> None:
    """Assign the state to a tf_keras optimizer, all of it or nothing.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        target: a tf_keras optimizer, new or legacy, that has made a step or was built. Its
            learning rate is assigned too, unless it is a schedule.
        pairs: as for `load`.
        exact: as for `load`.

    Raises: as `load`; `target` is unchanged then.
    """
    optimizer, target = _carry.built(optimizer), _live.unwrapped(target)
    source = read(target, argument="target")
    slots, steps, rates, *_ = _carry.unload(optimizer, source, pairs, exact=exact)
    held = _held(target)
    if held.rate is None and exact:
        _live.check_rate(rates[0], _rate_after(target, steps), source.framework)
    _writing.write(held.assignments(slots, steps, rates[0] * _decay_after(target, steps)))


def is_legacy(source: Any) -> bool:
    """Whether an optimizer is one of `tf_keras.optimizers.legacy`."""
    return hasattr(source, "get_slot_names")


def has_state(source: Any) -> bool:
    """Whether an optimizer has slots."""
    return bool(source._slots if is_legacy(source) else getattr(source, "_velocities", ()))


def settings_of(source: Any) -> dict[str, Any]:
    """Return an optimizer's settings as those of `RMSprop`."""
    settings = _live.settings_in(source.get_config())
    if is_legacy(source):
        # Its momentum is on or off for good, whatever number is assigned later.
        has_momentum = bool(source._momentum)
        for name in ("rho", "momentum"):
            # Before the first step they are as given.
            settings[name] = float(np.float32(settings[name]))
        settings["momentum"] = settings["momentum"] if has_momentum else 0.0
        settings["epsilon_inside_sqrt"] = has_momentum
        return settings | {name: getattr(source, name) for name in _CLIPS}
    if settings["weight_decay"] and _live.has_float64(getattr(source, "_velocities", ())):
        settings["weight_decay"] = float(np.float32(settings["weight_decay"]))
    # It clips once.
    given = [name for name in _CLIPS if settings[name]]
    return settings | dict.fromkeys(given[1:])


# In the order in which the new class looks for one.
_CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")


def read(source: Any, *, argument: str = "source") -> Source:
    """Read a live optimizer, which the user gives as an argument of this name."""
    if not _live.is_of(source, "tf_keras.RMSprop"):
        raise ValueError(
            f"`{argument}` must be an RMSprop of tf_keras, received one of "
            f"{type(source).__module__}.{type(source).__qualname__}."
        )
    if not has_state(source):
        raise ValueError(
            "The tf_keras optimizer has no state. Build it, or make a step, before carrying it "
            "over."
        )
    legacy = is_legacy(source)
    if legacy and source.gradient_transformers:
        raise ValueError(
            "The optimizer has `gradient_transformers`, which cannot be carried over. Remove them, "
            "and pass `transform` to `RMSprop`."
        )
    held = _held(source)
    steps = int(source.iterations.numpy())
    return held.source(
        f"tf_keras.optimizers.{'legacy.' if legacy else ''}RMSprop",
        settings_of(source),
        steps,
        _rate_after(source, steps),
        () if legacy else _undecayed(source, list(held.slots["square_average"])),
    )._replace(
        moves=_moves(source),
        schedule=schedule_of(source),
        changing=changing_of(source),
        besides=_live.own_code_in(source),
    )


def changing_of(source: Any) -> tuple[str, ...]:
    """Return the settings other than the rate that a callable or a schedule changes."""
    numbers = source._hyper if is_legacy(source) else {}
    return tuple(name for name in ("rho", "momentum") if callable(numbers.get(name)))


def _moves(source: Any) -> bool:
    """Whether the rate changes from step to step."""
    return callable(_given_rate(source)) or _decay_after(source, 1) != 1.0


def has_callable(source: Any) -> bool:
    """Whether the rate is a callable without arguments.

    Raises: ValueError if `decay` divides it as well.
    """
    rate = _given_rate(source)
    found = callable(rate) and not _live.is_of(rate, "tf_keras.LearningRateSchedule")
    if found and _decay(source):
        raise ValueError("The optimizer has a callable and `decay`. Pass `learning_rate`.")
    return found


def _given_rate(source: Any) -> Any:
    """Return the schedule or callable of an optimizer, or what holds its rate."""
    return source._hyper["learning_rate"] if is_legacy(source) else source._learning_rate


def schedule_of(source: Any) -> Any:
    """Return what changes an optimizer's rate from step to step, None for a number.

    Returns: Keras's schedule of the same name if there is one.
    """
    rate = _given_rate(source)
    is_schedule = _live.is_of(rate, "tf_keras.LearningRateSchedule")
    if _decay_after(source, 1) != 1.0:
        if callable(rate):
            return conventions.CountSchedule(lambda count: _rate_after(source, int(count)))
        return conventions.TimeDecay(_rate_after(source, 0), float(np.float32(_decay(source))))
    if is_schedule:
        same = schedule_of_keras(type(rate).__name__, rate.get_config())
        return conventions.CountSchedule(rate) if same is None else same
    return _schedules.in_float32(rate) if callable(rate) else None


def schedule_of_keras(name: str, config: Mapping[str, Any]) -> Any:
    """Return Keras's schedule of the same name as tf_keras's, None if there is none."""
    schedule = getattr(schedules, name, None)
    # Keras's names must not be None.
    given = {key: value for key, value in config.items() if value is not None}
    return None if schedule is None else schedule(**given)


def _undecayed(source: Any, names: Sequence[str]) -> set[str]:
    """Return the names of the parameters that `exclude_from_weight_decay` has excluded."""
    excluded = getattr(source, "_exclude_from_weight_decay", ())
    patterns = getattr(source, "_exclude_from_weight_decay_names", ())
    keys = {position: key for key, position in source._index_dict.items()}
    return {
        name
        for position, name in enumerate(names)
        if keys[position] in excluded or any(re.search(each, f"{name}:0") for each in patterns)
    }


def _rate_after(source: Any, steps: int) -> float:
    """Return the learning rate of the step after so many."""
    rate = _given_rate(source)
    if _live.is_of(rate, "tf_keras.LearningRateSchedule"):
        # It gets the count in its own dtype.
        rate = rate(np.int64(steps))
    elif callable(rate):
        rate = _schedules.in_float32(rate)()
    return float(np.asarray(rate.numpy() if hasattr(rate, "numpy") else rate)) / _decay_after(
        source, steps
    )


def _decay_after(source: Any, steps: int) -> float:
    """Return what a legacy optimizer divides its learning rate by after so many steps."""
    return 1.0 + _decay(source) * steps


def _decay(source: Any) -> float:
    return float(source._initial_decay) if is_legacy(source) else 0.0


def _held(source: Any) -> _live.Held:
    if is_legacy(source):
        kinds = {"square_average": "rms", "gradient_average": "mg", "momentum": "momentum"}
        owners = list(source._slots.values())
        # Such as "RMSprop/dense/kernel/rms:0", or without the optimizer's name.
        names = _pairing.numbered(
            [_without_scope(own["rms"].name, source._name).removesuffix("/rms") for own in owners]
        )
        slots = {
            kind: {name: own[slot] for name, own in zip(names, owners, strict=True) if slot in own}
            for kind, slot in kinds.items()
        }
        rate = source._get_hyper("learning_rate")
    else:
        lists = {
            "square_average": getattr(source, "_velocities", ()),
            "gradient_average": getattr(source, "_average_gradients", ()),
            "momentum": getattr(source, "_momentums", ()),
            "average": getattr(source, "_model_variables_moving_average", ()),
        }
        # Such as "RMSprop/velocity/dense/kernel:0", or without the optimizer's name.
        own_names = [_without_scope(v.name, "velocity") for v in lists["square_average"]]
        names = _pairing.numbered(own_names)
        slots = {kind: dict(zip(names, own, strict=False)) for kind, own in lists.items()}
        rate = source._learning_rate
    return _live.Held(
        {"average": {}, **slots}, source.iterations, rate if hasattr(rate, "assign") else None
    )


def _without_scope(name: str, scope: str) -> str:
    """Return a variable's name without ":0" and without all up to a scope, if it is in one."""
    bare = name.partition(":")[0]
    return re.sub(rf"^(?:.+?/)??{re.escape(scope)}/", "", bare, count=1)
