"""Checkpoints of `tf.compat.v1.train.Saver`, named by their prefix."""

from collections.abc import Mapping
from pathlib import Path

from keras_rmsprop import interop
from keras_rmsprop._command_line import _map
from keras_rmsprop._command_line._form import Load, Options, Written, replacing_all
from keras_rmsprop._command_line._map import Entry
from keras_rmsprop._command_line._screen import framework
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop.interop import _carry, tf1


def latest_in(folder: Path) -> Path | None:
    """Return the prefix of the latest checkpoint in a folder, None if there is none."""
    if not (folder / "checkpoint").is_file():
        return None
    latest = framework("tensorflow").train.latest_checkpoint(folder)
    return None if latest is None else Path(latest)


def read(path: Path, options: Options) -> Load:
    """Read a checkpoint; return what loads its state into an optimizer."""
    framework("tensorflow")
    source = tf1.read(path, options.name)

    def load(optimizer: RMSprop, entries: Mapping[str, Entry] | None) -> None:
        pairs = None if entries is None else _map.pairs_of(entries, optimizer)
        _carry.load(optimizer, source, pairs, exact=options.exact)

    return load


def write(
    optimizer: RMSprop, path: Path, entries: Mapping[str, Entry] | None, options: Options
) -> Written:
    """Write the variables and their state."""
    framework("tensorflow")
    pairs = _map.pairs_of(entries, optimizer)
    # By name the index comes last: with it there is a checkpoint.
    with replacing_all(path) as folder:
        prefix = folder / path.name
        interop.tf1.save(optimizer, prefix, pairs, name=options.name, exact=options.exact)
    names = tuple(name for pair in pairs.values() for name in pair.names)
    return Written(names, (f"Its slots are those of an optimizer named {options.name!r}.",))
