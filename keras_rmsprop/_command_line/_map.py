"""MAP.json: which parameter of another framework is which Keras variable.

    {
      "fc1.weight": {"variable": "dense/kernel", "transform": "transpose"},
      "fc1.bias": "dense/bias"
    }

Transforms are of torch's layouts; see `keras_rmsprop.interop._torch_layers`. The two biases of an
LSTM or GRU in torch are given one variable, with the transform "lstm" or "gru".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from keras_rmsprop._command_line._program import Failure
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop import Pair, _torch_layers

# Pairs by the other framework's name, of the first parameter where there are two.
Pairs = Mapping[str, Pair]


class Entry(NamedTuple):
    """A parameter's partner."""

    variable: str
    transform: str = "none"


# The arguments of `Pair` that convert arrays, by transform and number of parameters. A depthwise
# convolution's depend on the variable.
_MOVES: dict[tuple[str, int], tuple[Any, ...]] = {
    ("none", 1): _torch_layers.SAME,
    ("transpose", 1): _torch_layers.TRANSPOSED,
    ("conv", 1): _torch_layers.CONV,
    ("gru", 1): _torch_layers.GRU_KERNEL,
    ("gru", 2): _torch_layers.GRU_BIAS,
    ("lstm", 2): (*_torch_layers.LSTM_BIAS, 2.0, *_torch_layers.LSTM_BIAS_WEIGHT),
}
TRANSFORMS = tuple(dict.fromkeys([*(transform for transform, _ in _MOVES), "depthwise"]))


def read(path: Path) -> dict[str, Entry]:
    """Read a map, in the order of the file.

    Raises: Failure if it is not one.
    """
    try:
        found = json.loads(path.read_text("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{path} is not JSON that maps names to variables: {error}.") from error
    if not isinstance(found, dict) or not found:
        raise Failure(f"{path} must map names of parameters to paths of Keras variables.")
    return {name: _entry(name, value, path) for name, value in found.items()}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"{repeated!r} occurs twice")
    return found


def _entry(name: str, value: Any, path: Path) -> Entry:
    given = {"variable": value} if isinstance(value, str) else value
    if (
        not isinstance(given, dict)
        or not given.keys() <= set(Entry._fields)
        or not isinstance(given.get("variable"), str)
    ):
        raise Failure(
            f"The entry of {name!r} in {path} must be the path of a variable, or have "
            f'"variable" and "transform", received {value!r:.200}.'
        )
    entry = Entry(**given)
    if entry.transform not in TRANSFORMS:
        raise Failure(
            f"The transform of {name!r} in {path} must be one of {', '.join(TRANSFORMS)}, received "
            f"{entry.transform!r}."
        )
    return entry


def pairs_of(entries: Mapping[str, Entry] | None, optimizer: RMSprop) -> Pairs:
    """Return pairs for the variables of a built optimizer.

    Args:
        entries: from `read`; None for variables that have the same names.
        optimizer: the optimizer.

    Raises: Failure if parameters cannot be combined.
    """
    weights = optimizer._roster.weights
    if entries is None:
        return {
            _pairing.path_of(weight): Pair((_pairing.path_of(weight),), weight)
            for weight in weights
        }
    names: dict[str, list[str]] = {}
    for name, entry in entries.items():
        names.setdefault(entry.variable, []).append(name)
    paths = [_pairing.path_of(weight) for weight in weights]
    found = {}
    for path, own in names.items():
        position = _pairing.find_path(path, paths)
        variable = path if position is None else weights[position]
        moves = _moves([entries[name].transform for name in own], own, path, variable)
        found[own[0]] = Pair(tuple(own), variable, *moves)
    return found


def _moves(transforms: list[str], names: list[str], path: str, variable: Any) -> tuple[Any, ...]:
    """Return the conversions of the parameters that are mapped to one variable."""
    transform = transforms[0]
    if transform == "depthwise" and len(names) == 1:
        if isinstance(variable, str) or len(variable.shape) < 3:
            return _torch_layers.SAME  # It will be refused for its name or its shape.
        return _torch_layers._depthwise(variable.shape[-2])
    moves = _MOVES.get((transform, len(names)))
    if moves is None or len(set(transforms)) > 1:
        given = ", ".join(f"{n!r} ({t})" for n, t in zip(names, transforms, strict=True))
        raise Failure(
            f"{path!r} is the partner of {given}; a variable has one, or the two biases of a GRU "
            "or an LSTM, both with the transform gru or lstm."
        )
    return moves
