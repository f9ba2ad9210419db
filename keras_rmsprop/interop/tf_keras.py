"""Carry a training over from tf_keras's RMSprop, new or legacy, and back.

    optimizer = interop.like(old_model.optimizer, model.trainable_variables)
    interop.tf_keras.assign(optimizer, old_model.optimizer)          # and back

`tf_keras.optimizers.legacy.RMSprop` has two rules: without momentum epsilon is outside the root,
with momentum it is under it. `interop.like` gives the one in use.
"""

from typing import Any

from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop.interop import _carry, _live
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
    return _carry.load(optimizer, read(source), pairs, exact=exact)


def assign(optimizer: RMSprop, target: Any, pairs: Pairing = None, *, exact: bool = True) -> None:
    """Assign the state to a tf_keras optimizer, all of it or nothing.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        target: a tf_keras optimizer, new or legacy, that has made a step or was built.
        pairs: as for `load`.
        exact: as for `load`.

    Raises: as `load`; `target` is unchanged then.
    """
    source = read(target)
    slots = _carry.unload(optimizer, source, pairs, exact=exact)
    _held(target).write(slots, _carry.steps_of(optimizer), _carry.rate_of(optimizer, 0))


def is_legacy(source: Any) -> bool:
    """Whether an optimizer is one of `tf_keras.optimizers.legacy`."""
    return hasattr(source, "get_slot_names")


def read(source: Any) -> Source:
    """Read a live optimizer."""
    if not _live.is_of(source, "tf_keras.RMSprop"):
        raise ValueError(
            "`source` must be an RMSprop of tf_keras, received one of "
            f"{type(source).__module__}.{type(source).__qualname__}."
        )
    held = _held(source)
    if not held.slots["square_average"]:
        raise ValueError(
            "The tf_keras optimizer has no state. Build it, or make a step, before carrying it "
            "over."
        )
    config = source.get_config()
    settings = _live.settings_in(config)
    rate = None
    if is_legacy(source):
        settings["epsilon_inside_sqrt"] = settings["momentum"] > 0.0
        settings |= {name: getattr(source, name, None) for name in _CLIPS}
        rate = _rate_of_legacy(source)
        held = held._replace(rate=None if rate is not None else held.rate)
        return held.source("tf_keras.optimizers.legacy.RMSprop", settings, rate)
    if held.rate is None:
        rate = float(source._learning_rate(source.iterations))
    return held.source("tf_keras.optimizers.RMSprop", settings, rate)


_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


def _rate_of_legacy(source: Any) -> float | None:
    """Return the rate of the next step where it is not what its variable holds."""
    rate = source._get_hyper("learning_rate")
    count = source.iterations
    decay = float(source._initial_decay)
    if callable(rate) and not hasattr(rate, "assign"):
        try:
            rate = rate(count)
        except TypeError:  # a callable without arguments
            rate = rate()
    elif not decay:
        return None
    return float(rate) / (1.0 + decay * float(count))


def _held(source: Any) -> _live.Held:
    if is_legacy(source):
        kinds = {"square_average": "rms", "gradient_average": "mg", "momentum": "momentum"}
        slots = {kind: _legacy_slots(source, name) for kind, name in kinds.items()}
        rate = source._get_hyper("learning_rate")
    else:
        lists = {
            "square_average": getattr(source, "_velocities", ()),
            "gradient_average": getattr(source, "_average_gradients", ()),
            "momentum": getattr(source, "_momentums", ()),
        }
        # Such as "velocity/dense/kernel:0".
        names = [_bare(v.name).partition("/")[2] for v in lists["square_average"]]
        names = _live.numbered(names)
        slots = {kind: dict(zip(names, own, strict=False)) for kind, own in lists.items()}
        rate = source._learning_rate
    return _live.Held(slots, source.iterations, rate if hasattr(rate, "assign") else None)


def _legacy_slots(source: Any, slot: str) -> dict[str, Any]:
    """Return the variables of one kind of slot, whose names end with it: "dense/kernel/rms:0"."""
    found = [v for v in source.weights[1:] if _bare(v.name).rpartition("/")[2].startswith(slot)]
    names = _live.numbered([_bare(v.name).rpartition("/")[0] for v in found])
    return dict(zip(names, found, strict=True))


def _bare(name: str) -> str:
    return name.partition(":")[0]
