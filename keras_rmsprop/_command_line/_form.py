"""Forms of files that hold the state of an optimizer: how they are recognized, read and written."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from keras_rmsprop._command_line._map import Entry
from keras_rmsprop._optimizer import RMSprop


class Options(NamedTuple):
    """What a user says about a conversion."""

    # Whether further steps must be the same.
    exact: bool = True
    # The name of a TF1 optimizer, by which its slots are found.
    name: str = "RMSProp"
    # Which of torch's optimizers it is; None for what the file shows.
    kind: str | None = None


class Written(NamedTuple):
    """What a file was given."""

    # The names of the parameters whose state it holds.
    names: tuple[str, ...]
    # Sentences about it that its reader needs.
    remarks: tuple[str, ...]


# Loads the state that has been read into a built optimizer, by a map or None.
Load: TypeAlias = Callable[[RMSprop, Mapping[str, Entry] | None], None]


class Form(NamedTuple):
    """A form of files, other than Keras's."""

    read: Callable[[Path, Options], Load]
    # Writes the state, to a whole file or none.
    write: Callable[[RMSprop, Path, Mapping[str, Entry] | None, Options], Written]


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield the path of a new file beside a target, which replaces that if the block succeeds."""
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
