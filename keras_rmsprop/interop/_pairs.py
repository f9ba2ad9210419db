"""Which parameters of another framework are which variables of a Keras model.

Names decide. Shapes are checked after the conversion of an array to Keras's layout, so that a
mistake is found before anything changes.
"""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop._source import Array, NotExactError, Source


def _same(array: Array) -> Array:
    return array


def _one(array: Array) -> tuple[Array, ...]:
    return (array,)


class Pair(NamedTuple):
    """One Keras variable, and the parameter, or the parameters, that it corresponds to.

    Attributes:
        names: the other framework's names.
        variable: the Keras variable, or its path.
        to_keras: takes an array for each name, of a parameter's shape, and returns one of the
            variable's shape. It must only move elements.
        to_source: the inverse; returns a tuple of arrays.
        rate: how many times the rate of each parameter the variable's must be. It is 2 for the
            bias of a Keras LSTM, which is the sum of two parameters of torch's that get the same
            gradient; otherwise 1.
        weight_to_keras: as `to_keras`, but for weights, where these are converted otherwise than
            slots: a sum of two weights has the slots of each. None if not.
        weight_to_source: likewise.
    """

    names: tuple[str, ...]
    variable: Any
    to_keras: Callable[..., Array] = _same
    to_source: Callable[[Array], tuple[Array, ...]] = _one
    rate: float = 1.0
    weight_to_keras: Callable[..., Array] | None = None
    weight_to_source: Callable[[Array], tuple[Array, ...]] | None = None

    @property
    def path(self) -> str:
        """The path of the variable."""
        return self.variable if isinstance(self.variable, str) else _pairing.path_of(self.variable)

    def converted(
        self, arrays: Sequence[Array], shape: tuple[int, ...], *, weights: bool = False
    ) -> Array:
        """Convert slots of a parameter, or its weights, to Keras's layout.

        Raises: MisfitError if the result does not have the variable's shape.
        """
        convert = (self.weight_to_keras if weights else None) or self.to_keras
        shapes = " and ".join(str(tuple(array.shape)) for array in arrays)
        try:
            array = np.asarray(convert(*arrays))
        except (ValueError, IndexError, TypeError) as error:
            raise MisfitError(
                f"{self.label} of shape {shapes} cannot be converted for {self.path!r} of shape "
                f"{shape}: {error}"
            ) from error
        if array.shape != shape:
            is_moved = len(arrays) > 1 or arrays[0].shape != array.shape
            converted = f", which is {array.shape} in Keras's layout," if is_moved else ""
            raise MisfitError(
                f"{self.label} has shape {shapes}{converted} but {self.path!r} has shape {shape}"
            )
        return array

    @property
    def label(self) -> str:
        """The names, as in a sentence."""
        return " and ".join(map(repr, self.names))

    def parts(self, array: Array, *, weights: bool = False) -> tuple[Array, ...]:
        """Convert an array of the variable to one for each name."""
        return ((self.weight_to_source if weights else None) or self.to_source)(array)


class MisfitError(ValueError):
    """A parameter whose shape is not that of the variable it is paired with."""


# What users may give: a mapping from the framework's names, pairs, or "order".
Pairing: TypeAlias = Mapping[str, Any] | Sequence[Pair] | str | None


def linked_to(
    source: Source, pairing: Pairing, weights: Sequence[Any], *, exact: bool
) -> dict[int, Pair]:
    """Find the pair of each variable of an optimizer that is to go on with a source's training.

    Raises: ValueError as `linked`; NotExactError if `exact` and a variable is trained whose
        partner is frozen.
    """
    links = linked(pairing, source.parameters, weights, whole=exact, still=source.still)
    for position, pair in links.items():
        is_frozen = source.frozen.issuperset(pair.names)
        if exact and is_frozen and getattr(weights[position], "trainable", True):
            raise NotExactError(
                f"{pair.label} is frozen there, and its partner {pair.path!r} is trained here. Set "
                "`trainable = False` of its layer, and build the optimizer with the model's "
                "trainable variables; or thaw it there; or pass exact=False."
            )
    return links


def linked(
    pairing: Pairing,
    names: Sequence[str],
    weights: Sequence[Any],
    *,
    whole: bool = True,
    still: Collection[str] = (),
) -> dict[int, Pair]:
    """Find the pair of each variable of an optimizer.

    Args:
        pairing: None, to pair equal names; "order", to pair the parameters with the variables in
            order; a mapping from the framework's names to variables or paths, or to tuples of one,
            the conversion of an array to its shape, and the inverse; or pairs.
        names: the framework's names of all its parameters, in order.
        weights: the optimizer's variables, in order.
        whole: whether every parameter and every variable must have a partner.
        still: those of the parameters that do not move. They need no partner, and theirs need not
            be one of the optimizer's variables; "order" may leave out all of them.

    Returns: for the positions of variables their pair.
    Raises: ValueError that names what has no partner, or has two.
    """
    paths = [_pairing.path_of(weight) for weight in weights]
    found: dict[int, Pair] = {}
    used: dict[str, str] = {}
    for pair in _pairs_of(pairing, names, paths, weights, still):
        position = _position(pair, paths, weights)
        absent = [name for name in pair.names if name not in names]
        moves = [name for name in pair.names if name not in still]
        is_misspelt = isinstance(pair.variable, str) and _hint(pair.path, paths)
        if not moves and position is None and not is_misspelt:
            continue
        if position is None and whole and len(absent) < len(pair.names):
            raise _unknown_variable(pair, paths)
        if absent and position is not None and (whole or len(absent) < len(pair.names)):
            raise _unknown_parameter(absent[0], names)
        if absent or position is None:
            # Of neither side, such as the mean of a batch normalization; or left out on purpose.
            continue
        if position in found:
            raise ValueError(
                f"{pair.label} and {found[position].label} are both paired with {pair.path!r}."
            )
        for name in pair.names:
            if name in used:
                raise ValueError(f"{name!r} is paired with {used[name]!r} and {pair.path!r}.")
            used[name] = pair.path
        found[position] = pair
    left = [name for name in names if name not in used and name not in still]
    alone = [path for i, path in enumerate(paths) if i not in found]
    if whole and (left or alone):
        raise ValueError(_unpaired(left, alone))
    return found


def _pairs_of(
    pairing: Pairing,
    names: Sequence[str],
    paths: Sequence[str],
    weights: Sequence[Any],
    still: Collection[str],
) -> list[Pair]:
    if pairing is None:
        return _by_name(names, paths, weights)
    if isinstance(pairing, str):
        moving = [name for name in names if name not in still]
        fits = len(names) != len(paths) and len(moving) == len(paths)
        return _in_order(pairing, moving if fits else names, paths, weights)
    return listed(pairing)


def listed(pairing: Any) -> list[Pair]:
    """Return the pairs in a mapping or a sequence, whose names must be given.

    Raises: ValueError if they are anything else.
    """
    if isinstance(pairing, Mapping):
        return [_as_pair(name, value) for name, value in pairing.items()]
    pairs = list(pairing) if isinstance(pairing, Sequence) else []
    if not isinstance(pairing, Sequence) or not all(isinstance(pair, Pair) for pair in pairs):
        raise ValueError(
            "`pairs` must be a mapping from names to variables, or pairs such as those of "
            f"`interop.torch.pairs`, received {pairing!r:.200}."
        )
    return pairs


def _by_name(names: Sequence[str], paths: Sequence[str], weights: Sequence[Any]) -> list[Pair]:
    left, right = _pairing.most_common_terms(tuple(names), tuple(paths))
    positions = {path: i for i, path in enumerate(right)}
    if len(positions) < len(right):
        raise ValueError(
            "Some variables have the same path, so names cannot tell them apart: "
            f'{shortened(paths)}. Pass `pairs`, or pairs="order".'
        )
    return [
        Pair((name,), weights[positions[term]])
        for name, term in zip(names, left, strict=True)
        if term in positions
    ]


def _in_order(
    word: str, names: Sequence[str], paths: Sequence[str], weights: Sequence[Any]
) -> list[Pair]:
    if word != "order":
        raise ValueError(
            "`pairs` must be None, a mapping from names to variables, pairs, or the word "
            f'"order", received {word!r}.'
        )
    if len(names) != len(paths):
        raise ValueError(
            f'pairs="order" needs as many parameters as variables, received {len(names)}: '
            f"{shortened(names)}, and {len(paths)}: {shortened(paths)}."
        )
    return [Pair((name,), weight) for name, weight in zip(names, weights, strict=True)]


def _as_pair(name: str, value: Any) -> Pair:
    if isinstance(value, Pair):
        return value
    if not isinstance(value, tuple):
        return Pair((name,), value)
    if len(value) != 3 or not callable(value[1]) or not callable(value[2]):
        raise ValueError(
            f"The partner of {name!r} must be a variable, its path, or a tuple of one, a function "
            f"that brings an array into its shape, and the inverse, received {value!r:.200}."
        )
    variable, to_keras, back = value
    return Pair((name,), variable, to_keras, lambda array: (back(array),))


def _position(pair: Pair, paths: Sequence[str], weights: Sequence[Any]) -> int | None:
    if isinstance(pair.variable, str):
        return _pairing.find_path(pair.variable, paths)
    same = (i for i, weight in enumerate(weights) if weight is pair.variable)
    return next(same, None)


def _unknown_variable(pair: Pair, paths: Sequence[str]) -> ValueError:
    if isinstance(pair.variable, str):
        return ValueError(
            f"{pair.label} is paired with {pair.path!r}, which is not a variable of the optimizer"
            f"{_hint(pair.path, paths)}; it has {shortened(paths)}."
        )
    # A variable is no spelling mistake.
    return ValueError(
        f"{pair.label} is paired with {pair.path!r}, which is not a variable of the optimizer; it "
        f"has {shortened(paths)}. Only a parameter that is frozen there, without state, can be "
        "left out exactly, and a state_dict does not show it before the first step. Give the "
        "optimizer this variable, too, or pass exact=False."
    )


def _unknown_parameter(name: str, names: Sequence[str]) -> ValueError:
    return ValueError(
        f"There is no parameter {name!r}{_hint(name, names)}; there are {shortened(names)}."
    )


def _unpaired(names: Sequence[str], paths: Sequence[str]) -> str:
    parts = []
    if names:
        parts.append(f"no variable is paired with {shortened(names)}")
    if paths:
        parts.append(f"no parameter is paired with {shortened(paths)}")
    return (
        f"The pairs are incomplete: {'; '.join(parts)}. Complete `pairs`, or pass exact=False to "
        "leave them out."
    )


def _hint(word: str, words: Sequence[str]) -> str:
    # With or without the model's name.
    close = difflib.get_close_matches(word, [*words, *(w.partition("/")[2] for w in words)], 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shortened(words: Sequence[str], limit: int = 8) -> str:
    """Return the first few of some names, and how many more there are."""
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(map(repr, words[:limit])) + more if words else "none"
