"""Carry a training over from a checkpoint of `tf.compat.v1.train.RMSPropOptimizer`, and back.

    variables = {"dense/kernel": model.layers[0].kernel, "dense/bias": model.layers[0].bias}
    interop.tf1.load_weights("model.ckpt-1000", variables)
    optimizer = keras_rmsprop.conventions.tf1(1e-3, decay=0.9, momentum=0.9, epsilon=1.0)
    optimizer.build(model.trainable_variables)
    interop.tf1.load(optimizer, "model.ckpt-1000", variables)
    interop.tf1.save(optimizer, "back.ckpt", variables)              # and back

For a variable `w` and an optimizer named "RMSProp", a checkpoint holds the average of squares as
`w/RMSProp` and the momentum buffer as `w/RMSProp_1`; if centered, `w/RMSProp_1` is the average
gradient and `w/RMSProp_2` the buffer. If `minimize` was called in a variable scope, these names
begin with it. A checkpoint does not hold the settings or the learning rate. The number of steps is
its `global_step`, if it has one. Reading and writing need TensorFlow, under any backend.
"""

import errno
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmsprop import _state
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._state import LoadReport
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop import _carry, _writing
from keras_rmsprop.interop._pairs import MisfitError, Pair, Pairing, linked, listed, shortened
from keras_rmsprop.interop._source import Array, Settings, Slots, Source, as_array, dtype_of

__all__ = ["Pair", "load", "load_weights", "save"]

_GLOBAL_STEP = "global_step"
_FRAMEWORK = "tf.compat.v1.train.RMSPropOptimizer"


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
            tuples with conversions (see `Pair`). Variables that have no slots, such as the
            averages of a batch normalization, may be among them. Default None: variables of the
            same names.
        name: the TF1 optimizer's name, which its slots have. Default "RMSProp".
        steps: the number of steps made. Default None: the checkpoint's `global_step`; the
            optimizer's count stays if there is none.
        exact: whether to refuse a load that leaves out a variable, or after which the steps would
            not be TF1's, as far as it is known: they are centered or not as the slots show, with
            epsilon under the root and without Nesterov momentum. Default True.

    Returns: the `load_report`.
    Raises: ValueError if the checkpoint cannot be read or something does not fit; the optimizer is
        unchanged then.
    """
    return _carry.load(optimizer, read(checkpoint, name, steps), _named(pairs), exact=exact)


def load_weights(
    checkpoint: str | os.PathLike[str], pairs: Mapping[str, Any] | Sequence[Pair]
) -> None:
    """Assign the variables in a checkpoint to Keras variables, all or none.

    Args:
        checkpoint: as for `load`.
        pairs: a mapping from TF1's names to Keras variables, or tuples with conversions.

    Raises: ValueError if a variable is missing or does not fit; nothing has changed then.
    """
    reader = _opened(checkpoint)
    names = sorted(reader.get_variable_to_shape_map())
    variables = [_variable_in(entry) for entry in _entries(pairs)]
    for variable in variables:
        _writing.check_variable(variable)
    missing = [name for name in _names_in(pairs) if name not in names]
    if missing:
        raise ValueError(
            f"The checkpoint has no {shortened(missing)}; it has {shortened(names)}. Nothing has "
            "changed."
        )
    links = linked(pairs, names, variables, whole=False)
    values, misfits = [], []
    for position, pair in links.items():
        arrays = [_tensor(reader, name) for name in pair.names]
        try:
            value = pair.converted(arrays, tuple(variables[position].shape), weights=True)
        except MisfitError as error:
            misfits.append(str(error))
            continue
        values.append((variables[position], value))
    if misfits:
        raise ValueError(f"{'; '.join(misfits)}. Nothing has changed.")
    _writing.write(values)


def save(
    optimizer: RMSprop,
    checkpoint: str | os.PathLike[str],
    pairs: Pairing,
    *,
    name: str = "RMSProp",
    template: str | os.PathLike[str] | None = None,
    exact: bool = True,
) -> str:
    """Write the variables and their state to a checkpoint that TF1's `Saver` restores.

    Args:
        optimizer: a built `keras_rmsprop.RMSprop`.
        checkpoint: the path to write to, whose folder exists.
        pairs: as for `load`, but with a name for every variable. Variables that the optimizer does
            not have are written as they are.
        name: the TF1 optimizer's name. Default "RMSProp".
        template: None, or a checkpoint of the graph that is to restore this one. What it has in
            addition is copied, the names of its slots are kept, and its dtypes. Default None.
        exact: whether to refuse a state that TF1's optimizer cannot go on with exactly: with
            epsilon outside the root, a scheduled rate outside the buffer, bias correction, Nesterov
            momentum, decoupled decay, ascent, or different rates. (`l2` belongs into the loss
            there, and clipping before `apply_gradients`.) Default True.

    Returns: the path.
    Raises: ValueError if something does not fit; nothing is written then. OSError if the files
        cannot be written, as on a full disk; those of before stay.
    """
    optimizer = _carry.built(optimizer)
    path = Path(checkpoint)
    if not path.parent.is_dir():
        raise ValueError(f"There is no folder {str(path.parent)!r} to write to.")
    weights = optimizer._roster.weights
    pairs = {_pairing.path_of(v): v for v in weights} if pairs is None else _named(pairs)
    own, further = _split(pairs, weights)
    names = _names_in(own)
    # Its numbers are the same for all variables.
    shared = ("momentum", "centered", "rho", "epsilon")
    settings = {**_KNOWN, **_REFUSED, **{key: getattr(optimizer, key) for key in shared}}
    kept = {} if template is None else _everything(template)
    stems = _stems(kept, name)
    # Slots have the dtype of their variable, unless the template says otherwise.
    dtypes = {
        owner: dtype_of(weights[position], kept.get(f"{stems.get(owner, owner)}/{name}"))
        for position, pair in linked(own, names, weights, whole=exact).items()
        for owner in pair.names
    }
    target = Source(
        _FRAMEWORK,
        {},
        settings=dict.fromkeys(names, settings),
        dtypes=dtypes,
        names=tuple(names),
    )
    slots, steps, *_ = _carry.unload(optimizer, target, own, exact=exact)
    written: dict[str, Array] = {_GLOBAL_STEP: np.asarray(steps, np.int64)}
    for position, pair in linked(own, names, weights, whole=exact).items():
        written |= _weights_of(weights[position], pair)
        for owner in pair.names:
            if owner in slots:
                dtype = written[owner].dtype
                written |= _slots_of(slots[owner], stems.get(owner, owner), name, dtype)
    variables = [_variable_in(entry) for entry in _entries(further)]
    for position, pair in linked(further, _names_in(further), variables).items():
        written |= _weights_of(variables[position], pair)
    _write(path, kept | {key: _fitting(key, value, kept) for key, value in written.items()})
    return str(path)


# What the steps of TF1's optimizer are, and what they are not.
_KNOWN: Settings = {"epsilon_inside_sqrt": True, "lr_in_momentum": True, "nesterov": False}
_REFUSED: Settings = {"weight_decay": None, "maximize": False}


def read(
    checkpoint: str | os.PathLike[str], name: str = "RMSProp", steps: int | None = None
) -> Source:
    """Read the slots in a checkpoint."""
    reader = _opened(checkpoint)
    keys = reader.get_variable_to_shape_map()
    stems = _stems(keys, name)
    if not stems:
        others = sorted(key for key in keys if "/" in key)
        raise ValueError(
            f"The checkpoint has no slots of an optimizer named {name!r}. It has "
            f"{shortened(others)}. Pass `name`."
        )
    found: dict[str, Slots] = {}
    settings: dict[str, dict[str, Any]] = {}
    dtypes: dict[str, str] = {}
    for owner, stem in stems.items():
        held = [_tensor(reader, key) for key in _keys(stem, name) if key in keys]
        dtypes[owner] = dtype_of(*held)
        arrays = list(map(as_array, held))
        centered = len(arrays) == 3
        found[owner] = Slots(
            arrays[0], arrays[1] if centered else None, arrays[-1] if len(arrays) > 1 else None
        )
        settings[owner] = {**_KNOWN, "centered": centered}
        if len(arrays) == 1:
            settings[owner]["momentum"] = 0.0
    if steps is None and _GLOBAL_STEP in keys:
        steps = int(_tensor(reader, _GLOBAL_STEP))
    return Source(_FRAMEWORK, found, steps, settings=settings, dtypes=dtypes, names=tuple(stems))


def _keys(stem: str, name: str) -> list[str]:
    return [f"{stem}/{name}", f"{stem}/{name}_1", f"{stem}/{name}_2"]


def _stems(keys: Collection[str], name: str) -> dict[str, str]:
    """Return, for each variable with slots, what their names begin with.

    That is the variable's name, or it ends with it: a variable scope may come before.

    Raises: ValueError if two optimizers of one name have slots for a variable.
    """
    found: dict[str, str] = {}
    for key in sorted(keys):
        stem = key.removesuffix(f"/{name}")
        if stem == key:
            continue
        parts = stem.split("/")
        endings = ["/".join(parts[i:]) for i in range(len(parts))]
        owner = next((ending for ending in endings if ending in keys), stem)
        if owner in found or f"{stem}/{name}_3" in keys:
            raise ValueError(
                f"The checkpoint has slots of two optimizers named {name!r} for {owner!r}, which "
                "cannot be told apart."
            )
        found[owner] = stem
    return found


def _opened(checkpoint: str | os.PathLike[str]) -> Any:
    import tensorflow as tf

    if not isinstance(checkpoint, str | os.PathLike):
        raise ValueError(
            "`checkpoint` must be the path of a checkpoint, received one of "
            f"{type(checkpoint).__module__}.{type(checkpoint).__qualname__}."
        )
    path = os.fspath(checkpoint)
    bare = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path)
    # TensorFlow opens the index as a checkpoint of an older kind, in which nothing is found.
    if bare != path and Path(f"{bare}.index").exists():
        raise ValueError(f"{path!r} is one file of a checkpoint. Pass the path {bare!r}.")
    try:
        return tf.train.load_checkpoint(path)
    except (ValueError, tf.errors.OpError) as error:
        raise ValueError(
            f"{path!r} is not a checkpoint of TensorFlow. Pass its path without "
            f'".index" or ".data-...". ({str(error).splitlines()[0]})'
        ) from error


def _tensor(reader: Any, name: str) -> Array:
    import tensorflow as tf

    try:
        return np.asarray(reader.get_tensor(name))
    except (tf.errors.OpError, IndexError) as error:  # the latter where the file ends early
        raise ValueError(
            f"The checkpoint is damaged: {name!r} cannot be read. Nothing has changed. "
            f"({str(error).splitlines()[0]})"
        ) from error


def _everything(checkpoint: str | os.PathLike[str]) -> dict[str, Array]:
    reader = _opened(checkpoint)
    return {name: _tensor(reader, name) for name in reader.get_variable_to_shape_map()}


def _named(pairs: Pairing) -> Pairing:
    """Refuse to pair by order: what a checkpoint holds has none."""
    if isinstance(pairs, str):
        raise ValueError(
            "A checkpoint has names and no order. Pass a mapping from its names to variables, "
            f"received {pairs!r}."
        )
    return pairs if pairs is None or isinstance(pairs, Mapping) else listed(pairs)


def _entries(pairs: Pairing) -> list[Any]:
    return list(pairs.values() if isinstance(pairs, Mapping) else _named(pairs) or ())


def _variable_in(entry: Any) -> Any:
    """Return the variable, or its path, in one of the pairs."""
    if isinstance(entry, Pair):
        return entry.variable
    return entry[0] if isinstance(entry, tuple) else entry


def _names_in(pairs: Pairing) -> list[str]:
    if isinstance(pairs, Mapping):
        own = [v.names if isinstance(v, Pair) else (key,) for key, v in pairs.items()]
        return [name for names in own for name in names]
    return [name for pair in _entries(pairs) for name in pair.names]


def _split(pairs: Pairing, weights: Sequence[Any]) -> tuple[Pairing, Pairing]:
    """Split pairs into those of an optimizer's variables and those of others."""
    ids = set(map(id, weights))

    def is_own(entry: Any) -> bool:
        variable = _variable_in(entry)
        return isinstance(variable, str) or id(variable) in ids

    if isinstance(pairs, Mapping):
        return (
            {key: entry for key, entry in pairs.items() if is_own(entry)},
            {key: entry for key, entry in pairs.items() if not is_own(entry)},
        )
    entries = _entries(pairs)
    return [e for e in entries if is_own(e)], [e for e in entries if not is_own(e)]


def _weights_of(variable: Any, pair: Pair) -> dict[str, Array]:
    """Return a variable's value by TF1's names."""
    return dict(zip(pair.names, pair.parts(_state.array_of(variable), weights=True), strict=True))


def _slots_of(slots: Slots, stem: str, name: str, dtype: Any) -> dict[str, Array]:
    """Return a variable's slots by TF1's names, in the variable's dtype, as TF1 has them."""
    buffer = slots.momentum
    if buffer is None:
        # TF1 has one even without momentum.
        buffer = np.zeros_like(slots.square_average)
    values = [slots.square_average, slots.gradient_average, buffer]
    present = [value.astype(dtype) for value in values if value is not None]
    return dict(zip(_keys(stem, name), present, strict=False))


def _fitting(key: str, value: Array, kept: Mapping[str, Array]) -> Array:
    """Return a value in the dtype of the template."""
    there = kept.get(key)
    if there is None:
        return value
    if there.shape != value.shape:
        raise ValueError(
            f"{key!r} has shape {value.shape}, and {there.shape} in the template. Nothing was "
            "written."
        )
    return value.astype(there.dtype)


def _write(path: Path, tensors: Mapping[str, Array]) -> None:
    import tensorflow as tf

    # A session of its own also works in programs that have switched eager execution off.
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        places = [tf.compat.v1.placeholder(v.dtype, v.shape) for v in tensors.values()]
        save_all = tf.raw_ops.SaveV2(
            prefix=str(path),
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=places,
        )
        try:
            session.run(save_all, dict(zip(places, tensors.values(), strict=True)))
        except tf.errors.OpError as error:
            raise _os_error(path, error.message) from error


def _os_error(path: Path, words: str) -> OSError:
    """Return Python's error for a file that TensorFlow could not write.

    Args:
        path: the file.
        words: TensorFlow's message, in which a line ends in the reason, after a semicolon.
    """
    found = re.search(r"; ([^;\n]+)$", words, re.MULTILINE)
    reason = "TensorFlow cannot write it" if found is None else found[1]
    numbers = {os.strerror(number): number for number in errno.errorcode}
    return OSError(numbers.get(reason, errno.EIO), reason, str(path))
