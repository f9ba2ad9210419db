"""Say how much memory the state of an optimizer takes."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from keras_rmsprop._settings._describe import Rows
from keras_rmsprop._settings._groups import SettingsByPattern


class Held(NamedTuple):
    """The arrays of one kind and dtype; `size` is in bytes."""

    kind: str
    dtype: str
    arrays: int
    size: int


class Footprint(NamedTuple):
    """The state of a built optimizer."""

    held: Sequence[Held]
    # The number of weights' elements that are updated.
    parameters: int
    # The number of counters, rates and the like.
    scalars: int

    @property
    def size(self) -> int:
        """The bytes of all arrays."""
        return sum(each.size for each in self.held)

    def summary(self) -> str:
        """Say how large it is in all."""
        arrays = _counted(sum(each.arrays for each in self.held), "array")
        per_parameter = ""
        if self.parameters:
            per_parameter = f", {self.size / self.parameters:.3g} bytes per parameter"
        return f"{_readable(self.size)} in {arrays}{per_parameter}"

    def in_words(self) -> str:
        """Say what it consists of."""
        parts = [
            f"{each.kind} {_readable(each.size)} ({each.arrays} {each.dtype})" for each in self.held
        ]
        scalars = f"and {_counted(self.scalars, 'scalar')}."
        return f"{self.summary()}: {', '.join(parts)}; {scalars}" if parts else f"none, {scalars}"

    def table(self) -> Rows:
        """Return what it consists of, as the rows of a table."""
        rows = [["state", "arrays", "dtype", "memory"]]
        return rows + [
            [each.kind, str(each.arrays), each.dtype, _readable(each.size)] for each in self.held
        ]


def footprint(
    arrays: Iterable[tuple[str, Sequence[int], str]], parameters: int, scalars: int
) -> Footprint:
    """Return the footprint of a state.

    Args:
        arrays: kind, shape and dtype of each array except the scalars.
        parameters: the number of weights' elements that are updated.
        scalars: the number of counters, rates and the like.
    """
    held: dict[tuple[str, str], Held] = {}
    for kind, shape, dtype in arrays:
        before = held.get((kind, dtype)) or Held(kind, dtype, 0, 0)
        size = before.size + math.prod(shape) * item_size(dtype)
        held[kind, dtype] = Held(kind, dtype, before.arrays + 1, size)
    return Footprint(list(held.values()), parameters, scalars)


def in_words_before_build(settings: Mapping[str, Any], groups: SettingsByPattern) -> str:
    """Say how much the state will take, for float32 weights.

    Args:
        settings: the hyperparameters by name.
        groups: for each pattern, the settings of its variables.
    """
    sets = [_slots({**settings, **own}) for own in ({}, *groups.values())]
    sizes = sorted({sum(slots.values()) for slots in sets})
    span = " to ".join(str(size) for size in dict.fromkeys((sizes[0], sizes[-1])))
    kinds = ", ".join(dict.fromkeys(kind for slots in sets for kind in slots))
    return f"none before the build; then {span} bytes per float32 parameter ({kinds})."


def _slots(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the bytes that each kind of slot takes for one float32 parameter."""
    narrow = item_size(settings["state_dtype"] or "float32")
    slots = {
        "square_average": (True, narrow),
        "gradient_average": (settings["centered"], narrow),
        "momentum": (settings["momentum"] > 0.0, narrow),
        "accumulator": (settings["gradient_accumulation_steps"], 4),
        "average": (settings["use_ema"], 4),
    }
    return {kind: size for kind, (exists, size) in slots.items() if exists}


def item_size(dtype: str) -> int:
    """Return the bytes of one element.

    >>> item_size("bfloat16"), item_size("float8_e4m3fn"), item_size("bool")
    (2, 1, 1)
    """
    bits = re.search(r"(?:float|int|complex)(\d+)", dtype)
    return 1 if bits is None else max(int(bits[1]) // 8, 1)


def _readable(size: int) -> str:
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024.0 and len(units) > 1:
        amount, units = amount / 1024.0, units[1:]
    return f"{size} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
