"""The variables that the optimizer was built with, in order, with their slots.

A `Parameter` holds tensors, and `ParameterVariables` the variables that hold them; likewise for
`Counters` and `Progress`. Fields that a configuration does not need are None in both.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from keras_rmsprop._math import _step
from keras_rmsprop._math._lazy import Progress
from keras_rmsprop._math._rule import Parameter, Tensor
from keras_rmsprop._math._step import Counters, Plan

# A keras.Variable, or a raw backend variable.
Variable = Any
Read = Callable[[Variable], Tensor]


class ParameterVariables(NamedTuple):
    """The variables that hold a `Parameter`."""

    weight: Variable
    square_average: Variable | None = None
    gradient_average: Variable | None = None
    momentum: Variable | None = None
    accumulator: Variable | None = None
    average: Variable | None = None

    def read(self, read: Read) -> Parameter:
        """Return what they hold."""
        return Parameter(*_read_each(self, read))


class ProgressVariables(NamedTuple):
    """The variables that hold the `Progress` of a table."""

    updates: Variable
    correction: Variable | None
    row_updates: Variable
    row_corrections: Variable | None

    def read(self, read: Read) -> Progress:
        """Return what they hold."""
        return Progress(*_read_each(self, read))


class CounterVariables(NamedTuple):
    """The variables that hold the `Counters`."""

    calls: Variable
    skipped: Variable | None = None
    rates: Variable | None = None

    def read(self, read: Read) -> Counters:
        """Return what they hold."""
        return Counters(*_read_each(self, read))


def _read_each(variables: Iterable[Variable | None], read: Read) -> list[Tensor | None]:
    return [None if variable is None else read(variable) for variable in variables]


def flat_without_none(*groups: Iterable[Any]) -> list[Any]:
    """Return all items of the groups that are not None, in a flat list."""
    return [each for group in groups for each in group if each is not None]


def is_overwritten(variable: Variable) -> bool:
    """Whether a variable takes its gradient as its value, as a float8 scale does."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def is_fixed(variable: Variable) -> bool:
    """Whether a variable is not floating-point, so that no step changes it."""
    # A Keras variable's dtype is already a standard name; standardizing it again is slow.
    dtype = variable.dtype
    return not _step.is_floating(dtype if isinstance(dtype, str) else _step.dtype_of(variable))


class Roster:
    """The built variables in order, with the variables that hold their slots.

    Keras finds a variable's position by a key that it recomputes every time, which takes
    milliseconds per step with many variables. Here the key is the object's id.
    """

    def __init__(
        self,
        parameters: Iterable[ParameterVariables],
        progress: Iterable[ProgressVariables | None],
        counters: CounterVariables,
        members: Iterable[int] = (),
        group_numbers: Variable | None = None,
    ) -> None:
        self.parameters = tuple(parameters)
        self.progress = tuple(progress)
        self.counters = counters
        self.shapes = [tuple(p.weight.shape) for p in self.parameters]
        self.weights = [p.weight for p in self.parameters]
        # The group of each parameter: 0 if no pattern matches it, otherwise counted from 1.
        self.members = tuple(members) or (0,) * len(self.parameters)
        # A `_building.GroupNumbersVariable`, or None.
        self.group_numbers = group_numbers
        # A `_watch.Watch`, or None if steps are not sampled.
        self.watch: Any = None
        # The plan of the last step that was traced in a function of the user's, with groups.
        self.traced_plan: Plan | None = None
        # Whether such functions were traced with an earlier build, and none since.
        self.was_traced_before = False
        # The weights with their slots, and the counters: all that a step may change except the
        # progress of rows.
        self.variables = flat_without_none(*self.parameters, counters)
        self.overwritten = tuple(map(is_overwritten, self.weights))
        self.fixed = frozenset(i for i, weight in enumerate(self.weights) if is_fixed(weight))
        self._positions = {id(weight): i for i, weight in enumerate(self.weights)}

    def matches(self, variables: Sequence[Variable]) -> bool:
        """Whether `variables` are exactly the built variables, in the same order."""
        return len(variables) == len(self.weights) and all(
            map(operator.is_, variables, self.weights)
        )

    def position(self, variable: Variable) -> int | None:
        """Return the position of `variable`, or None if it is not one of the built objects."""
        position = self._positions.get(id(variable))
        # A copied optimizer has other objects, and ids can be reused.
        if position is not None and self.weights[position] is variable:
            return position
        return None
