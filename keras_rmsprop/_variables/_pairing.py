"""Which of the saved variables is which of the optimizer's?

Weights are loaded by position, and so is state: names that Keras makes up (`dense_1`) count the
layers of a process and identify nothing. Where the variables are others than were saved, so that
positions alone cannot tell, these decide in turn, each only where it leaves no choice:

    names that were given     the same on both sides, once
    layers of one shape       the only ones of their shapes on both sides, or all of one side
                              found among those of the other in their order, in one way only

What remains is not the same variable, and starts afresh.
"""

import collections
import functools
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_rmsprop._private import to_snake_case

Shape = tuple[int, ...]


class Identity(NamedTuple):
    """What is known of a variable without knowing its values."""

    # None in files of Keras's own class.
    path: str | None
    # None for a variable without slots of its shape.
    shape: Shape | None


class Pairs(NamedTuple):
    """For each variable the position of its saved state, None where there is none."""

    sources: list[int | None]
    # The variables that were matched by name or by shape rather than by position.
    by_name: tuple[int, ...] = ()
    by_shape: tuple[int, ...] = ()


def path_of(variable: Any) -> str:
    """Return the path of a variable; a raw one of the backend's has only a name."""
    return str(getattr(variable, "path", None) or variable.name)


def find_path(path: str, paths: Sequence[str]) -> int | None:
    """The position of the only one of `paths` that is `path`, with or without the model's name."""
    for left, right in _in_common_terms((path,), tuple(paths)):
        found = [i for i, other in enumerate(right) if other == left[0]]
        if len(found) == 1:
            return found[0]
    return None


def pair(saved: Sequence[Identity], here: Sequence[Identity]) -> Pairs:
    """Find the saved state of each variable."""
    if len(saved) == len(here) and all(map(_fit, saved, here)):
        return Pairs(list(range(len(here))))
    sources: list[int | None] = [None] * len(here)
    if any(identity.path is None for identity in saved):
        if len(saved) <= len(here):
            sources[: len(saved)] = [
                i if _fit(saved[i], here[i]) else None for i in range(len(saved))
            ]
            return Pairs(sources)
        each = [[(i,) for i in range(len(side))] for side in (saved, here)]
        found = _aligned(
            *each,
            may_be=lambda i, j: _fit(saved[i], here[j]),
            kinds=(lambda i: saved[i].shape, lambda j: here[j].shape),
        )
        for i, j in found:
            sources[j] = i
        return Pairs(sources, by_shape=tuple(j for _, j in found))
    return _pair_named(saved, here, sources)


def _pair_named(
    saved: Sequence[Identity], here: Sequence[Identity], sources: list[int | None]
) -> Pairs:
    left, right = most_common_terms(
        tuple(str(identity.path) for identity in saved),
        tuple(str(identity.path) for identity in here),
    )
    made_up = _class_names()
    given_left = [_is_given(path, made_up) for path in left]
    given_right = [_is_given(path, made_up) for path in right]
    once_left, once_right = _once(left), _once(right)

    def may_be(i: int, j: int) -> bool:
        """Whether a saved variable may be one of these, as far as shapes and names tell."""
        differ = given_left[i] and given_right[j] and left[i] != right[j]
        return _fit(saved[i], here[j]) and not differ

    by_name = []
    for path, j in once_right.items():
        i = once_left.get(path)
        if i is not None and given_right[j] and _fit(saved[i], here[j]):
            sources[j] = i
            by_name.append(j)
    # Where the numbers are equal, a new head stands in the place of the old one.
    if len(saved) == len(here):
        taken = set(sources)
        for i in range(len(here)):
            if sources[i] is None and i not in taken and may_be(i, i):
                sources[i] = i
        by_name = [j for j in by_name if sources[j] != j]
        return Pairs(sources, by_name=tuple(by_name))
    taken = set(sources)
    layers_left = _layers(left, [i for i in range(len(saved)) if i not in taken])
    layers_right = _layers(right, [j for j in range(len(here)) if sources[j] is None])
    found = _aligned(
        layers_left,
        layers_right,
        may_be=may_be,
        kinds=(
            lambda i: (_leaf(left[i]), saved[i].shape),
            lambda j: (_leaf(right[j]), here[j].shape),
        ),
    )
    for i, j in found:
        sources[j] = i
    return Pairs(sources, tuple(by_name), tuple(j for _, j in found))


def _fit(saved: Identity, here: Identity) -> bool:
    return saved.shape is None or here.shape is None or saved.shape == here.shape


def _once(paths: Sequence[str]) -> dict[str, int]:
    """The positions of the paths that occur once."""
    counts = collections.Counter(paths)
    return {path: i for i, path in enumerate(paths) if counts[path] == 1}


def _leaf(path: str) -> str:
    """What a layer calls its variable: `kernel`; nothing for a variable without a layer."""
    _, slash, leaf = path.rpartition("/")
    return leaf if slash else ""


def _layers(paths: Sequence[str], positions: Sequence[int]) -> list[tuple[int, ...]]:
    """Those of the positions that stand beside each other and belong to one layer, together."""
    layers: list[list[int]] = []
    for position in positions:
        parent, slash, _ = paths[position].rpartition("/")
        before = layers[-1][-1] if layers else None
        if slash and before == position - 1 and paths[before].rpartition("/")[0] == parent:
            layers[-1].append(position)
        else:
            layers.append([position])
    return [tuple(layer) for layer in layers]


def _aligned(
    saved: Sequence[tuple[int, ...]],
    here: Sequence[tuple[int, ...]],
    *,
    may_be: Callable[[int, int], bool],
    kinds: tuple[Callable[[int], Hashable], Callable[[int], Hashable]],
) -> list[tuple[int, int]]:
    """Pair layers where there is one way only; returns the pairs of their variables.

    Args:
        saved: the layers of one side, as the positions of their variables.
        here: those of the other.
        may_be: whether one variable can be the other.
        kinds: for each side, what of a variable must be equal for that.
    """

    @functools.cache
    def alike(a: int, b: int) -> bool:
        return kinds_saved[a] == kinds_here[b] and all(map(may_be, saved[a], here[b]))

    # Layers of other shapes need not be looked at: there can be thousands.
    kinds_saved = [tuple(map(kinds[0], layer)) for layer in saved]
    kinds_here = [tuple(map(kinds[1], layer)) for layer in here]
    places_saved, places_here = _places(kinds_saved), _places(kinds_here)
    chosen = {}
    for b, kind in enumerate(kinds_here):
        a = _only(a for a in places_saved.get(kind, ()) if alike(a, b))
        if a is not None and _only(c for c in places_here[kind] if alike(a, c)) is not None:
            chosen[b] = a
    rest_saved = [a for a in range(len(saved)) if a not in chosen.values()]
    rest_here = [b for b in range(len(here)) if b not in chosen]
    chosen |= _only_embedding(rest_saved, rest_here, alike)
    return [pair for b, a in chosen.items() for pair in zip(saved[a], here[b], strict=True)]


def _places(kinds: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    places: dict[Hashable, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    return places


def _only(found: Iterator[int]) -> int | None:
    """The number that is found, None unless it is the only one."""
    first, second = next(found, None), next(found, None)
    return first if second is None else None


def _only_embedding(
    saved: Sequence[int], here: Sequence[int], alike: Callable[[int, int], bool]
) -> dict[int, int]:
    """Find all of the shorter side in the longer in order; nothing unless in one way only."""
    if len(saved) > len(here):
        flipped = _only_embedding(here, saved, lambda b, a: alike(a, b))
        return {b: a for a, b in flipped.items()}
    first = _leftmost(saved, here, alike)
    last = _leftmost(saved[::-1], here[::-1], alike)
    if first is None or last is None or first != last[::-1]:
        return {}
    return dict(zip(first, saved, strict=True))


def _leftmost(
    short: Sequence[int], long: Sequence[int], alike: Callable[[int, int], bool]
) -> list[int] | None:
    remaining = iter(long)
    found = [next((b for b in remaining if alike(a, b)), None) for a in short]
    return None if None in found else [b for b in found if b is not None]


def _is_given(path: str, made_up: set[str]) -> bool:
    """Whether somebody chose the names in a path, and not Keras."""
    # The last part is what the layer calls its variable: the same in each process.
    *layers, leaf = path.split("/")
    return all(re.sub(r"_\d+$", "", name) not in made_up for name in layers or [leaf])


def _class_names() -> set[str]:
    """The names that Keras makes up, without their numbers: those of classes."""
    names, classes = {"variable"}, [keras.layers.Layer]
    while classes:
        each = classes.pop()
        names.add(to_snake_case(each.__name__))
        classes += each.__subclasses__()
    return names


def most_common_terms(
    saved: tuple[str, ...], here: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Take paths to where most are known to both sides."""
    return max(_in_common_terms(saved, here), key=lambda terms: len(set(terms[0]) & set(terms[1])))


def _in_common_terms(
    saved: tuple[str, ...], here: tuple[str, ...]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Paths as they are, and without the model's name, which a loaded model takes off."""
    shorter = _without_prefix(saved), _without_prefix(here)
    terms = [(saved, here), (shorter[0], here), (saved, shorter[1])]
    # The variables of a single layer each: their prefix is its name, and not the model's.
    if all("/" in path for side in shorter for path in side):
        terms.append(shorter)
    return terms


def _without_prefix(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Take the first part off paths that all have in common."""
    parts = [path.partition("/") for path in paths]
    if len({first for first, _, _ in parts}) == 1 and all(rest for _, _, rest in parts):
        return tuple(rest for _, _, rest in parts)
    return paths
