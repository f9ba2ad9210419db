"""Forms of files that hold the state of an optimizer: how they are recognized, read and written."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from keras_rmsprop._command_line._map import Entry
from keras_rmsprop._execution import _interrupts
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
    """Yield the path of a new file beside a target, which replaces that if the block succeeds.

    Raises: OSError that names the target if it cannot be written.
    """
    temporary = _beside(target)
    with _naming(target):
        try:
            yield temporary
            with _interrupts.deferred():
                temporary.replace(target)
        except BaseException:
            with _interrupts.deferred():
                temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def replacing_all(target: Path) -> Iterator[Path]:
    """Yield a new folder beside a target, whose files move there if the block succeeds.

    They all do or none, also at Ctrl-C. The last by name is there only when the others are.

    Raises: OSError that names the target if a file cannot be written.
    """
    folder = _beside(target)
    with _naming(target):
        try:
            folder.mkdir()
            yield folder
            with _interrupts.deferred():
                _move_out(folder)
                shutil.rmtree(folder)
        except BaseException:
            with _interrupts.deferred():
                shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Name a target that cannot be written, rather than the new file beside it, or none."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, str(target)) from error


def _beside(target: Path) -> Path:
    return target.with_name(f".{os.getpid()}.{target.name}")


def _move_out(folder: Path) -> None:
    """Move the files of a folder into its parent; none if one cannot be moved."""
    files = sorted(folder.iterdir())
    before = folder / "before"
    before.mkdir()
    moves: list[tuple[Path, Path]] = []
    try:
        for file in files:
            target = folder.with_name(file.name)
            old = [(target, before / file.name)] if target.is_file() else []
            for start, end in [*old, (file, target)]:
                start.replace(end)
                moves.append((start, end))
    except OSError:
        for start, end in reversed(moves):
            end.replace(start)
        raise
