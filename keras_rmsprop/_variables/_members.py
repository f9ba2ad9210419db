"""Assign each variable to a group.

Patterns are matched as in `keras.optimizers.OptimizerMap`: an exact path takes precedence, and
other patterns must match a whole path. The variables of a loaded model have other paths, without
the names of outer models, so a config records the group of each variable.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_rmsprop._variables import _pairing
from keras_rmsprop._variables._pairing import Identity
from keras_rmsprop._variables._patterns import problem_of
from keras_rmsprop._variables._roster import Roster

# The config entry with the group of each variable; absent without groups.
KEY = "group_members"
_ENTRIES = ("paths", "shapes", "patterns", "known")


class EarlierGroups(NamedTuple):
    """What is known of the groups of variables that are built again, or that were saved."""

    # For the positions of variables, the pattern of their group, None for those of none.
    found: Mapping[int, str | None]
    # The patterns that there were then.
    known: Sequence[str]

    @classmethod
    def of(
        cls, roster: Roster, patterns: Sequence[str], variables: Sequence[Any]
    ) -> "EarlierGroups | None":
        """Return the groups of variables in an earlier build, None without one.

        Args:
            roster: that of the earlier build, empty without one.
            patterns: the patterns of all groups; those that are new come last.
            variables: the variables to be built.
        """
        if not roster.weights:
            return None
        rates = roster.counters.rates
        known = patterns[: 0 if rates is None else rates.shape[0]]
        by_group = [None, *known]
        positions = {i: roster.position(v) for i, v in enumerate(variables)}
        found = {i: by_group[roster.members[p]] for i, p in positions.items() if p is not None}
        return cls(found, known)


class Members:
    """What a config says of the groups of variables, until `build` shows them.

    A plain object, so that neither Keras nor TensorFlow tracks what it holds.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def set_pending(self, config: Mapping[str, Any]) -> None:
        """Take the groups from a config entry, to be used by the build.

        Raises: ValueError if the entry does not have the form that `config` returns.
        """
        paths, shapes, patterns, known = (config.get(name) for name in _ENTRIES)
        lists = [paths, shapes, patterns, known]
        fits = all(isinstance(each, list | tuple) for each in lists)
        fits = fits and (
            len({len(each) for each in lists[:3]}) == 1  # type: ignore[arg-type]
            and all(isinstance(x, str) for x in (*paths, *known))  # type: ignore[misc]
            and all(x is None or x in known for x in patterns)  # type: ignore[union-attr, operator]
            and all(
                isinstance(shape, list | tuple) and all(isinstance(n, int) for n in shape)
                for shape in shapes  # type: ignore[union-attr]
            )
        )
        if not fits:
            raise ValueError(
                f"`{KEY}` of a config must hold the lists {', '.join(_ENTRIES)}, the first three "
                f"equally long, received {config!r:.200}."
            )
        self._pending = {name: config[name] for name in _ENTRIES}

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
            return {} if self._pending is None else {KEY: self._pending}
        return {
            KEY: {
                "paths": [_pairing.path_of(v) for v in built],
                "shapes": [list(v.shape) for v in built],
                "patterns": [patterns[i - 1] if i else None for i in members],
                "known": list(patterns),
            }
        }

    def of(
        self, patterns: Sequence[str], variables: Sequence[Any], before: EarlierGroups | None
    ) -> tuple[int, ...]:
        """Return the group of each variable: 0 for none, from 1 on in the order of `patterns`.

        A variable whose group is known stays in it; only patterns that are new may claim it.

        Args:
            patterns: those of the groups.
            variables: the variables to be built.
            before: the groups of an earlier build, None before the first.

        Raises:
            ValueError: if two patterns match one variable, or a new pattern matches none.
        """
        if not patterns:
            return (0,) * len(variables)
        # Layers that were frozen when a loaded optimizer was built may come later.
        config = self._of_config(variables)
        if before is None:
            before = config
        else:
            known = [*before.known, *(p for p in config.known if p not in before.known)]
            before = EarlierGroups({**config.found, **before.found}, known)
        paths = [_pairing.path_of(v) for v in variables]
        matches = {pattern: matches_of(pattern, paths) for pattern in patterns}
        members = []
        for i, path in enumerate(paths):
            found = [
                pattern
                for pattern in patterns
                if path in matches[pattern] and not (i in before.found and pattern in before.known)
            ]
            remembered = before.found.get(i)
            if remembered is not None and remembered in patterns:
                found.append(remembered)
            exact = [pattern for pattern in found if matches[pattern].get(path)]
            if len(exact or found) > 1:
                raise ValueError(_several(path, exact or found))
            members.append(patterns.index((exact or found)[0]) + 1 if found else 0)
        for group, pattern in enumerate(patterns, 1):
            # The variables of a group may have been frozen since.
            if group not in members and pattern not in before.known:
                raise ValueError(_no_match(pattern, paths))
        return tuple(members)

    def _of_config(self, variables: Sequence[Any]) -> "EarlierGroups":
        if self._pending is None:
            return EarlierGroups({}, ())
        paths, shapes, groups, known = (self._pending[name] for name in _ENTRIES)
        pairs = _pairing.pair(
            [Identity(path, tuple(shape)) for path, shape in zip(paths, shapes, strict=True)],
            [Identity(_pairing.path_of(v), tuple(v.shape)) for v in variables],
        )
        sources = dict(enumerate(pairs.sources))
        # Positions decide only where paths do not, for the order may be another.
        if len(set(paths)) == len(paths):
            by_path = {path: source for source, path in enumerate(paths)}
            exact = {i: by_path.get(_pairing.path_of(v)) for i, v in enumerate(variables)}
            exact = {i: source for i, source in exact.items() if source is not None}
            taken = set(exact.values())
            sources = {i: None if s in taken else s for i, s in sources.items()} | exact
        found = {here: groups[s] for here, s in sources.items() if s is not None}
        return EarlierGroups(found, known)


def _several(path: str, patterns: Sequence[str]) -> str:
    both = " and ".join(map(repr, patterns))
    return (
        f"The variable {path!r} is matched by several patterns of `groups`: {both}. Make them "
        "exclude each other, or name the variable by its exact path, which wins."
    )


def matches_of(pattern: str, paths: Sequence[str]) -> dict[str, bool]:
    """Return the paths that a pattern matches, and whether it is the path itself.

    With or without the name of the model, which stands before all paths of its layers until it
    is saved and loaded.
    """
    firsts = {path.partition("/")[0] for path in paths if "/" in path}
    without_model = dict.fromkeys(paths, "")
    if len(firsts) == 1:
        without_model = {path: path.partition("/")[2] for path in paths}
    rest = pattern.partition("/")[2]
    whole = {path: path for path in paths}
    ways = [(pattern, whole), (pattern, without_model)]
    if rest.partition("/")[0] in firsts and problem_of(rest) is None:
        ways.append((rest, whole))
    for wanted, names in ways:
        found = {
            path: name == wanted
            for path, name in names.items()
            if name and (name == wanted or re.fullmatch(wanted, name))
        }
        if found:
            return found
    return {}


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
