"""Which variables was the optimizer built with, where is each, and which slots has it?

A `Parameter` holds tensors, and a `ParameterVariables` the variables that these are the values
of; so do the counters and the progress of rows. What a configuration does not need is None in
both, and `read` of the variables is the one place that passes it over.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from keras_rmsprop._math import _step
from keras_rmsprop._math._lazy import Progress
from keras_rmsprop._math._rule import Parameter, Tensor
from keras_rmsprop._math._step import Counters

# A keras.Variable, or a raw one of the backend's.
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


def existing(*groups: Iterable[Any]) -> list[Any]:
    """What there is in these groups of variables or tensors, one after the other."""
    return [each for group in groups for each in group if each is not None]


def is_overwritten(variable: Variable) -> bool:
    """Whether a variable takes its gradient as its value, as float8 scales do."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def is_fixed(variable: Variable) -> bool:
    """Whether a variable holds integers, which have no gradient to follow."""
    # Keras's variables give their dtype by its standard name, which is worth not asking for anew.
    dtype = variable.dtype
    return not _step.is_floating(dtype if isinstance(dtype, str) else _step.dtype_of(variable))


class Roster:
    """The built variables in their order, with the variables that hold their slots.

    Keras finds a variable's position by a key that it computes anew each time, which costs
    milliseconds a step with many variables. Here it is the identity of the object.
    """

    def __init__(
        self,
        parameters: Iterable[ParameterVariables],
        progress: Iterable[ProgressVariables | None],
        counters: CounterVariables,
        members: Iterable[int] = (),
    ) -> None:
        self.parameters = tuple(parameters)
        self.progress = tuple(progress)
        self.counters = counters
        self.shapes = [tuple(p.weight.shape) for p in self.parameters]
        self.weights = [p.weight for p in self.parameters]
        # The group of each: 0 for those that no pattern matches, from 1 on the patterns'.
        self.members = tuple(members) or (0,) * len(self.parameters)
        # The weights with their slots, one after the other, and the counters: all that a step
        # may change, but for the progress of rows.
        self.variables = existing(*self.parameters, counters)
        # Such as float8 scales, which take their gradient as their value.
        self.overwritten = tuple(map(is_overwritten, self.weights))
        # Integers, which no step moves.
        self.fixed = frozenset(i for i, weight in enumerate(self.weights) if is_fixed(weight))
        self._positions = {id(weight): i for i, weight in enumerate(self.weights)}

    def lists(self, variables: Sequence[Variable]) -> bool:
        """Whether `variables` are all those of the build, the very objects and in its order."""
        return len(variables) == len(self.weights) and all(
            map(operator.is_, variables, self.weights)
        )

    def position(self, variable: Variable) -> int | None:
        """The position of `variable`, or None if it is not the very object of the build."""
        position = self._positions.get(id(variable))
        # A copied optimizer has other objects, and an id may be taken again.
        if position is not None and self.weights[position] is variable:
            return position
        return None
