"""Files that hold a state of optax: arrays by their paths in it, such as "0/nu/dense/kernel".

These lines of JAX write one, and read one:

    leaves, tree = jax.tree_util.tree_flatten_with_path(opt_state)
    key = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    np.savez("state.npz", **{key(path): np.asarray(leaf) for path, leaf in leaves})

    leaves, tree = jax.tree_util.tree_flatten_with_path(transformation.init(params))
    arrays = np.load("state.npz")
    opt_state = jax.tree_util.tree_unflatten(tree, [arrays[key(path)] for path, _ in leaves])

Where the terms of optax need more digits than its dtype has, such as E[g²] for a variance, an array
in float64 is kept under "float64/" and the path, so that a float32 average comes back with the same
bytes, unless it is a variance of less than 1e-7 of E[g²]. Nothing of optax reads the array; it
counts only while that at the path is what it rounds to.

A path is taken apart as `keras_rmsprop.interop.optax` takes a state apart: what follows "nu", "mu"
or "trace" is the name of a parameter. Only NumPy is needed, neither JAX nor optax.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop._command_line import _map
from keras_rmsprop._command_line._form import Load, Options, Written, replacing
from keras_rmsprop._command_line._map import Entry
from keras_rmsprop._command_line._program import Failure
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop.interop import Pair, _carry
from keras_rmsprop.interop._pairs import Pairing
from keras_rmsprop.interop._source import Array, Settings, Slots, Source, as_array

Arrays = Mapping[str, Array]


def read(path: Path, options: Options) -> Load:
    """Read a file; return what loads its state into an optimizer."""
    arrays = _arrays_in(path)
    source = source_of(_with_all_digits(arrays), path)
    accumulates = any(key.rpartition("/")[2] == "mini_step" for key in arrays)

    def load(optimizer: RMSprop, entries: Mapping[str, Entry] | None) -> None:
        if accumulates and options.exact and not optimizer.gradient_accumulation_steps:
            raise Failure(
                f"{path} holds a state of MultiSteps: the optimizer of the model must have "
                "gradient_accumulation_steps, as many as the every_k_schedule there. Or pass "
                "--inexact."
            )
        _carry.load(optimizer, source, _pairing(entries, source, optimizer), exact=options.exact)

    return load


def _pairing(entries: Mapping[str, Entry] | None, source: Source, optimizer: RMSprop) -> Pairing:
    if entries is not None:
        return _map.pairs_of(entries, optimizer)
    weights = optimizer._roster.weights
    if all(name.isdecimal() or not name for name in source.names):
        # The parameters are a list, in the order of the variables, or a single one.
        positions = {name: int(name or 0) for name in source.names}
        if max(positions.values()) < len(weights):
            return [Pair((name,), weights[i]) for name, i in positions.items()]
    return None


def _arrays_in(path: Path) -> dict[str, Array]:
    refusal = f"{path} is not a file that numpy.savez writes, with arrays of numbers"
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise Failure(f"{refusal}: it holds one array.")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        # Among them arrays of objects, which would be unpickled, and that runs code.
        raise Failure(f"{refusal}: {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            kind = getattr(array, "dtype", "unknown")
            raise Failure(
                f"{path} holds numbers that NumPy does not know, of dtype {kind} in {name!r}; "
                "write them as float32."
            )
    return arrays


# Before the paths of arrays with all their digits.
_WIDE = "float64/"


def _with_all_digits(arrays: Arrays) -> Arrays:
    """Return the arrays of a state, in float64 where those have been kept."""
    found = {}
    for key, array in arrays.items():
        if not key.startswith(_WIDE):
            wide = arrays.get(f"{_WIDE}{key}")
            is_current = wide is not None and np.array_equal(
                wide.astype(array.dtype), array, equal_nan=True
            )
            found[key] = wide if wide is not None and is_current else array
    return found


def _digits_lost(arrays: Arrays, wide: Arrays) -> dict[str, Array]:
    """Return the float64 arrays that are not what they were rounded to."""
    return {
        f"{_WIDE}{k}": wide[k]
        for k, x in arrays.items()
        if not np.array_equal(wide[k], x, equal_nan=True)
    }


class _Leaf(NamedTuple):
    # The path of the state that has the field, and that of the parameter below it.
    state: tuple[str, ...]
    field: str
    name: str
    array: Array


_SLOTS = ("nu", "mu", "trace")
# What is kept beside the state, and may have fields of the same names below it.
_ASIDE = ("hyperparams", "hyperparams_states", "acc_grads", "skip_state")
_COUNTS = ("count", "mini_step", "gradient_step")
# Beside "nu", what only the state of another optimizer has.
_OF_AMSGRAD = "nu_max"


def source_of(arrays: Arrays, path: Path) -> Source:
    """Return the state in arrays by their paths.

    Raises: Failure if there is none of RMSprop.
    """
    leaves = [leaf for key, array in arrays.items() if (leaf := _leaf(key, array)) is not None]
    by_field = {field: _by_name(leaves, field, path) for field in _SLOTS}
    if not by_field["nu"]:
        raise Failure(
            f'{path} holds no state of optax.rmsprop: no key such as "0/nu/dense/kernel", but '
            f"{', '.join(map(repr, list(arrays)[:4])) or 'no key at all'}."
        )
    if any(leaf.field == _OF_AMSGRAD for leaf in leaves):
        raise Failure(f"{path} holds a state of optax.amsgrad.")
    _check_counts(leaves, path)
    begun = _counts(leaves, "mini_step")
    if any(begun):
        raise Failure(
            f"{path} holds {max(begun)} accumulated gradients, which would be lost; write it after "
            "the call that completes the step."
        )
    slots = {
        name: Slots(
            as_array(square), _optional(by_field["mu"].get(name)), _negated(by_field["trace"], name)
        )
        for name, square in by_field["nu"].items()
    }
    averages = {leaf.state for leaf in leaves if leaf.field == "nu"}
    corrected = _counts([leaf for leaf in leaves if leaf.state in averages], "count")
    counts = set(corrected or [*_counts(leaves, "count"), *_counts(leaves, "gradient_step")])
    steps = counts.pop() if len(counts) == 1 else None
    return Source(
        "optax.rmsprop", slots, steps, bias_correction=bool(corrected), names=tuple(slots)
    )


def _leaf(key: str, array: Array) -> _Leaf | None:
    """Take a path apart at the first field of a state; None for what is not needed."""
    parts = key.split("/")
    for i, part in enumerate(parts):
        if part in _ASIDE:
            return None
        # The labels of a multi_transform may be any words.
        if i and parts[i - 1] == "inner_states":
            continue
        if part in (*_SLOTS, *_COUNTS, _OF_AMSGRAD):
            return _Leaf(tuple(parts[:i]), part, "/".join(parts[i + 1 :]), array)
    return None


def _by_name(leaves: list[_Leaf], field: str, path: Path) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for leaf in leaves:
        if leaf.field == field:
            if leaf.name in found:
                raise Failure(f"{path} has two entries in {field!r} for {leaf.name!r}.")
            found[leaf.name] = leaf.array
    return found


def _check_counts(leaves: list[_Leaf], path: Path) -> None:
    for leaf in leaves:
        if leaf.field in _COUNTS and leaf.array.ndim == 0:
            count = float(leaf.array)
            if not (0.0 <= count < math.inf and count.is_integer()):
                key = "/".join((*leaf.state, leaf.field))
                raise Failure(f"{path}: {key!r} must be an integer >= 0, received {count:g}.")


def _counts(leaves: list[_Leaf], field: str) -> list[int]:
    return [int(leaf.array) for leaf in leaves if leaf.field == field and leaf.array.ndim == 0]


def _optional(array: Array | None) -> Array | None:
    return None if array is None else as_array(array)


def _negated(traces: Mapping[str, Array], name: str) -> Array | None:
    # optax subtracts the rate before its trace.
    return -as_array(traces[name]) if name in traces else None


def write(
    optimizer: RMSprop, path: Path, entries: Mapping[str, Entry] | None, options: Options
) -> Written:
    """Write the state as one of optax.

    It is that of `optax.rmsprop`, after clipping and `add_decayed_weights` where the optimizer
    clips or has `l2`.
    """
    pairs = _map.pairs_of(entries, optimizer)
    names = [name for pair in pairs.values() for name in pair.names]
    own = {**_carry.settings_of(optimizer, 0), **_FIXED}
    target = Source(
        "optax.rmsprop",
        {},
        settings=dict.fromkeys(names, own),
        bias_correction=bool(own["bias_correction"]),
        names=tuple(names),
    )
    before = _before(own)
    # In a chain with others, the state of optax.rmsprop has a place of its own.
    place = f"{len(before)}/" if before else ""
    moves = optimizer._rate().variable is None

    def arrays(*, wide: bool) -> tuple[Arrays, Mapping[str, Slots]]:
        slots, steps, *_ = _carry.unload(optimizer, target, pairs, exact=options.exact, wide=wide)
        own_arrays = _arrays(slots, own, steps, moves)
        return {f"{place}{key}": array for key, array in own_arrays.items()}, slots

    narrow, slots = arrays(wide=False)
    kept = _digits_lost(narrow, arrays(wide=True)[0])
    with replacing(path) as temporary, temporary.open("wb") as file:
        contents: dict[str, Any] = {**narrow, **kept}
        np.savez(file, **contents)
    rate = "schedule" if moves else f"{_carry.rate_of(optimizer, 0):.7g}"
    transformation = f"optax.rmsprop({rate}{_arguments(own)})"
    if before:
        transformation = f"optax.chain({', '.join([*before, transformation])})"
    return Written(tuple(slots), (f"The state is one of {transformation}.",))


# What optax.rmsprop does in one way only.
_FIXED: Settings = {
    "lr_in_momentum": True,
    "weight_decay": None,
    "maximize": False,
    "clipnorm": None,
}


def _before(own: Settings) -> list[str]:
    """Return the transformations before optax.rmsprop, none of which has a state."""
    calls = {
        "clipvalue": "clip",
        "global_clipnorm": "clip_by_global_norm",
        "l2": "add_decayed_weights",
    }
    return [f"optax.{call}({own[name]:.15g})" for name, call in calls.items() if own[name]]


def _arguments(own: Settings) -> str:
    """Return the arguments of optax.rmsprop that follow the rate."""
    words = f", decay={own['rho']:.15g}, eps={own['epsilon']:.15g}"
    words += "" if own["epsilon_inside_sqrt"] else ", eps_in_sqrt=False"
    words += ", centered=True" if own["centered"] else ""
    words += f", momentum={own['momentum']:.15g}" if own["momentum"] else ""
    words += ", nesterov=True" if own["nesterov"] else ""
    return words + (", bias_correction=True" if own["bias_correction"] else "")


def _arrays(slots: Mapping[str, Slots], own: Settings, steps: int, moves: bool) -> dict[str, Any]:
    """Return the leaves of a state of optax.rmsprop by their paths, in their order."""

    def key(*parts: str) -> str:
        # A parameter that is not in a container has no name.
        return "/".join(filter(None, parts))

    count = np.asarray(steps, np.int32)
    arrays: dict[str, Any] = {"0/count": count} if own["bias_correction"] else {}
    means = {n: s.gradient_average for n, s in slots.items() if s.gradient_average is not None}
    arrays |= {key("0/mu", name): mean for name, mean in means.items()}
    arrays |= {key("0/nu", name): slot.square_average for name, slot in slots.items()}
    arrays |= {"1/count": count} if moves else {}
    buffers = {n: s.momentum for n, s in slots.items() if s.momentum is not None}
    return arrays | {key("2/trace", name): -buffer for name, buffer in buffers.items()}
