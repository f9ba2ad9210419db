"""The variables excluded from weight decay, in a form that can be saved.

Keras identifies an excluded variable by its object's id, which is useless in a saved model. Here it
is identified by its position among the built variables, or by its path.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_rmsprop._variables import _pairing
from keras_rmsprop._variables._patterns import problem_of

# The config entry with the exclusions; absent if there are none.
KEY = "exclude_from_weight_decay"


def check_patterns(names: Sequence[str]) -> None:
    """Check that name patterns are valid regular expressions.

    Raises: ValueError that names the first invalid one.
    """
    for name in names:
        problem = problem_of(name)
        if problem is not None:
            raise ValueError(
                "`var_names` must be regular expressions (a plain part of a name is one), "
                f"received {name!r}: {problem}."
            )


class Exclusions:
    """The arguments of the last `exclude_from_weight_decay` call.

    A plain object, so that neither Keras nor TensorFlow tracks the variables that it holds.
    """

    def __init__(self) -> None:
        self.variables: list[Any] = []
        self.names: list[str] = []
        # The config entry, until `build` provides the variables that it refers to.
        self._pending: dict[str, Any] | None = None

    def set(self, variables: Sequence[Any], names: Sequence[str]) -> None:
        """Replace the exclusions by those of a new call."""
        self.variables, self.names, self._pending = list(variables), list(names), None

    def config(self, built: Sequence[Any], key: Callable[[Any], Any]) -> dict[str, Any]:
        """Return the config entry with the exclusions, empty if there are none.

        Args:
            built: the variables that the optimizer was built with, empty if it is not built.
            key: returns what identifies a variable.
        """
        if self._pending is not None:
            return {KEY: self._pending}
        if not self.variables and not self.names:
            return {}
        positions = {key(v): i for i, v in enumerate(built)}
        variables = [
            {"path": _pairing.path_of(v), "position": positions.get(key(v))} for v in self.variables
        ]
        return {KEY: {"names": self.names, "variables": variables, "count": len(built)}}

    def set_pending(self, config: dict[str, Any]) -> None:
        """Take the exclusions from a config entry, to be resolved by the build."""
        parts = dict(config) if isinstance(config, Mapping) else {"names": None}
        names, variables = parts.get("names", []), parts.get("variables", [])
        if not isinstance(names, list | tuple) or not isinstance(variables, list | tuple):
            raise ValueError(
                f"`{KEY}` of a config must hold the lists names and variables, received {config!r}."
            )
        check_patterns(names)
        for entry in variables:
            if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str):
                raise ValueError(f"`{KEY}` of a config must name paths, received {entry!r}.")
        self.names = list(names)
        self._pending = config

    def resolve(self, built: Sequence[Any]) -> tuple[list[Any], list[str]] | None:
        """Return the excluded variables and names; None if no config entry is pending."""
        if self._pending is None:
            return None
        by_position = self._pending.get("count") == len(built)
        paths = [_pairing.path_of(v) for v in built]
        found = []
        for entry in self._pending.get("variables", []):
            position = entry.get("position")
            if not by_position or not isinstance(position, int):
                position = _pairing.find_path(entry["path"], paths)
            if position is not None and 0 <= position < len(built):
                found.append(built[position])
        return found, self.names
