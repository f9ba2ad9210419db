"""Assign each variable to a group.

Patterns are matched as in `keras.optimizers.OptimizerMap`: an exact path takes precedence, and
other patterns must match a whole path. The variables of a loaded model have other paths, without
the names of outer models, so a config records the group of each variable.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_rmsprop._variables import _pairing
from keras_rmsprop._variables._pairing import Identity

# The config entry with the group of each variable; absent without groups.
KEY = "group_members"


class Members:
    """The groups of the built variables.

    A plain object, so that neither Keras nor TensorFlow tracks what it holds.
    """

    def __init__(self) -> None:
        # The config entry, if the optimizer was made from a config.
        self._saved: dict[str, Any] | None = None

    def await_build(self, config: Mapping[str, Any]) -> None:
        """Take the groups from a config entry, to be used by the build.

        Raises: ValueError if the entry does not have the form that `config` returns.
        """
        lists = [config.get(name) for name in ("paths", "shapes", "patterns")]
        if not all(isinstance(each, list | tuple) for each in lists) or (
            len({len(each) for each in lists}) != 1  # type: ignore[arg-type]
        ):
            raise ValueError(f"`{KEY}` of a config must hold three equally long lists: {config!r}.")
        self._saved = {name: config[name] for name in ("paths", "shapes", "patterns")}

    def config(self, patterns: Sequence[str], built: Sequence[Any], members: Sequence[int]) -> Any:
        """Return the config entry with the group of each variable, empty if there is none.

        Args:
            patterns: the patterns of the groups.
            built: the variables that the optimizer was built with, empty if it is not built.
            members: the group of each built variable.
        """
        if not patterns:
            return {}
        if not built:
            return {} if self._saved is None else {KEY: self._saved}
        return {
            KEY: {
                "paths": [_pairing.path_of(v) for v in built],
                "shapes": [list(v.shape) for v in built],
                "patterns": [patterns[i - 1] if i else None for i in members],
            }
        }

    def of(self, patterns: Sequence[str], variables: Sequence[Any]) -> tuple[int, ...]:
        """Return the group of each variable: 0 for none, else counted from 1 as in `patterns`.

        Raises:
            ValueError: if two patterns match one variable, or a pattern matches none.
        """
        if not patterns:
            return (0,) * len(variables)
        paths = [_pairing.path_of(v) for v in variables]
        saved = self._remembered(patterns, variables)
        unknown = [path for i, path in enumerate(paths) if i not in saved]
        found = _matched(patterns, unknown)
        members = tuple(saved[i] if i in saved else found[path] for i, path in enumerate(paths))
        for group, pattern in enumerate(patterns, 1):
            if group not in members:
                raise ValueError(_no_match(pattern, paths))
        return members

    def _remembered(self, patterns: Sequence[str], variables: Sequence[Any]) -> dict[int, int]:
        """Return the groups recorded in a config, by the position of the variable."""
        if self._saved is None:
            return {}
        paths, shapes, groups = (self._saved[name] for name in ("paths", "shapes", "patterns"))
        pairs = _pairing.pair(
            [Identity(path, tuple(shape)) for path, shape in zip(paths, shapes, strict=True)],
            [Identity(_pairing.path_of(v), tuple(v.shape)) for v in variables],
        )
        numbers: dict[str | None, int] = {None: 0}
        numbers |= {pattern: i for i, pattern in enumerate(patterns, 1)}
        return {
            here: numbers[groups[source]]
            for here, source in enumerate(pairs.sources)
            if source is not None and groups[source] in numbers
        }


def _matched(patterns: Sequence[str], paths: Sequence[str]) -> dict[str, int]:
    """Return the group of each path.

    Raises: ValueError that names a path matched by two patterns.
    """
    matches = [_matches(pattern, paths) for pattern in patterns]
    groups = {}
    for path in paths:
        found = [i for i, matching in enumerate(matches) if path in matching]
        if path in patterns:
            found = [patterns.index(path)]
        if len(found) > 1:
            both = " and ".join(repr(patterns[i]) for i in found)
            raise ValueError(
                f"The variable {path!r} is matched by several patterns of `groups`: {both}. Make "
                "them exclude each other, or name the variable by its exact path, which wins."
            )
        groups[path] = found[0] + 1 if found else 0
    return groups


def _matches(pattern: str, paths: Sequence[str]) -> set[str]:
    """Return the paths that a pattern matches, with or without the model's name.

    All paths of a model start with its name, until the model is saved and loaded.
    """
    ways: list[Callable[[str], bool]] = [lambda path: bool(re.fullmatch(pattern, path))]
    firsts = {path.partition("/")[0] for path in paths}
    if len(firsts) == 1:
        ways.append(lambda path: bool(re.fullmatch(pattern, path.partition("/")[2])))
    rest = pattern.partition("/")[2]
    if rest.partition("/")[0] in firsts:
        ways.append(lambda path: bool(re.fullmatch(rest, path)))
    for way in ways:
        found = {path for path in paths if path == pattern or way(path)}
        if found:
            return found
    return set()


def _no_match(pattern: str, paths: Sequence[str]) -> str:
    words = re.sub(r"\W+", " ", pattern).split()
    near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.5)
    near += [
        p for p in paths if any(word in p for word in words if len(word) > 2) and p not in near
    ]
    near = near[:3] or list(paths[:3])
    more = f" and {len(paths) - len(near)} more" if len(paths) > len(near) else ""
    return (
        f"The pattern {pattern!r} of `groups` matches none of the optimizer's variables. It must "
        f"match a whole path, such as {', '.join(map(repr, near))}{more}. Variables of frozen "
        "layers are not among them; pass those with `groups` once they train."
    )
