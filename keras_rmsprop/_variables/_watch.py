"""What is watched of an optimizer's steps: which variables, how often, and where it is kept."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_rmsprop._math import _step, _table
from keras_rmsprop._math._statistics import COLUMNS
from keras_rmsprop._math._table import Watched
from keras_rmsprop._variables import _members, _pairing
from keras_rmsprop._variables._roster import Roster, Variable


class Watch:
    """The variables whose statistics are sampled, and the table that holds them.

    Args:
        table: the variable that holds the table (see `_table`).
        watched: which variables are sampled.
        every: a step is sampled every so many, the first one to begin with.
    """

    def __init__(self, table: Variable, watched: Watched, every: int) -> None:
        self.table, self.watched, self.every = table, watched, every
        # For each variable, the samples before the optimizer was given it.
        self.samples_before: list[int]
        # Calls of eager steps until the counter says whether the next one is to be sampled: it is
        # not read at every call, which would wait for the device.
        self._until_look: int
        self.begin_anew()

    def calls_left(self, calls: Any, accumulation_steps: int) -> Any:
        """Return how many calls come before the next that is sampled; 0 if it is the next one.

        It is the call that completes one of every `every` steps.

        Args:
            calls: the number of calls before, an integer or a tensor.
            accumulation_steps: the calls that make a step.
        """
        # The counter is of 32 bits.
        period = min(self.every * accumulation_steps, 2**31 - 1)
        return (accumulation_steps - 1 - calls) % period

    def table_at_start(self) -> Any:
        """Return the table before the first sample."""
        return _table.table_at_start(self.watched)

    def begin_anew(self) -> None:
        """Forget what is known of earlier steps, apart from the table."""
        self.samples_before = [0] * len(self.watched.positions)
        self._until_look = 1

    def may_be_due(self) -> bool:
        """Whether the step may have to be sampled, counting the calls of this process."""
        self._until_look -= 1
        return self._until_look <= 0

    def is_due(self, calls: int, accumulation_steps: int) -> bool:
        """Whether the next call is sampled, for the same arguments as `calls_left`."""
        left: int = self.calls_left(calls, accumulation_steps)
        # A call that is skipped leaves the counter as it is, and the next one is sampled instead.
        self._until_look = left or 1
        return left == 0


def chosen(roster: Roster, patterns: Sequence[str]) -> tuple[int, ...]:
    """Return the positions of the variables to sample, those that the rule updates.

    Args:
        roster: the built variables.
        patterns: those of the variables; empty for all.

    Raises: ValueError if a pattern matches none.
    """
    paths = {
        i: _pairing.path_of(parameter.weight)
        for i, parameter in enumerate(roster.parameters)
        if parameter.square_average is not None
    }
    if not patterns:
        return tuple(paths)
    found: set[str] = set()
    for pattern in patterns:
        matches = _members.matches_of(pattern, list(paths.values()))
        if not matches:
            raise ValueError(
                f"The pattern {pattern!r} of `variables` of Diagnostics matches none of the "
                f"optimizer's variables. It must match a whole path, such as "
                f"{', '.join(map(repr, [*paths.values()][:3]))}."
            )
        found.update(matches)
    return tuple(i for i, path in paths.items() if path in found)


def carry_over(before: Roster, after: Roster) -> None:
    """Let the statistics of variables that were watched before go on from there.

    Args:
        before: the built variables so far.
        after: those that they have become.
    """
    if before.watch is None or after.watch is None:
        return
    earlier = ops.convert_to_numpy(before.watch.table)
    rows = {id(before.weights[p]): row for row, p in enumerate(before.watch.watched.positions)}
    table = after.watch.table_at_start()
    samples = int(earlier[-1, COLUMNS.index("sampled")])
    for row, position in enumerate(after.watch.watched.positions):
        known = rows.get(id(after.weights[position]))
        if known is None:
            after.watch.samples_before[row] = samples
        else:
            table[row] = earlier[known]
            after.watch.samples_before[row] = before.watch.samples_before[known]
    # All together.
    table[-1] = earlier[-1]
    after.watch.table.assign(table)


def watch_of(
    optimizer: Any,
    roster: Roster,
    positions: Sequence[int],
    every: int,
    histograms: bool,
    is_tracked: bool,
) -> Watch:
    """Create the table for some of the variables being built.

    Args:
        optimizer: the optimizer.
        roster: the built variables.
        positions: which of them are watched.
        every: a step is sampled every so many.
        histograms: whether the table has histograms.
        is_tracked: whether it belongs to `optimizer.variables`.
    """
    dtype = _step.widest_dtype([roster.weights[i] for i in positions])
    watched = Watched(tuple(positions), histograms, dtype)
    at_start = _table.table_at_start(watched)
    with keras.name_scope(optimizer.name, caller=optimizer):
        table = keras.Variable(
            lambda _, dtype: ops.convert_to_tensor(at_start.astype(dtype)),
            watched.shape,
            dtype,
            trainable=False,
            aggregation="only_first_replica",
            name="diagnostics",
        )
    if is_tracked:
        optimizer._track_variable(table)
    return Watch(table, watched, every)
