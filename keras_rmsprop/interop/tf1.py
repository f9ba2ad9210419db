"""Carry a training over from a checkpoint of `tf.compat.v1.train.RMSPropOptimizer`, and back.

    variables = {"dense/kernel": model.layers[0].kernel, "dense/bias": model.layers[0].bias}
    interop.tf1.load_weights("model.ckpt-1000", variables)
    optimizer = keras_rmsprop.conventions.tf1(1e-3, decay=0.9, momentum=0.9, epsilon=1.0)
    optimizer.build(model.trainable_variables)
    interop.tf1.load(optimizer, "model.ckpt-1000", variables)
    interop.tf1.save(optimizer, "back.ckpt", variables)              # and back

For a variable `w` and an optimizer named "RMSProp", a checkpoint holds the average of squares as
`w/RMSProp` and the momentum buffer as `w/RMSProp_1`; if centered, `w/RMSProp_1` is the average
gradient and `w/RMSProp_2` the buffer. It does not hold the settings or the learning rate. The
number of steps is its `global_step`, if it has one. Reading and writing need TensorFlow, under any
backend.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop import _carry
from keras_rmsprop.interop._pairs import Pair, Pairing, linked
from keras_rmsprop.interop._source import Slots, Source

__all__ = ["Pair", "load", "load_weights", "save"]

_GLOBAL_STEP = "global_step"


def load(
    optimizer: RMSprop,
    checkpoint: str | os.PathLike[str],
    pairs: Pairing = None,
    *,
    name: str = "RMSProp",
    steps: int | None = None,
    exact: bool = True,
) -> LoadReport:
    """Load the state in a checkpoint.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`, such as one of `conventions.tf1` with the
            settings of the training.
        checkpoint: the path of a checkpoint, without ".index"; or a folder, for its latest.
        pairs: a mapping from the names of TF1's variables to Keras variables or their paths, or
            tuples with conversions (see `Pair`). Default None: variables of the same names.
        name: the TF1 optimizer's name, which its slots have. Default "RMSProp".
        steps: the number of steps made. Default None: the checkpoint's `global_step`; the
            optimizer's count stays if there is none.
        exact: whether to refuse a load that leaves out a variable, or whose slots show that the
            steps were centered where these are not. Default True.

    Returns: the `load_report`.
    Raises: ValueError if the checkpoint cannot be read or something does not fit; the optimizer is
        unchanged then.
    """
    return _carry.load(optimizer, read(checkpoint, name, steps), pairs, exact=exact)


def load_weights(checkpoint: str | os.PathLike[str], pairs: Mapping[str, Any]) -> None:
    """Assign the variables in a checkpoint to Keras variables, all or none.

    Args:
        checkpoint: as for `load`.
        pairs: a mapping from TF1's names to Keras variables, or tuples with conversions.

    Raises: ValueError if a variable is missing or does not fit; nothing has changed then.
    """
    reader = _reader(checkpoint)
    variables = [value[0] if isinstance(value, tuple) else value for value in pairs.values()]
    links = linked(pairs, list(reader.get_variable_to_shape_map()), variables, whole=False)
    missing = [name for name in pairs if not reader.has_tensor(name)]
    if missing:
        raise ValueError(f"The checkpoint has no variable {missing[0]!r}. Nothing has changed.")
    values = [
        (variables[i], pair.converted([reader.get_tensor(*pair.names)], tuple(variables[i].shape)))
        for i, pair in links.items()
    ]
    for variable, value in values:
        variable.assign(np.array(value))


def save(
    optimizer: RMSprop,
    checkpoint: str | os.PathLike[str],
    pairs: Pairing,
    *,
    name: str = "RMSProp",
    exact: bool = True,
) -> str:
    """Write the variables and their state to a checkpoint that TF1's `Saver` restores.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        checkpoint: the path to write to, whose folder exists.
        pairs: as for `load`, but with a name for every variable.
        name: the TF1 optimizer's name. Default "RMSProp".
        exact: whether to refuse a state that TF1's optimizer cannot go on with exactly: with
            epsilon outside the root, the rate outside the buffer, bias correction, Nesterov
            momentum, decay or ascent. Default True.

    Returns: the path.
    Raises: ValueError if something does not fit; nothing is written then.
    """
    import tensorflow as tf

    _carry.check_built(optimizer)
    weights = optimizer._roster.weights
    names = list(pairs) if isinstance(pairs, Mapping) else [_pairing.path_of(v) for v in weights]
    settings = _FIXED | {key: getattr(optimizer, key) for key in ("momentum", "centered")}
    target = Source("TF1", {}, settings=dict.fromkeys(names, settings), names=tuple(names))
    slots = _carry.unload(optimizer, target, pairs, exact=exact)
    links = linked(pairs, names, weights, whole=exact)
    tensors: dict[str, Any] = {_GLOBAL_STEP: np.int64(_carry.steps_of(optimizer))}
    for position, pair in links.items():
        (own,) = pair.names
        weight = ops.convert_to_numpy(ops.convert_to_tensor(weights[position]))
        (tensors[own],) = pair.parts(weight, weights=True)
        # TF1 has a buffer even without momentum.
        buffer = slots[own].momentum
        buffer = np.zeros_like(slots[own].square_average) if buffer is None else buffer
        present = [slots[own].square_average, slots[own].gradient_average, buffer]
        values = [value for value in present if value is not None]
        tensors |= dict(zip(_slot_names(own, name), values, strict=False))
    path = str(Path(checkpoint))
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(np.array(value)) for value in tensors.values()],
    )
    return path


# What the steps of TF1's optimizer are, apart from its numbers.
_FIXED: dict[str, Any] = {
    "epsilon_inside_sqrt": True,
    "lr_in_momentum": True,
    "nesterov": False,
    "l2": 0.0,
    "weight_decay": None,
    "maximize": False,
}


def read(
    checkpoint: str | os.PathLike[str], name: str = "RMSProp", steps: int | None = None
) -> Source:
    """Read the slots in a checkpoint."""
    reader = _reader(checkpoint)
    shapes = reader.get_variable_to_shape_map()
    owners = sorted(key for key in shapes if _slot_names(key, name)[0] in shapes)
    if not owners:
        slots = sorted(key for key in shapes if "/" in key)[:8]
        raise ValueError(
            f"The checkpoint has no slots of an optimizer named {name!r}. It has "
            f"{', '.join(map(repr, slots)) or 'no variables'}. Pass `name`."
        )
    found = {}
    for owner in owners:
        rms, first, second = _slot_names(owner, name)
        arrays = [reader.get_tensor(key) for key in (rms, first, second) if key in shapes]
        centered = len(arrays) == 3
        found[owner] = Slots(
            arrays[0], arrays[1] if centered else None, arrays[-1] if len(arrays) > 1 else None
        )
    if steps is None and _GLOBAL_STEP in shapes:
        steps = int(reader.get_tensor(_GLOBAL_STEP))
    return Source("tf.compat.v1.train.RMSPropOptimizer", found, steps, names=tuple(owners))


def _slot_names(owner: str, name: str) -> list[str]:
    return [f"{owner}/{name}", f"{owner}/{name}_1", f"{owner}/{name}_2"]


def _reader(checkpoint: str | os.PathLike[str]) -> Any:
    import tensorflow as tf

    try:
        return tf.train.load_checkpoint(os.fspath(checkpoint))
    except (ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"{os.fspath(checkpoint)!r} is not a checkpoint of TensorFlow. Pass its path without "
            f'".index" or ".data-...". ({str(error).splitlines()[0]})'
        ) from error
