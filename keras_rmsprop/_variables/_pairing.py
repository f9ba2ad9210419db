"""Match saved variables to the optimizer's.

State is matched by position, as Keras loads weights: names that Keras generates (`dense_1`) count
the layers of a process and identify nothing. If the saved variables differ from the optimizer's,
the following decide in turn, each only where the match is unambiguous:

    names given by the user   the same on both sides, once
    layers of one shape       the only ones of their shapes on both sides, or all of one side
                              found among those of the other in order, in only one way

Variables that remain unmatched start fresh.
"""

import collections
import functools
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_rmsprop._private import to_snake_case

Shape = tuple[int, ...]


class Identity(NamedTuple):
    """What identifies a variable, apart from its values."""

    # None in files of Keras's own class.
    path: str | None
    # None for a variable without slots of its shape.
    shape: Shape | None


class Pairs(NamedTuple):
    """For each variable the position of its saved state, None if there is none."""

    sources: list[int | None]
    # The variables that were matched by name or by shape rather than by position.
    by_name: tuple[int, ...] = ()
    by_shape: tuple[int, ...] = ()


def path_of(variable: Any) -> str:
    """Return the path of a variable, or the name of a raw backend variable."""
    return str(getattr(variable, "path", None) or variable.name)


def numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of which no two are the same: numbers are appended to repeated ones."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        found.append(f"{name}#{seen[name]}" if seen[name] else name)
    return tuple(found)


def find_path(path: str, paths: Sequence[str]) -> int | None:
    """Return the position of `path`, with or without the model's name, if it is unique."""
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
        """Whether shapes and names allow that a saved variable is this one."""
        differ = given_left[i] and given_right[j] and left[i] != right[j]
        return _fit(saved[i], here[j]) and not differ

    by_name = []
    for path, j in once_right.items():
        i = once_left.get(path)
        if i is not None and given_right[j] and _fit(saved[i], here[j]):
            sources[j] = i
            by_name.append(j)
    # With equal numbers of variables, a new head is in the position of the old one.
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
    """Return the positions of the paths that occur once."""
    counts = collections.Counter(paths)
    return {path: i for i, path in enumerate(paths) if counts[path] == 1}


def _leaf(path: str) -> str:
    """Return the variable's name within its layer, such as `kernel`; empty without a layer."""
    _, slash, leaf = path.rpartition("/")
    return leaf if slash else ""


def _layers(paths: Sequence[str], positions: Sequence[int]) -> list[tuple[int, ...]]:
    """Group adjacent positions that belong to the same layer."""
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
    """Pair layers where this is unambiguous; return the pairs of their variables.

    Args:
        saved: the saved layers, as the positions of their variables.
        here: the optimizer's layers, likewise.
        may_be: whether a saved variable can be one of the optimizer's.
        kinds: for each side, a key of a variable that must be equal for that.
    """

    @functools.cache
    def alike(a: int, b: int) -> bool:
        return kinds_saved[a] == kinds_here[b] and all(map(may_be, saved[a], here[b]))

    # Compare only layers of equal shapes: there can be thousands of layers.
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
    """Return the only item, or None if there is not exactly one."""
    first, second = next(found, None), next(found, None)
    return first if second is None else None


def _only_embedding(
    saved: Sequence[int], here: Sequence[int], alike: Callable[[int, int], bool]
) -> dict[int, int]:
    """Embed the shorter side in the longer, in order; empty unless there is only one way."""
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
    """Whether the names in a path were chosen by a user rather than generated by Keras."""
    # The last part is the variable's name within its layer, the same in every process.
    *layers, leaf = path.split("/")
    return all(without_number(name) not in made_up for name in layers or [leaf])


def without_number(name: str) -> str:
    """Return a name without the number that Keras gives to the second of its kind."""
    return re.sub(r"_\d+$", "", name)


def _class_names() -> set[str]:
    """Return the names that Keras generates from classes, without their numbers."""
    names, classes = {"variable"}, [keras.layers.Layer]
    while classes:
        each = classes.pop()
        names.add(to_snake_case(each.__name__))
        classes += each.__subclasses__()
    return names


def most_common_terms(
    saved: tuple[str, ...], here: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return both sides' paths, without the models' names if more of them agree that way."""
    return max(_in_common_terms(saved, here), key=lambda terms: len(set(terms[0]) & set(terms[1])))


def _in_common_terms(
    saved: tuple[str, ...], here: tuple[str, ...]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the paths as they are, and without the model's name, which loading may remove."""
    shorter = without_prefix(saved), without_prefix(here)
    terms = [(saved, here), (shorter[0], here), (saved, shorter[1])]
    # If a path would have no layer left, the prefix is a layer's name, not the model's.
    if all("/" in path for side in shorter for path in side):
        terms.append(shorter)
    return terms


def without_prefix(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Remove the first part of the paths if they all share it."""
    parts = [path.partition("/") for path in paths]
    if len({first for first, _, _ in parts}) == 1 and all(rest for _, _, rest in parts):
        return tuple(rest for _, _, rest in parts)
    return paths
