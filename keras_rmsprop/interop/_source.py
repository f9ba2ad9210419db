"""What an optimizer of another framework holds, in one form.

All of them store, for each parameter, the average of g², if centered also the average of g, and a
momentum buffer if there is momentum. They differ in what the buffer holds and in what they tell of
their settings.
"""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

Array = NDArray[Any]

# Hyperparameters of `RMSprop` by name.
Settings = Mapping[str, Any]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Slots(NamedTuple):
    """The slots of one parameter, in its shape, before any correction for bias."""

    # The average of g², not of the squared distance from the mean, also if centered.
    square_average: Array
    gradient_average: Array | None = None
    # What is subtracted from the weight, or if the rate stays outside, that divided by it.
    momentum: Array | None = None
    # The moving average of the weight.
    average: Array | None = None
    # The sum of the gradients of a step that is not complete.
    accumulator: Array | None = None


class Source(NamedTuple):
    """An optimizer of another framework."""

    # Its name, for messages.
    framework: str
    # The parameters that have state, by the framework's names for them.
    slots: Mapping[str, Slots]
    # The steps made, None if unknown.
    steps: int | None = None
    # The learning rate of the next step by parameter, empty if unknown.
    rates: Mapping[str, float] = _NOTHING
    # The settings by parameter, as far as the framework tells them; empty if it does not.
    settings: Mapping[str, Settings] = _NOTHING
    # Whether its rate changes by itself, None if it cannot know; by what, None if it does not tell
    # (see `_schedules.Moving`); and by how many a step advances the count of a schedule.
    moves: bool | None = None
    schedule: Any = None
    counts: int = 1
    # How many gradients of the next step it has summed.
    begun: int = 0
    # The settings other than the rate that change by themselves.
    changing: tuple[str, ...] = ()
    # What else takes part in its steps, such as code of a user's, in words.
    besides: tuple[str, ...] = ()
    # The dtype of the slots by parameter, that of the narrowest if they differ, where known.
    dtypes: Mapping[str, str] = _NOTHING
    lr_in_momentum: bool = True
    # Whether its steps divide the averages by 1 - rho**t.
    bias_correction: bool = False
    # Its parameters in order, as far as it knows them: all of which it could have state.
    names: tuple[str, ...] = ()
    # Of these, those that do not move: frozen, or without state though steps were made.
    still: Collection[str] = frozenset()
    # Those that are known to be kept from moving, whatever their gradients.
    frozen: frozenset[str] = frozenset()
    # Further arguments of an `RMSprop` like it, such as the initial average.
    arguments: Settings = _NOTHING

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of all parameters, those that have state first if it tells no order."""
        return self.names or tuple(self.slots)


def as_array(value: Any) -> Array:
    """Return a framework's array as a float64 NumPy array, or a float32 one if it has 32 bits.

    Half-precision numbers, which NumPy may not know, are widened.
    """
    if isinstance(value, keras.Variable):
        value = ops.convert_to_numpy(ops.convert_to_tensor(value))
    if hasattr(value, "detach"):  # torch
        value = value.detach().cpu()
        value = value if value.element_size() > 2 else value.float()
        return np.array(value.numpy())
    array = np.array(value)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def dtype_of(*arrays: Any) -> str:
    """Return the name of the dtype of a framework's arrays, the narrowest if they differ."""
    return narrowest(
        *(
            str(getattr(each.dtype, "name", each.dtype)).rpartition(".")[2]
            for each in arrays
            if each is not None
        )
    )


def narrowest(*dtypes: str) -> str:
    """Return the dtype of the fewest bits."""
    return min(dtypes, key=_bits)


def _bits(dtype: str) -> int:
    digits = re.match(r"[a-z]+(\d+)", dtype)
    return int(digits[1]) if digits else 0


class NotExactError(ValueError):
    """A training that would not go on with the same steps."""
