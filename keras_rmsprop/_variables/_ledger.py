"""Which variables has the optimizer made, and for which weights and under which names?

Keras keeps an optimizer's variables in one list. To save those that a subclass has added, and to
take in more weights without losing any, one has to know what each was made for.
"""

import contextlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from keras_rmsprop._private import DotNotTrackScope


class Entry(NamedTuple):
    """A variable of the optimizer's, and what it was asked for with."""

    variable: Any
    # The weight it belongs to; None for one that belongs to none.
    weight: Any
    # None if it was added without a name.
    name: str | None


class Ledger:
    """The variables that `add_variable` has made, in their order.

    A plain object, so that neither Keras nor TensorFlow track what it holds: weights among the
    optimizer's own variables would be saved and restored twice.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        # Variables that there were before the first build.
        self.prelude: list[Any] | None = None
        # For what the variable is that is being made now.
        self._purpose: tuple[Any, str] | None = None
        # While the optimizer is built again: the entries not yet asked for again.
        self._pool: list[Entry] | None = None

    @contextlib.contextmanager
    def made_for(self, weight: Any, name: str) -> Iterator[None]:
        """Within the context a variable is made for this weight, under this name."""
        outer, self._purpose = self._purpose, (weight, name)
        try:
            yield
        finally:
            self._purpose = outer

    def again(self, name: str | None, shape: Sequence[int]) -> Any:
        """Return the variable that an earlier build made for the same purpose, None without."""
        weight, name = self._purpose or (None, name)
        for i, entry in enumerate(self._pool or ()):
            if entry.weight is weight and entry.name == name:
                # One whose shape follows from the number of weights has to be made anew.
                del self._pool[i]  # type: ignore[union-attr, unused-ignore]
                return entry.variable if tuple(entry.variable.shape) == tuple(shape) else None
        return None

    def note(self, variable: Any, name: str | None) -> None:
        """Enter a new variable."""
        weight, name = self._purpose or (None, name)
        self.entries.append(Entry(variable, weight, name))

    def left_over(
        self, before: Sequence[Any], now: Sequence[Any], attributes: Iterable[Any]
    ) -> list[Any]:
        """Return the variables that a new build has neither asked for nor replaced.

        Args:
            before: all that were tracked before it.
            now: all that are tracked since.
            attributes: the values of the optimizer's attributes.
        """
        tracked = set(map(id, now))
        # One that did not come from `add_variable` has been replaced unless it is still in place.
        known = {id(entry.variable) for entry in self.entries}
        kept = {id(entry.variable) for entry in self._pool or ()}
        kept |= {id(value) for value in attributes} - known
        left = [v for v in before if id(v) not in tracked and id(v) in kept]
        tracked |= set(map(id, left))
        self.entries = [entry for entry in self.entries if id(entry.variable) in tracked]
        return left

    @contextlib.contextmanager
    def reopened(self) -> Iterator[None]:
        """Within the context a build is given the variables that an earlier one made.

        On failure the ledger is as it was.
        """
        entries, self._pool = list(self.entries), list(self.entries)
        try:
            yield
        except BaseException:
            self.entries = entries
            raise
        finally:
            self._pool = None


@contextlib.contextmanager
def undone_on_failure(optimizer: Any) -> Iterator[None]:
    """Within the context the optimizer is built; if that fails, it is as it was before.

    What it holds is kept one level deep: its attributes, and the lists, dicts and sets among them.
    """
    attributes = dict(vars(optimizer))
    contents = {
        name: kind(value)
        for name, value in attributes.items()
        for kind in (list, dict, set)
        if isinstance(value, kind)
    }
    entries = list(optimizer._ledger.entries)
    tracked = set(optimizer._tracker.stored_ids["variables"])
    try:
        yield
    except BaseException:
        optimizer._ledger.entries = entries
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        for name, kept in contents.items():
            _refill(optimizer, name, kept)
        track_in(optimizer, optimizer._variables, tracked)
        raise


def track_in(optimizer: Any, variables: list[Any], ids: set[int] | None = None) -> None:
    """Make this list the one in which Keras tracks the optimizer's variables.

    A new list rather than the old one changed: TensorFlow saves no checkpoint of a list that has
    lost or moved entries.
    """
    with DotNotTrackScope():
        optimizer._variables = variables
    tracker = optimizer._tracker
    tracker.config["variables"] = (tracker.config["variables"][0], optimizer._variables)
    tracker.stored_ids["variables"] = {id(v) for v in variables} if ids is None else ids


def _refill(optimizer: Any, name: str, kept: Any) -> None:
    """Give a list, dict or set among the optimizer's attributes back what it held."""
    value = getattr(optimizer, name)
    if len(value) == len(kept) and (isinstance(kept, set) or all(map(operator.is_, value, kept))):
        return
    if not (type(value) is type(kept) or type(value).__module__.startswith("keras.")):
        # TensorFlow's, which it would not save any more once changed so.
        with DotNotTrackScope():
            setattr(optimizer, name, kept)
    elif isinstance(kept, list):
        list.__setitem__(value, slice(None), kept)
    else:
        type(kept).clear(value)
        type(kept).update(value, kept)
