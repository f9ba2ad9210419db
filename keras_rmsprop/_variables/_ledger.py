"""Record which variables the optimizer has created, for which weights and under which names.

Keras keeps an optimizer's variables in one flat list. Saving a subclass's variables, and adding
weights without losing any state, requires knowing what each variable was created for.
"""

import contextlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from keras_rmsprop._private import DotNotTrackScope


class Entry(NamedTuple):
    """A variable of the optimizer, and what it was created for."""

    variable: Any
    # The weight it belongs to, if any.
    weight: Any
    # None if it was added without a name.
    name: str | None


class Ledger:
    """The variables that `add_variable` has created, in order.

    A plain object, so that neither Keras nor TensorFlow tracks what it holds: weights among the
    optimizer's own variables would be saved and restored twice.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        # The variables that existed before the first build.
        self.before_build: list[Any] | None = None
        # The weight and name for which a variable is being created now.
        self._purpose: tuple[Any, str] | None = None
        # During a rebuild: the entries that have not been reused yet.
        self._reusable: list[Entry] | None = None

    @contextlib.contextmanager
    def made_for(self, weight: Any, name: str) -> Iterator[None]:
        """Return a context in which variables are created for this weight and name."""
        outer, self._purpose = self._purpose, (weight, name)
        try:
            yield
        finally:
            self._purpose = outer

    def reuse(self, name: str | None, shape: Sequence[int]) -> Any:
        """Return the variable that an earlier build created for the same purpose, or None."""
        weight, name = self._purpose or (None, name)
        for i, entry in enumerate(self._reusable or ()):
            if entry.weight is weight and entry.name == name:
                # A shape may depend on the number of weights; then a new variable is needed.
                del self._reusable[i]  # type: ignore[union-attr, unused-ignore]
                return entry.variable if tuple(entry.variable.shape) == tuple(shape) else None
        return None

    def record(self, variable: Any, name: str | None) -> None:
        """Record a new variable."""
        weight, name = self._purpose or (None, name)
        self.entries.append(Entry(variable, weight, name))

    def remaining(
        self,
        before: Sequence[Any],
        now: Sequence[Any],
        attributes: Iterable[Any],
        slots: Iterable[Any],
    ) -> list[Any]:
        """Return the variables that a rebuild has neither reused nor replaced.

        Args:
            before: all variables tracked before the rebuild.
            now: all variables tracked after it.
            attributes: the values of the optimizer's attributes.
            slots: the slots of the earlier build, which are dropped if no longer needed.
        """
        tracked = set(map(id, now))
        # A variable not made by `add_variable` was replaced unless an attribute still holds it.
        known = {id(entry.variable) for entry in self.entries}
        kept = {id(entry.variable) for entry in self._reusable or ()}
        kept |= {id(value) for value in attributes} - known
        kept -= set(map(id, slots))
        left = [v for v in before if id(v) not in tracked and id(v) in kept]
        tracked |= set(map(id, left))
        self.entries = [entry for entry in self.entries if id(entry.variable) in tracked]
        return left

    @contextlib.contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Return a context in which a build reuses the variables of an earlier one.

        On failure the ledger is restored.
        """
        entries, self._reusable = list(self.entries), list(self.entries)
        try:
            yield
        except BaseException:
            self.entries = entries
            raise
        finally:
            self._reusable = None


@contextlib.contextmanager
def undone_on_failure(optimizer: Any) -> Iterator[None]:
    """Return a context for building the optimizer, which is restored if the build fails.

    Restores one level deep: the attributes, and the lists, dicts and sets among them.
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

    The old list is replaced, not modified: TensorFlow cannot save a checkpoint of a list from which
    entries were removed or moved.
    """
    with DotNotTrackScope():
        optimizer._variables = variables
    tracker = optimizer._tracker
    tracker.config["variables"] = (tracker.config["variables"][0], optimizer._variables)
    tracker.stored_ids["variables"] = {id(v) for v in variables} if ids is None else ids


def _refill(optimizer: Any, name: str, kept: Any) -> None:
    """Restore the contents of a list, dict or set among the optimizer's attributes."""
    value = getattr(optimizer, name)
    if len(value) == len(kept) and (isinstance(kept, set) or all(map(operator.is_, value, kept))):
        return
    if not (type(value) is type(kept) or type(value).__module__.startswith("keras.")):
        # A TensorFlow container: modified this way it could no longer be saved.
        with DotNotTrackScope():
            setattr(optimizer, name, kept)
    elif isinstance(kept, list):
        list.__setitem__(value, slice(None), kept)
    else:
        type(kept).clear(value)
        type(kept).update(value, kept)
