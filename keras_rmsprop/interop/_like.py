"""Make an `RMSprop` that takes the steps of another framework's optimizer."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop import _assignment, _state, conventions
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop import (
    _carry,
    _live,
    _optax_arguments,
    _schedules,
    optax,
    tf1,
    tf_keras,
    torch,
)
from keras_rmsprop.interop import keras as keras_state
from keras_rmsprop.interop._pairs import Pair, Pairing, linked_to
from keras_rmsprop.interop._source import NotExactError, Settings, Source

# Settings that the variables of one optimizer share.
_SHARED = (
    "centered",
    "epsilon_inside_sqrt",
    "lr_in_momentum",
    "nesterov",
    "bias_correction",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
)


def like(
    source: Any,
    variables: Sequence[Any] | None = None,
    pairs: Pairing = None,
    *,
    state: Any = None,
    names: Any = None,
    kind: str | None = None,
    exact: bool = True,
    **options: Any,
) -> RMSprop:
    """Return an optimizer that takes the steps of another framework's, from where that one is.

    Convention, numbers and groups are those of `source`. With `variables` it is built, and has the
    state of `source`, so that training goes on:

        optimizer = interop.like(torch_optimizer, model.trainable_variables, pairs)

    Args:
        source: a live optimizer: `torch.optim.RMSprop`, timm's `RMSpropTF`, Stable-Baselines3's
            `RMSpropTFLike`, or the `state_dict()` of one of these; a transformation of optax;
            `tf.compat.v1.train.RMSPropOptimizer`; `tf_keras.optimizers.RMSprop` or
            `tf_keras.optimizers.legacy.RMSprop`; `keras.optimizers.RMSprop`, or a
            `keras_rmsprop.RMSprop`. Keras's `LossScaleOptimizer` stands for what it wraps.
        variables: the variables to build it with, such as `model.trainable_variables`. Needed for
            param groups and for state. Default None: it is not built.
        pairs: which parameter is which variable, as for the `load` of the framework, in
            `interop.torch`, `interop.optax` and so on. Default None.
        state: for optax, the state; for TF1, the path of a checkpoint: those optimizers do not
            hold their state. Default None.
        names: for torch, where the names of parameters come from; see `interop.torch.load`.
        kind: for a `state_dict()` of torch that does not show which class it is of, its name; see
            `interop.torch.load`.
        exact: whether to refuse a state after which the steps would differ, for example because
            `options` change them, among them a `learning_rate` other than the present one. Default
            True.
        **options: further arguments of `RMSprop`, such as `skip_nonfinite=True` or `groups`, which
            take precedence, also over what the state holds.

    Returns: the optimizer. A torch scheduler or another source of a changing rate is not part of
        `source`; pass `learning_rate` with a Keras schedule.
    Raises: ValueError if `source` is none of these, or does something that `RMSprop` cannot do.

    Example:
    >>> import keras
    >>> from keras_rmsprop import interop
    >>> optimizer = interop.like(keras.optimizers.RMSprop(0.01, rho=0.95, momentum=0.9))
    >>> optimizer.rho, optimizer.momentum
    (0.95, 0.9)
    """
    source = _live.unwrapped(source)
    if variables is not None and hasattr(variables, "trainable_variables"):
        raise ValueError(
            "`variables` must be a list of variables, such as model.trainable_variables, received "
            f"one of {type(variables).__module__}.{type(variables).__qualname__}."
        )
    if _live.is_of(source, "keras_rmsprop.RMSprop"):
        return _of_this_package(source, variables, pairs, options, exact)
    weights = None if variables is None else list(variables)
    if weights is not None and _live.is_of(source, "keras.RMSprop") and source.built:
        pairs = keras_state.pairs_of(source, weights, pairs)
    found = _read(source, pairs, state, names, kind, options)
    if exact:
        known, name = found.source, f"{type(source).__module__}.{type(source).__qualname__}"
        if known is None:
            _carry.refuse(_live.own_code_in(source), name)
        else:
            _carry.refuse([*known.besides, *_carry.in_words(known.changing)], name)
    if weights is not None and found.source is not None and found.source.framework == "optax":
        pairs = optax.pairing_of(pairs, found.source, weights)
    arguments = {**_arguments(found, pairs, weights, exact), **options}
    optimizer = RMSprop(**arguments)
    if weights is not None:
        optimizer.build(weights)
        if found.load is not None:
            with _keeping_rate(optimizer, options, exact):
                found.load(optimizer, exact=exact)
    return optimizer


@contextlib.contextmanager
def _keeping_rate(optimizer: RMSprop, options: Mapping[str, Any], exact: bool) -> Iterator[None]:
    """Keep a rate that was given as an option while a state is loaded, which has one of its own.

    Raises: NotExactError if `exact` and they differ.
    """
    if "learning_rate" not in options or optimizer._rate().variable is None:
        yield
        return
    given = float(options["learning_rate"])
    yield
    loaded = float(_state.array_of(optimizer.learning_rate))
    if exact and not math.isclose(given, loaded, rel_tol=10 * _carry.SAME):
        raise NotExactError(
            f"The training would not go on with the same steps: `learning_rate` is {given:.7g} "
            f"here and {loaded:.7g} there. Leave it out to go on with that, or pass exact=False."
        )
    optimizer.learning_rate = given


class _Read(NamedTuple):
    """An optimizer of another framework, as far as it tells about itself."""

    # The settings and the rate of all parameters that `source` has none of.
    settings: Settings
    rate: Any
    # Further arguments of `RMSprop`.
    more: Settings
    # With the settings and rates of single parameters.
    source: Source | None = None
    # Loads the state into a built optimizer; None if there is none.
    load: Callable[..., Any] | None = None


def _read(
    source: Any,
    pairs: Pairing,
    state: Any,
    names: Any,
    kind: str | None,
    options: Mapping[str, Any],
) -> _Read:
    if torch.is_state(source) or _live.is_of(source, "torch.RMSprop", *_OTHER_TORCH):
        return _torch(source, pairs, names, kind)
    if callable(getattr(source, "update", None)) and callable(getattr(source, "init", None)):
        return _optax(source, pairs, state, options)
    if _live.is_of(source, "tensorflow.RMSPropOptimizer"):
        return _tf1(source, pairs, state, options)
    if _live.is_of(source, "tf_keras.RMSprop"):
        return _tf_keras(source, pairs, options)
    if _live.is_of(source, "keras.RMSprop"):
        return _keras(source, pairs)
    raise ValueError(
        "`interop.like` knows the RMSprops of torch, timm, Stable-Baselines3, optax, TF1, tf_keras "
        f"and Keras, received one of {type(source).__module__}.{type(source).__qualname__}."
        f"{torch.hint(source)}"
    )


_OTHER_TORCH = ("timm.RMSpropTF", "stable_baselines3.RMSpropTFLike")


def _torch(source: Any, pairs: Pairing, names: Any, kind: str | None) -> _Read:
    found = torch.read(source, pairs if names is None else names, kind)
    if kind is None and torch.is_state(source) and not torch.tells_its_kind(source):
        raise ValueError(
            "The state_dict does not show whether it is of torch.optim.RMSprop or of "
            'Stable-Baselines3\'s RMSpropTFLike. Pass kind="torch.optim.RMSprop" or '
            'kind="Stable-Baselines3\'s RMSpropTFLike".'
        )
    moving = [name for name in found.names if name not in found.still] or found.names
    # Rates of groups are factors of a rate > 0.
    candidates = (*moving, *found.names)
    base = next((name for name in candidates if found.rates[name] > 0.0), moving[0])

    def load(optimizer: RMSprop, *, exact: bool) -> None:
        _carry.load(optimizer, found, pairs, exact=exact)

    return _Read(
        found.settings[base],
        found.rates[base],
        found.arguments,
        found,
        load if found.slots else None,
    )


def _optax(source: Any, pairs: Any, state: Any, options: Mapping[str, Any]) -> _Read:
    told = _optax_arguments.told_by(source, state)
    load = None
    if state is not None:

        def load(optimizer: RMSprop, *, exact: bool) -> None:
            optax.load(optimizer, state, pairs, transformation=source, exact=exact)

    found = None
    if told.is_of_all:
        first = told.of_all()
    else:
        known = () if state is None else optax.read(state).names
        by_name = told.by_parameter(known)
        first = next(iter(by_name.values()))
        # Rates of groups are factors of a rate > 0.
        first = next((a for a in by_name.values() if a.rate_after(0) != 0.0), first)
        if any(
            each.initial_square_average != first.initial_square_average for each in by_name.values()
        ):
            raise ValueError("The transformations differ in initial_scale, which all share here.")
        rates = {name: each.learning_rate for name, each in by_name.items()}
        if any(map(callable, rates.values())):
            if any(each is not first.learning_rate for each in rates.values()):
                raise ValueError(
                    "The transformations have different schedules; an `RMSprop` has one, and "
                    "factors of it for groups. Pass `learning_rate` and `groups`."
                )
            rates = {}
        frozen = frozenset(told.frozen(known))
        found = Source(
            "optax",
            {},
            rates={name: float(rate) for name, rate in rates.items()},  # type: ignore[arg-type]
            settings={name: each.settings for name, each in by_name.items()},
            names=(*by_name, *sorted(frozen)),
            still=frozen,
            frozen=frozen,
        )
    rate = first.learning_rate
    more = {
        "initial_square_average": first.initial_square_average,
        **_more_of_optax(told, options),
    }
    return _Read(
        first.settings,
        # optax counts completed steps.
        conventions.CountSchedule(rate, True, told.accumulation_steps or 1)
        if callable(rate)
        else rate,
        more,
        found,
        load,
    )


def _more_of_optax(told: _optax_arguments.Told, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that follow from what is around a transformation.

    Raises: ValueError if it skips some gradients that are not finite, and not all.
    """
    more: dict[str, Any] = {}
    if (told.accumulation_steps or 1) > 1:
        more["gradient_accumulation_steps"] = told.accumulation_steps
    if told.skips is not None and "skip_nonfinite" not in options:
        # Its counter ends there.
        if told.skips < np.iinfo(np.int32).max:
            raise ValueError(
                f"The transformation skips gradients that are not finite, but no more than "
                f"{told.skips:g} in a row (apply_if_finite); an `RMSprop` skips all of them. Pass "
                "`skip_nonfinite=True` if that is what you want."
            )
        more["skip_nonfinite"] = True
    return more


# The attributes in which TF1's optimizer holds its hyperparameters.
_TF1 = {
    "learning_rate": "_learning_rate",
    "rho": "_decay",
    "momentum": "_momentum",
    "epsilon": "_epsilon",
}


def _tf1(source: Any, pairs: Pairing, state: Any, options: Mapping[str, Any]) -> _Read:
    settings: dict[str, Any] = {"centered": bool(source._centered)}
    changing = []
    for name, attribute in _TF1.items():
        value = getattr(source, attribute)
        if name in options:
            continue
        if callable(value) and name == "learning_rate":
            settings[name] = _schedules.in_float32(value)
            continue
        if callable(value):
            changing.append(name)
        settings[name] = _number_of_tf1(name, value)
    load = None
    if state is not None:

        def load(optimizer: RMSprop, *, exact: bool) -> None:
            if exact and changing:
                raise NotExactError(
                    f"The {', '.join(changing)} of the TF1 optimizer may change, as a callable "
                    "gives it. Pass the number, or pass exact=False to take the present one."
                )
            tf1.load(optimizer, state, pairs, name=source._name, exact=exact)

    more = {"initial_square_average": 1.0, "name": source._name}
    return _Read(settings, settings.pop("learning_rate", None), more, load=load)


def _number_of_tf1(name: str, value: Any) -> float:
    """Return a hyperparameter in the precision in which TF1 uses it."""
    value = value() if callable(value) else value
    try:
        # TensorFlow makes float32 tensors of Python's numbers.
        return float(np.float32(value) if type(value) in (int, float) else value)
    except TypeError as error:
        raise ValueError(
            f"The {name} of the TF1 optimizer is a tensor of a graph, whose value is not known "
            f"here. Pass `{name}`, a number{' or a schedule' if name == 'learning_rate' else ''}."
        ) from error


def _tf_keras(source: Any, pairs: Pairing, options: Mapping[str, Any]) -> _Read:
    def load(optimizer: RMSprop, *, exact: bool) -> None:
        tf_keras.load(optimizer, source, pairs, exact=exact)

    has_state = tf_keras.has_state(source)
    found = tf_keras.read(source)._replace(rates={}) if has_state else None
    rate = None if "learning_rate" in options else _rate_of_tf_keras(source)
    return _Read(tf_keras.settings_of(source), rate, {}, found, load if has_state else None)


def _rate_of_tf_keras(source: Any) -> Any:
    if tf_keras.has_callable(source):
        return tf_keras.schedule_of(source)
    config = source.get_config()
    rate = config["learning_rate"]
    if isinstance(rate, Mapping):
        rate = _schedule_of_keras(rate)
    elif tf_keras.is_legacy(source):
        rate = float(np.float32(rate))
    if not config.get("decay"):
        return rate if callable(rate) else float(rate)
    if callable(rate):
        raise ValueError("The optimizer has a schedule and `decay`. Pass `learning_rate`.")
    return conventions.TimeDecay(rate, float(np.float32(config["decay"])))


def _schedule_of_keras(serialized: Mapping[str, Any]) -> Any:
    """Return Keras's schedule of the same name as tf_keras's."""
    name = serialized["class_name"]
    schedule = tf_keras.schedule_of_keras(name, serialized["config"])
    if schedule is None:
        raise ValueError(
            f"The schedule {name!r} of tf_keras is not one of Keras's. Pass `learning_rate`."
        )
    return schedule


def _keras(source: Any, pairs: Pairing) -> _Read:
    def load(optimizer: RMSprop, *, exact: bool) -> None:
        keras_state.load(optimizer, source, pairs, exact=exact)

    rate = source._learning_rate
    rate = float(_live.array_in(rate)) if hasattr(rate, "assign") else rate
    more = {"name": source.name}
    found = keras_state.read(source)._replace(rates={}) if source.built else None
    return _Read(keras_state.settings_of(source), rate, more, found, load if found else None)


def _of_this_package(
    source: RMSprop,
    variables: Sequence[Any] | None,
    pairs: Pairing,
    options: Mapping[str, Any],
    exact: bool,
) -> RMSprop:
    """Copy an optimizer of this package, with its state by the position of the variables."""
    if pairs is not None:
        raise ValueError(
            "The variables of a keras_rmsprop.RMSprop are paired by position. Leave `pairs` out; "
            "to choose by name, use `state_dict` and `load_state_dict`."
        )
    optimizer: RMSprop = type(source).from_config({**source.get_config(), **options})
    has_state = variables is not None and source.built
    changed = [
        name for name in options if name in _OF_STEPS and _is_changed(name, source, optimizer)
    ]
    if exact and has_state and changed:
        raise NotExactError(
            f"The options {', '.join(changed)} change the steps. Pass exact=False to take the "
            "state all the same."
        )
    if variables is None:
        return optimizer
    optimizer.build(list(variables))
    if source.built:
        if source.gradient_accumulation_steps != optimizer.gradient_accumulation_steps:
            _carry.check_between_accumulations(
                int(source._iterations), source.gradient_accumulation_steps
            )
        shapes = [[tuple(v.shape) for v in each._roster.weights] for each in (source, optimizer)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The variables have the shapes {shapes[1]}, where those of the optimizer have "
                f"{shapes[0]}."
            )
        with _keeping_rate(optimizer, options, exact):
            optimizer._load(_state.state_of(source._parts())._replace(names=None))
    return optimizer


# The options that steps depend on, but for a rate that is a number, which the state has as well.
_OF_STEPS = (*_carry.COMPARED, "learning_rate", "groups", "transform", "state_dtype")


def _is_changed(name: str, source: RMSprop, copy: RMSprop) -> bool:
    """Whether a setting of a copy differs from that of its source."""
    if name == "groups":
        return _assignment.groups_in_config(source) != _assignment.groups_in_config(copy)
    if name != "learning_rate":
        return bool(getattr(source, name) != getattr(copy, name))
    rates = source._learning_rate, copy._learning_rate
    are_numbers = [hasattr(rate, "assign") for rate in rates]
    if any(are_numbers):
        return not all(are_numbers)
    return not _schedules.are_alike(*rates)


def _arguments(
    found: _Read, pairs: Pairing, variables: Sequence[Any] | None, exact: bool
) -> dict[str, Any]:
    """Return the arguments of an `RMSprop` with these settings."""
    arguments = {"learning_rate": found.rate, **found.settings, **found.more}
    source = found.source
    if source is None:
        return arguments
    for name in _SHARED:
        values = {str(each.get(name)): each.get(name) for each in source.settings.values()}
        if len(values) > 1:
            raise ValueError(
                f"The parameters differ in {name}, which all variables of an `RMSprop` share: "
                f"{' and '.join(values)}."
            )
    own = {
        name: _own_settings(found, source, name) for name in source.names if name in source.settings
    }
    if pairs is not None and variables is not None and source.frozen:
        linked_to(source, pairs, variables, exact=exact)
    doubled = not isinstance(pairs, Mapping | str | None) and any(p.rate != 1.0 for p in pairs)
    if not any(own.values()) and not doubled:
        return arguments
    if variables is None:
        raise ValueError(
            "The parameters have different settings, which become groups of variables. Pass "
            "`variables`, such as model.trainable_variables, and `pairs`."
        )
    return {**arguments, "groups": _groups(own, pairs, source, variables, exact)}


def _own_settings(found: _Read, source: Source, name: str) -> dict[str, Any]:
    """Return in what a parameter differs from the base."""
    theirs = source.settings[name]
    own = {k: v for k, v in theirs.items() if k not in _SHARED and v != found.settings[k]}
    rate = source.rates.get(name)
    if rate is not None and rate != found.rate:
        own["learning_rate"] = rate / found.rate
    return own


def _groups(
    own: Mapping[str, dict[str, Any]],
    pairs: Pairing,
    source: Source,
    variables: Sequence[Any],
    exact: bool,
) -> dict[str, dict[str, Any]]:
    """Return groups of the variables whose settings differ from the base."""
    links = linked_to(source, pairs, variables, exact=exact)
    paths = list(map(_pairing.path_of, variables))
    # By the settings, the variables that have them.
    members: dict[str, list[str]] = {}
    settings: dict[str, dict[str, Any]] = {}
    by_path: dict[str, dict[str, Any]] = {}
    for position, pair in links.items():
        theirs = _settings_of_pair(pair, own)
        path = paths[position]
        if by_path.setdefault(path, theirs) != theirs:
            raise ValueError(
                f"Two variables have the path {path!r} and different settings, {by_path[path]} and "
                f"{theirs}, and groups are told apart by paths. Give the layers names of their own."
            )
        if theirs:
            key = repr(sorted(theirs.items()))
            members.setdefault(key, []).append(path)
            settings[key] = theirs
    return {_pattern_of(some, paths): settings[key] for key, some in members.items()}


def _pattern_of(some: Sequence[str], paths: Sequence[str]) -> str:
    """Return a pattern that matches some of the paths and no others, by layers where it can."""
    words = []
    for path in some:
        layer = path.rpartition("/")[0] + "/"
        whole = layer != "/" and all(p in some for p in paths if p.startswith(layer))
        words.append(f"{re.escape(layer)}.*" if whole else re.escape(path))
    return "|".join(dict.fromkeys(words))


def _settings_of_pair(pair: Pair, own: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    settings = dict(own.get(pair.names[0], {}))
    if any(own.get(name, {}) != settings for name in pair.names):
        raise ValueError(f"{pair.label} have different settings, but are one variable here.")
    if pair.rate != 1.0:
        settings["learning_rate"] = settings.get("learning_rate", 1.0) * pair.rate
    return settings
