"""Bring the rows of lazy tables up to date, and count their updates, on the variables.

`_math._lazy` has the equations. The TensorFlow engine, the only one with sparse gradients, selects
the rows of a batch.
"""

from typing import Any

from keras_rmsprop._execution import engine
from keras_rmsprop._math import _lazy
from keras_rmsprop._math._lazy import Progress
from keras_rmsprop._math._rule import Coefficients, Form, Parameter, Tensor
from keras_rmsprop._variables._roster import ParameterVariables, Roster


def settled(
    roster: Roster, index: int, coefficients: Coefficients
) -> tuple[Parameter, Progress | None]:
    """Return the averages of a variable with every row up to date, and its progress."""
    averages = _averages_of(roster, index).read(engine.read)
    progress = roster.progress[index]
    if progress is None:
        return averages, None
    return _lazy.catch_up(coefficients, progress.read(engine.read), averages)


def settle(roster: Roster, index: int, coefficients: Coefficients) -> None:
    """Bring every row of a variable's averages up to date."""
    progress = roster.progress[index]
    if progress is not None:
        averages, now = settled(roster, index, coefficients)
        engine.write([*_pairs(_averages_of(roster, index), averages), *_pairs(progress, now)])


def count_update(
    roster: Roster, index: int, form: Form, coefficients: Coefficients, t: Tensor
) -> None:
    """Count an update of all rows of a variable."""
    progress = roster.progress[index]
    if progress is not None:
        now = _lazy.count(form, coefficients, progress.read(engine.read), t)
        engine.write(_pairs(progress, now))


def _averages_of(roster: Roster, index: int) -> ParameterVariables:
    owners = roster.parameters[index]
    return ParameterVariables(None, owners.square_average, owners.gradient_average)


def _pairs(owners: Any, values: Any) -> list[tuple[Any, Tensor]]:
    """Pair the variables of a named tuple with their values, leaving out None."""
    return [two for two in zip(owners, values, strict=True) if two[0] is not None]
