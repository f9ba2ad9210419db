"""Config entries about variables, kept until `build` provides the variables."""

import functools
from collections.abc import Callable
from typing import ParamSpec

from keras_rmsprop._variables import _exclusions, _members

Arguments = ParamSpec("Arguments")

# The config entries, and the attributes of the optimizer that receive them.
_ENTRIES = {_exclusions.KEY: "_exclusions", _members.KEY: "_members"}


def accept_config_entries(function: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Make an `__init__` accept the config entries that a subclass's `from_config` passes on."""

    @functools.wraps(function)
    def accepting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        entries = {key: kwargs.pop(key, None) for key in _ENTRIES}
        function(*args, **kwargs)
        for key, entry in entries.items():
            if isinstance(entry, dict):
                getattr(args[0], _ENTRIES[key]).set_pending(entry)

    return accepting
