"""What is a state, apart from any optimizer: plain arrays, and what is needed to read them."""

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_rmsprop._math._lazy import Progress
from keras_rmsprop._math._rule import Parameter

Array = NDArray[Any]

# The kinds of slots, by the names under which they are saved.
KINDS = (*Parameter._fields[1:], *Progress._fields)


class Own(NamedTuple):
    """A variable that a subclass has added."""

    # The name it was added with, numbered where there are several.
    label: str
    # The position of the weight that it belongs to, if any.
    position: int | None
    value: Array


class State(NamedTuple):
    """An optimizer's state, with what is needed to read it in another configuration."""

    # Calls of `apply`, None if the state does not say, and how many of them make a step.
    calls: int | None
    accumulation_steps: int
    learning_rate: float | None
    skipped_steps: int | None
    # Whether square averages are about the mean, and what momentum buffers hold.
    centered: bool
    lr_in_momentum: bool
    # How the averages of each variable decay, which rows of a table may still have to make up for.
    rho: tuple[float, ...]
    # The variables' names in their order; None in files of Keras's own class.
    names: tuple[str, ...] | None
    # For each variable its slots, by kind.
    slots: tuple[dict[str, Array], ...]
    own: tuple[Own, ...] = ()
    # The pattern of each variable's group, if it is in one; empty where there are no groups.
    patterns: tuple[str | None, ...] = ()
    # By pattern, the factor of the learning rate.
    rates: Mapping[str, float] = MappingProxyType({})

    def rate_of(self, position: int) -> float | None:
        """The rate at which the steps of a variable were made, None if it is not known."""
        if self.learning_rate is None:
            return None
        pattern = self.patterns[position] if self.patterns else None
        return self.learning_rate * (1.0 if pattern is None else self.rates.get(pattern, 1.0))


def own_name(label: str, position: int | None, names: Sequence[str]) -> str:
    """The name of a subclass's variable among all arrays."""
    return label if position is None else f"{names[position]}/{label}"


OF_GROUPS = "groups/"


def rate_name(pattern: str) -> str:
    """The name of a group's learning rate among all arrays."""
    return f"{OF_GROUPS}{pattern}/learning_rate"


NOTHING = "Nothing was loaded: the optimizer is as it was."


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first of these names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def wide(array: Array) -> Any:
    """The dtype in which an array's values are kept as a slot."""
    return np.float64 if array.dtype == np.float64 else np.float32


def arrays_in(state: State) -> dict[str, Array]:
    """The arrays of a state by names that a file can have."""
    slots = {
        f"{position}.{kind}": value
        for position, each in enumerate(state.slots)
        for kind, value in each.items()
    }
    # Labels are anything a subclass likes; the names of arrays in a file are not.
    return slots | {f"own.{i}": _storable(own.value) for i, own in enumerate(state.own)}


def checksum_of(arrays: Mapping[str, Array]) -> int:
    """CRC-32 of arrays: their names, dtypes, shapes and bytes."""
    checksum = 0
    for key in sorted(arrays):
        array = arrays[key]
        header = f"{key} {array.dtype.name} {array.shape} "
        checksum = zlib.crc32(header.encode(), checksum)
        checksum = zlib.crc32(bytes_of(array), checksum)
    return checksum


def bytes_of(array: Array) -> memoryview:
    """The bytes of an array, in the order of this machine."""
    # A file may have been written with the bytes of each number in the other order.
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return native.reshape(-1).view("u1").data


def _storable(value: Array) -> Array:
    """A subclass's array in a dtype of NumPy's own, which every kind of file keeps."""
    return value if value.dtype.kind in "iuf" else value.astype(np.float32)
