"""The state, independent of any optimizer: plain arrays, and the options needed to read them."""

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


class SubclassVariable(NamedTuple):
    """A variable that a subclass has added."""

    # The name it was added with, numbered if there are several.
    label: str
    # The position of the weight that it belongs to, if any.
    position: int | None
    value: Array


class State(NamedTuple):
    """An optimizer's state, with the options needed to load it into another configuration."""

    # Calls of `apply`, None if unknown, and how many of them make a step.
    calls: int | None
    accumulation_steps: int
    learning_rate: float | None
    skipped_steps: int | None
    # Whether square averages are about the mean, and whether momentum buffers include the rate.
    centered: bool
    lr_in_momentum: bool
    # For each variable; needed to settle rows of lazy tables.
    rho: tuple[float, ...]
    # The variables' names in order; None in files of Keras's own class.
    names: tuple[str, ...] | None
    # For each variable its slots, by kind.
    slots: tuple[dict[str, Array], ...]
    subclass_variables: tuple[SubclassVariable, ...] = ()
    # The pattern of each variable's group, None without one; empty if there are no groups.
    patterns: tuple[str | None, ...] = ()
    # The learning rate factors by pattern.
    rates: Mapping[str, float] = MappingProxyType({})

    def rate_of(self, position: int) -> float | None:
        """Return the learning rate of a variable's steps, or None if unknown."""
        if self.learning_rate is None:
            return None
        pattern = self.patterns[position] if self.patterns else None
        return self.learning_rate * (1.0 if pattern is None else self.rates.get(pattern, 1.0))


def subclass_variable_name(label: str, position: int | None, names: Sequence[str]) -> str:
    """Return the name of a subclass's variable in `state_dict` and reports."""
    return label if position is None else f"{names[position]}/{label}"


GROUPS_PREFIX = "groups/"


def rate_name(pattern: str) -> str:
    """The name of a group's learning rate among all arrays."""
    return f"{GROUPS_PREFIX}{pattern}/learning_rate"


NOTHING_LOADED = "Nothing was loaded: the optimizer is as it was."


def abbreviated(names: Sequence[str], limit: int = 4) -> str:
    """Format the first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def slot_dtype(array: Array) -> Any:
    """Return the dtype in which a slot holds an array's values."""
    return np.float64 if array.dtype == np.float64 else np.float32


def arrays_in(state: State) -> dict[str, Array]:
    """Return the arrays of a state, under names that are valid in a file."""
    slots = {
        f"{position}.{kind}": value
        for position, each in enumerate(state.slots)
        for kind, value in each.items()
    }
    # Labels may be any string; names of arrays in a file may not.
    return slots | {
        f"own.{i}": storable(variable.value) for i, variable in enumerate(state.subclass_variables)
    }


def checksum_of(arrays: Mapping[str, Array]) -> int:
    """Return the CRC-32 of arrays: their names, dtypes, shapes and bytes."""
    checksum = 0
    for key in sorted(arrays):
        array = arrays[key]
        header = f"{key} {array.dtype.name} {array.shape} "
        checksum = zlib.crc32(header.encode(), checksum)
        checksum = zlib.crc32(bytes_of(array), checksum)
    return checksum


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of an array in native byte order."""
    # A file may have been written with the other byte order.
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return native.reshape(-1).view("u1").data


def storable(value: Array) -> Array:
    """Convert an array to a native NumPy dtype, which every kind of file supports.

    bfloat16 becomes float32, without a change of value.
    """
    return value if value.dtype.kind in "iuf" else value.astype(np.float32)
