"""Which variables was the optimizer built with, where is each, and which slots has it?"""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

from keras_rmsprop import _step
from keras_rmsprop._deferred import Progress
from keras_rmsprop._rule import Parameter


def is_overwritten(variable: Any) -> bool:
    """Whether a variable takes its gradient as its value, as float8 scales do."""
    return bool(getattr(variable, "overwrite_with_gradient", False))


def is_fixed(variable: Any) -> bool:
    """Whether a variable holds integers, which have no gradient to follow."""
    return not _step.is_floating(_step.dtype_of(variable))


class Roster:
    """The built variables in their order, with the variables that hold their slots.

    Keras finds a variable's position by a key that it computes anew each time, which costs
    milliseconds a step with many variables. Here it is the identity of the object.
    """

    def __init__(
        self, parameters: Iterable[Parameter], progress: Iterable[Progress | None]
    ) -> None:
        self.parameters = tuple(parameters)
        self.progress = tuple(progress)
        self.shapes = [tuple(p.weight.shape) for p in self.parameters]
        self.weights = [p.weight for p in self.parameters]
        # The weights with their slots, one after the other.
        self.variables = [v for p in self.parameters for v in p if v is not None]
        # Such as float8 scales, which take their gradient as their value.
        self.overwritten = tuple(map(is_overwritten, self.weights))
        # Integers, which no step moves.
        self.fixed = frozenset(i for i, weight in enumerate(self.weights) if is_fixed(weight))
        self._positions = {id(weight): i for i, weight in enumerate(self.weights)}

    def lists(self, variables: Sequence[Any]) -> bool:
        """Whether `variables` are all those of the build, the very objects and in its order."""
        return len(variables) == len(self.weights) and all(
            map(operator.is_, variables, self.weights)
        )

    def position(self, variable: Any) -> int | None:
        """The position of `variable`, or None if it is not the very object of the build."""
        position = self._positions.get(id(variable))
        # A copied optimizer has other objects, and an id may be taken again.
        if position is not None and self.weights[position] is variable:
            return position
        return None
