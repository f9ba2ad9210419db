"""Take a training over from `keras.optimizers.RMSprop`, and give it back.

A model that was saved with Keras's class can simply be compiled with this package's; the state is
in the file, and `load` reads it:

    model = keras.saving.load_model("trained.keras")     # with Keras's own optimizer
    optimizer = interop.like(model.optimizer, model.trainable_variables)
    model.compile(optimizer, loss)

`interop.like` returns an optimizer of the same settings that goes on where the other was. A file of
Keras does not hold which variables are excluded from weight decay: call `exclude_from_weight_decay`
of the optimizer in it again.
"""

import contextlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras import ops, saving
from keras.optimizers import schedules

from keras_rmsprop import _assignment, _state
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop import _carry, _live, _schedules, _writing
from keras_rmsprop.interop._pairs import Pair, Pairing, shortened
from keras_rmsprop.interop._source import NotExactError, Settings, Source, dtype_of

__all__ = ["Pair", "assign", "load"]


def load(
    optimizer: RMSprop, source: Any, pairs: Pairing = None, *, exact: bool = True
) -> LoadReport:
    """Load the state of a `keras.optimizers.RMSprop`, live or from a file.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        source: the optimizer, or a `LossScaleOptimizer` with one; or the path of a file that Keras
            saved with one, `.keras` or `.weights.h5`. A file has no names, so its state is matched
            by position and shape.
        pairs: None, for the same variables, or variables of the same paths; "order"; or a mapping
            from the paths of the other optimizer's variables to variables or paths. Not for files.
            Default None.
        exact: whether to refuse a load after which the steps would differ, as far as the source
            tells its settings: a `.weights.h5` file does not. Default True.

    Returns: the `load_report`.
    Raises: ValueError if something does not fit, or `exact` and the steps would differ; the
        optimizer is unchanged then.
    """
    if isinstance(source, str | os.PathLike):
        if pairs is not None:
            raise ValueError(
                "A file has no names, so its state is matched by position; `pairs` is for live "
                f"optimizers, received {pairs!r:.200}."
            )
        return _load_file(optimizer, Path(source), exact)
    optimizer = _carry.built(optimizer)
    source = _live.unwrapped(source)
    there = read(source)
    pairs = pairs_of(source, optimizer._roster.weights, pairs)
    with _telling_of_exclusions(optimizer, source):
        return _carry.load(optimizer, there, pairs, exact=exact)


def assign(optimizer: RMSprop, target: Any, pairs: Pairing = None, *, exact: bool = True) -> None:
    """Assign the state to a `keras.optimizers.RMSprop`, all of it or nothing.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        target: a built `keras.optimizers.RMSprop`, or a `LossScaleOptimizer` with one. Its learning
            rate is assigned too, unless it is a schedule or a callable.
        pairs: as for `load`.
        exact: as for `load`.

    Raises: as `load`; `target` is unchanged then.
    """
    optimizer = _carry.built(optimizer)
    target = _live.unwrapped(target)
    source = read(target, argument="target")
    pairs = pairs_of(target, optimizer._roster.weights, pairs)
    with _telling_of_exclusions(optimizer, target):
        slots, steps, rates, begun, *_ = _carry.unload(
            optimizer, source, pairs, exact=exact, sums=source.counts
        )
    calls = steps * source.counts + begun
    held = _held(target)
    if held.rate is None and exact:
        _live.check_rate(rates[0], _rate_after(target, calls), source.framework)
    _writing.write(held.assignments(slots, calls, rates[0]))


@contextlib.contextmanager
def _telling_of_exclusions(optimizer: RMSprop, other: Any) -> Iterator[None]:
    """Say in a refusal where the other's exclusions from weight decay may have been lost."""
    try:
        yield
    except NotExactError as error:
        here, there = (
            [not each._use_weight_decay(v) for v in own]
            for each, own in (
                (optimizer, optimizer._roster.weights),
                (other, other._trainable_variables),
            )
        )
        if not other.weight_decay or not any(here) or any(there):
            raise
        raise NotExactError(
            f"{error} The optimizer of Keras excludes no variable from weight decay: if it is from "
            "a file, that does not hold the exclusions; call its `exclude_from_weight_decay` again."
        ) from None


def settings_of(source: Any) -> dict[str, Any]:
    """Return an optimizer's settings as those of `RMSprop`."""
    # Not by its config: a function as learning rate gives a warning there.
    settings = _live.settings_in({name: getattr(source, name) for name in _live.SHARED})
    if settings["weight_decay"] and _live.has_float64(getattr(source, "_trainable_variables", ())):
        # As Keras uses it: on TensorFlow it becomes a float32 tensor first.
        decay = ops.cast(settings["weight_decay"], "float64")
        settings["weight_decay"] = float(_state.array_of(decay))
    return settings


def read(source: Any, *, argument: str = "source") -> Source:
    """Read a live optimizer, which the user gives as an argument of this name."""
    if not _live.is_of(source, "keras.RMSprop"):
        or_file = " or the path of a file" if argument == "source" else ""
        raise ValueError(
            f"`{argument}` must be a keras.optimizers.RMSprop{or_file}, received one of "
            f"{type(source).__module__}.{type(source).__qualname__}."
        )
    if not source.built:
        raise ValueError(
            "The Keras optimizer has no state, because it is not built. Call its "
            "`build(model.trainable_variables)`."
        )
    calls = int(source._iterations)
    undecayed = {
        name
        for name, variable in zip(_names(source), source._trainable_variables, strict=True)
        if source.weight_decay and not source._use_weight_decay(variable)
    }
    accumulation = source.gradient_accumulation_steps or 1
    rate = source._learning_rate
    moves = not hasattr(rate, "assign")
    return (
        _held(source)
        .source(
            "keras.optimizers.RMSprop",
            settings_of(source),
            calls // accumulation,
            _rate_after(source, calls),
            undecayed,
        )
        ._replace(
            moves=moves,
            schedule=rate if moves else None,
            counts=accumulation,
            begun=calls % accumulation,
            besides=_live.own_code_in(source),
        )
    )


def _names(source: Any) -> tuple[str, ...]:
    return _pairing.numbered([_pairing.path_of(v) for v in source._trainable_variables])


def _held(source: Any) -> _live.Held:
    lists = {
        "square_average": source._velocities,
        "gradient_average": source._average_gradients,
        "momentum": source._momentums,
        "average": source._model_variables_moving_average if source.use_ema else (),
        "accumulator": getattr(source, "_accumulated_gradients", ()),
    }
    names = _names(source)
    slots = {kind: dict(zip(names, own, strict=False)) for kind, own in lists.items()}
    rate = source._learning_rate
    return _live.Held(slots, source._iterations, rate if hasattr(rate, "assign") else None)


def _rate_after(source: Any, calls: int) -> float:
    """Return the learning rate of the call after so many."""
    rate = source._learning_rate
    if not hasattr(rate, "assign"):
        is_schedule = isinstance(rate, schedules.LearningRateSchedule)
        rate = rate(calls) if is_schedule else rate()
    return float(rate if isinstance(rate, float | int) else _state.array_of(rate))


def pairs_of(other: Any, weights: Sequence[Any], pairs: Pairing) -> Pairing:
    """Pair variables with themselves if both optimizers have them and no pairs are given.

    Args:
        other: the other optimizer, which is built.
        weights: the variables of this package's.
        pairs: what the user gave.
    """
    here = set(map(id, weights))
    same = [
        Pair((name,), variable)
        for name, variable in zip(_names(other), other._trainable_variables, strict=True)
        if id(variable) in here
    ]
    return same if pairs is None and same else pairs


# Files.


def _load_file(optimizer: RMSprop, path: Path, exact: bool) -> LoadReport:
    optimizer = _carry.built(optimizer)
    parts = optimizer._parts()
    with _opened(path) as (group, config):
        found = _state.read_file(group, parts)
        if exact:
            # Settings that differ are why slots do not fit, so they are named first.
            calls = (found.calls or 0) if isinstance(found, _state.State) else 0
            _refuse(path, [] if config is None else _differences(optimizer, config, calls))
            _refuse(path, _rounded(group))
    if not isinstance(found, _state.State):
        raise ValueError(f"{str(path)!r}: {found.reason} Nothing has changed.")
    if exact:
        entries = _state.plan_load(parts, found).report
        _refuse(
            path,
            [
                *_named("these are not in the file", entries.initialized),
                *_named("these are only in the file", entries.dropped),
            ],
        )
    optimizer._load(found)
    report = optimizer.load_report
    assert report is not None
    return report


def _named(words: str, names: Sequence[str]) -> list[str]:
    slots = [name for name in names if name not in _COUNTERS]
    return [f"{words}: {shortened(slots)}"] if slots else []


def _refuse(path: Path, differences: Sequence[str]) -> None:
    if differences:
        raise NotExactError(
            f"The training would not go on with the steps of {str(path)!r}: "
            f"{'; '.join(differences)}. Use an optimizer of the same settings, or pass exact=False "
            "to load what fits. Nothing has changed."
        )


# What the steps do not depend on, or what only tells that one side has a schedule.
_COUNTERS = ("iteration", "learning_rate", "skipped_steps")
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
# Under mixed precision, Keras wraps the optimizer.
_GROUPS = ("optimizer/inner_optimizer/vars", "optimizer/vars")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Mapping[str, Any] | None]]:
    """Open the optimizer's group in a file, with its config if there is one."""
    if not path.exists():
        raise ValueError(f"There is no file {str(path)!r}.")
    if path.is_dir():
        raise ValueError(
            f"{str(path)!r} is a folder, and the file must be a .keras or .weights.h5 file; load a "
            "SavedModel by its framework, and pass its optimizer."
        )
    content: Any = path
    config = None
    with contextlib.ExitStack() as stack:
        try:
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                if _WEIGHTS not in archive.namelist():
                    raise _NoStateError(f"{str(path)!r} has no {_WEIGHTS}, as a .keras file has.")
                config = _config_in(archive)
                content = io.BytesIO(archive.read(_WEIGHTS))
            file = stack.enter_context(_state.opened_hdf5(content))
            groups = [file[name] for name in _GROUPS if name in file]
            if not groups or not len(groups[0]):
                raise _NoStateError(f"{str(path)!r} holds no optimizer's state.")
        except _NoStateError:
            raise
        except _UNREADABLE as error:
            raise ValueError(f"{str(path)!r} is not a file that Keras saves: {error}.") from error
        yield groups[0], config


# What h5py and zipfile raise for files that are damaged or of another kind.
_UNREADABLE = (OSError, LookupError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)


class _NoStateError(ValueError):
    """A file of Keras without an optimizer's state."""


def _config_in(archive: zipfile.ZipFile) -> Mapping[str, Any] | None:
    """Return the config of the optimizer that a model was compiled with, None if unknown."""
    if _CONFIG not in archive.namelist():
        return None
    try:
        found = json.loads(archive.read(_CONFIG))["compile_config"]["optimizer"]
        while found["class_name"] == "LossScaleOptimizer":
            found = found["config"]["inner_optimizer"]
        config = found["config"]
        is_known = found["class_name"] == "RMSprop"
        settings = {"rho": config["rho"], **config}
    except (ValueError, LookupError, TypeError, AttributeError):
        # Not compiled, or with an optimizer that is not serialized.
        return None
    if not is_known:
        # Of a class of the user's the settings may mean anything.
        return None
    _live.check_settings(settings)
    return settings


def _rounded(group: Any) -> list[str]:
    """Return whether the slots in a file have fewer digits than those of this package."""
    # Keras writes bfloat16 as bytes, and its name beside them.
    dtypes = {str(data.attrs.get("dtype", dtype_of(data))) for data in group.values()}
    return [
        f"the slots are rounded to {dtype} in the file, and not here"
        for dtype in sorted(dtypes & {"float16", "bfloat16"})
    ]


def _differences(optimizer: RMSprop, config: Mapping[str, Any], calls: int) -> list[str]:
    """Return in what an optimizer differs from the one in a file.

    Args:
        optimizer: a built optimizer.
        config: the config in the file.
        calls: the number of its calls.
    """
    groups, own_groups = config.get("groups") or {}, _assignment.groups_in_config(optimizer)
    if groups and groups != own_groups:
        return [f"`groups` are {own_groups!r} here and {groups!r} there"]
    transform = optimizer.transform and saving.get_registered_name(optimizer.transform)
    # Keras's own class has none of these.
    found = [
        f"`{name}` is {value!r} here and {config[name]!r} there"
        for name, value in (("transform", transform), ("state_dtype", optimizer.state_dtype))
        if name in config and config[name] != value
    ]
    settings = _live.settings_in(config)
    weights = optimizer._roster.weights
    names = _pairing.numbered([_pairing.path_of(weight) for weight in weights])
    pairs = [Pair((name,), weight) for name, weight in zip(names, weights, strict=True)]
    # Variables in groups, which are the same, have settings of their own.
    ungrouped = [i for i in range(len(weights)) if not groups or not optimizer._roster.members[i]]
    rate = config.get("learning_rate")
    counts = settings.get("gradient_accumulation_steps") or 1
    there = Source(
        "the file",
        {},
        calls // counts,
        settings={
            names[i]: _settings_there(optimizer, weights[i], settings, config) for i in ungrouped
        },
        lr_in_momentum=settings["lr_in_momentum"],
        bias_correction=settings["bias_correction"],
        moves=None if rate is None else isinstance(rate, Mapping),
        schedule=_schedules.from_file(rate) if isinstance(rate, Mapping) else None,
        counts=counts,
    )
    return found + _carry.differences(optimizer, there, {i: pairs[i] for i in ungrouped})


def _settings_there(
    optimizer: RMSprop, weight: Any, settings: Settings, config: Mapping[str, Any]
) -> Settings:
    """Return a variable's settings in a file."""
    told = {key: config[key] for key in ("transform", "state_dtype") if key in config}
    found = {**settings, **told}
    if not optimizer._use_weight_decay(weight):
        # Files do not tell which variables are excluded from weight decay.
        del found["weight_decay"]
    return found
