"""Take a training over from `keras.optimizers.RMSprop`, and give it back.

A model that was saved with Keras's class can simply be compiled with this package's; the state is
in the file, and `load` reads it:

    model = keras.saving.load_model("trained.keras")     # with Keras's own optimizer
    optimizer = interop.like(model.optimizer, model.trainable_variables)
    model.compile(optimizer, loss)

`interop.like` returns an optimizer of the same settings that goes on where the other was.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop import _carry, _live
from keras_rmsprop.interop._pairs import Pair, Pairing
from keras_rmsprop.interop._source import Source

__all__ = ["Pair", "assign", "load"]

_WEIGHTS = "model.weights.h5"


def load(
    optimizer: RMSprop, source: Any, pairs: Pairing = None, *, exact: bool = True
) -> LoadReport:
    """Load the state of a `keras.optimizers.RMSprop`, live or from a file.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        source: the optimizer; or the path of a file that Keras saved with one, `.keras` or
            `.weights.h5`. A file has no names, so its state is matched by position and shape.
        pairs: None, for variables of the same paths; "order"; or a mapping from the paths of the
            other optimizer's variables to variables or paths. Not for files. Default None.
        exact: whether to refuse a load after which the steps would differ, as far as the source
            tells its settings, which a file does not. Default True.

    Returns: the `load_report`.
    Raises: ValueError if something does not fit, or `exact` and the steps would differ; the
        optimizer is unchanged then.
    """
    if isinstance(source, str | Path):
        return _load_file(optimizer, Path(source))
    return _carry.load(optimizer, read(source), pairs, exact=exact)


def assign(optimizer: RMSprop, target: Any, pairs: Pairing = None, *, exact: bool = True) -> None:
    """Assign the state to a `keras.optimizers.RMSprop`, all of it or nothing.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        target: a built `keras.optimizers.RMSprop`.
        pairs: as for `load`.
        exact: as for `load`.

    Raises: as `load`; `target` is unchanged then.
    """
    source = read(target)
    slots = _carry.unload(optimizer, source, pairs, exact=exact)
    calls = _carry.steps_of(optimizer) * (target.gradient_accumulation_steps or 1)
    _held(target).write(slots, calls, _carry.rate_of(optimizer, 0))


def read(source: Any) -> Source:
    """Read a live optimizer."""
    if not _live.is_of(source, "keras.RMSprop"):
        raise ValueError(
            "`source` must be a keras.optimizers.RMSprop or the path of a file, received one of "
            f"{type(source).__module__}.{type(source).__qualname__}."
        )
    if not source.built:
        raise ValueError(
            "The Keras optimizer has no state, because it is not built. Call its "
            "`build(model.trainable_variables)`."
        )
    held = _held(source)
    found = held.source(
        "keras.optimizers.RMSprop",
        _live.settings_in(source.get_config()),
        None if held.rate is not None else float(source.learning_rate),
    )
    accumulation = source.gradient_accumulation_steps or 1
    begun = int(source._iterations) % accumulation
    if begun:
        raise ValueError(
            f"{begun} of {accumulation} gradients are accumulated, which would be lost. Carry the "
            "state over after the call that completes the step."
        )
    return found._replace(steps=int(source._iterations) // accumulation)


def _held(source: Any) -> _live.Held:
    names = _live.numbered([_pairing.path_of(v) for v in source._trainable_variables])
    lists = {
        "square_average": source._velocities,
        "gradient_average": getattr(source, "_average_gradients", None) or (),
        "momentum": getattr(source, "_momentums", None) or (),
    }
    slots = {kind: dict(zip(names, own, strict=False)) for kind, own in lists.items()}
    rate = source._learning_rate
    return _live.Held(slots, source._iterations, rate if hasattr(rate, "assign") else None)


def _load_file(optimizer: RMSprop, path: Path) -> LoadReport:
    import h5py

    _carry.check_built(optimizer)
    if not path.exists():
        raise ValueError(f"There is no file {str(path)!r}.")
    content: Any = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if _WEIGHTS not in archive.namelist():
                raise ValueError(f"{str(path)!r} has no {_WEIGHTS}, as a .keras file has.")
            content = io.BytesIO(archive.read(_WEIGHTS))
    try:
        file = h5py.File(content, "r")
    except OSError as error:
        raise ValueError(f"{str(path)!r} is not a file that Keras saves: {error}.") from error
    with file:
        group = file.get("optimizer/vars")
        if group is None or not len(group):
            raise ValueError(f"{str(path)!r} holds no optimizer's state.")
        before = optimizer.load_report
        optimizer.load_own_variables(group)
    report = optimizer.load_report
    if report is None or report is before or not report.restored:
        raise ValueError(
            f"{str(path)!r} does not hold the state of an RMSprop of these variables. Nothing has "
            "changed."
        )
    return report
