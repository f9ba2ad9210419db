"""Write the state to a Keras file, read it, and detect damage."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop._state._form import (
    KINDS,
    Array,
    State,
    SubclassVariable,
    arrays_in,
    bytes_of,
    checksum_of,
)
from keras_rmsprop._state._keras_file import ForeignStateError, read_keras_state
from keras_rmsprop._state._names import to_dict
from keras_rmsprop._state._read import OptimizerParts, array_of
from keras_rmsprop._state._sanity import damaged_file_error, is_count, why_impossible

# The format that this version writes; later formats are refused. Format 1 had no subclass
# variables, and its checksum did not cover shapes and dtypes.
FORMAT = 3
# The last that holds everything where there are no groups, so that older versions read it.
FORMAT_WITHOUT_GROUPS = 2


class SkippedFile(NamedTuple):
    """A file whose state is not loaded."""

    # The names of its entries.
    entries: tuple[str, ...]
    # The reason, as a warning message; None if nothing is lost.
    reason: str | None


def write_state(state: State, store: Any) -> None:
    """Write a state to the store of a Keras file: arrays, and their description as JSON."""
    arrays = arrays_in(state)
    version = FORMAT if state.rates else FORMAT_WITHOUT_GROUPS
    description = {"format": version, **state._asdict(), "slots": len(state.slots)}
    if not state.rates:
        del description["patterns"], description["rates"]
        description["rho"] = state.rho[0] if state.rho else 0.0
    # The format has a shorter name for them.
    described = description.pop("subclass_variables")
    description["own"] = [[variable.label, variable.position] for variable in described]
    arrays["description"] = np.frombuffer(json.dumps(description).encode(), np.uint8)
    # A third entry besides the slots: Keras's own class has two, compares the counts, and now skips
    # the file with a warning instead of failing.
    arrays["format"] = np.asarray(version, np.uint32)
    arrays["checksum"] = np.asarray(checksum_of(arrays), np.uint32)
    for key, value in arrays.items():
        store[key] = value


def read_file(store: Any, parts: OptimizerParts) -> State | SkippedFile:
    """Read the optimizer state in a Keras file, saved by this class or Keras's own RMSprop.

    Returns: the state, or a `SkippedFile` if the optimizer is not built, or the file is empty or
        another optimizer's.
    Raises: ValueError if the file is damaged or has a later format.
    """
    arrays = _arrays_of(store)
    skipping = f"Skipping variable loading for optimizer {parts.name!r}"
    goes_on = "The optimizer goes on with the state it has."
    if not parts.built:
        reason = (
            f"{skipping}: it is not built yet, so it starts afresh, at step 0 and with its own "
            "learning rate. To resume the training that was saved, load the whole model with "
            "`keras.saving.load_model`, or call `optimizer.build(model.trainable_variables)` "
            "before `load_weights`."
        )
        return SkippedFile(tuple(sorted(arrays)), reason if _has_steps(arrays) else None)
    if not arrays:
        return SkippedFile((), f"{skipping}: the file holds no optimizer state. {goes_on}")
    if not _is_described(arrays):
        try:
            return read_keras_state(arrays, parts)
        except ForeignStateError as why:
            reason = f"{skipping}: the file holds the state of another optimizer, {why}. {goes_on}"
            return SkippedFile(tuple(sorted(arrays)), reason)
    state = _read_described_state(arrays)
    if not state.slots and int(array_of(parts.roster.counters.calls)) > 0:
        reason = f"{skipping}: the file holds the state of one that was not built. {goes_on}"
        return SkippedFile(tuple(to_dict(state)), reason)
    return state


def _arrays_of(store: Any) -> dict[str, Array]:
    try:
        return {str(key): np.array(store[key]) for key in store.keys()}  # noqa: SIM118
    except (LookupError, ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        raise damaged_file_error("an entry cannot be read") from error


def _is_described(arrays: Mapping[str, Array]) -> bool:
    """Whether the arrays were saved by this package rather than by Keras's class."""
    return "description" in arrays


def _has_steps(arrays: Mapping[str, Array]) -> bool:
    """Whether the file holds trained state, so that not loading it deserves a warning."""
    if not _is_described(arrays):
        counts = [value for value in arrays.values() if value.shape == ()]
        return any(value.dtype.kind in "iu" and value > 0 for value in counts)
    if _format_of(_description(arrays)) > FORMAT:
        return True
    state = _read_described_state(arrays)
    return bool(state.calls or state.skipped_steps)


def _read_described_state(arrays: Mapping[str, Array]) -> State:
    """Read the arrays that `write_state` wrote.

    Raises: ValueError if they are damaged or have a later format.
    """
    fields = _description(arrays)
    version = _format_of(fields)
    # Checked first: a later format may compute its checksum differently.
    if version > FORMAT:
        raise ValueError(
            f"The optimizer state was saved by a later version of keras_rmsprop, in format "
            f"{version}; this version reads formats up to {FORMAT}. Upgrade keras_rmsprop to load "
            "it. Nothing of it was loaded."
        )
    rest = {key: value for key, value in arrays.items() if key != "checksum"}
    checksum = arrays.get("checksum")
    if any(value.dtype.kind not in "iuf" for value in arrays.values()):
        raise damaged_file_error("it holds arrays that are not numeric")
    # HDF5 files have no checksum of their own, so a flipped bit would go unnoticed.
    take = checksum_of if version > 1 else _checksum_of_format_1
    if checksum is None or checksum.size != 1 or checksum.dtype.kind != "u":
        raise damaged_file_error("it has no checksum")
    if int(checksum.reshape(())) != take(rest):
        raise damaged_file_error("it is not what was saved")
    del rest["description"]
    rest.pop("format", None)
    try:
        state = _from_fields(fields, rest)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise damaged_file_error("its description is not one that this package writes") from error
    reason = why_impossible(state)
    if reason is not None:
        raise damaged_file_error(reason)
    return state


def _description(arrays: Mapping[str, Array]) -> dict[str, Any]:
    array = arrays["description"]
    try:
        # Anything else, such as an array of object pointers, is not a description.
        fields = json.loads(array.tobytes()) if array.dtype == np.uint8 else None
    except (ValueError, RecursionError) as error:
        raise damaged_file_error("its description cannot be read") from error
    if not isinstance(fields, dict):
        raise damaged_file_error("its description cannot be read")
    return fields


def _format_of(fields: Mapping[str, Any]) -> int:
    version = fields.get("format")
    if not is_count(version) or version == 0:
        raise damaged_file_error("its description names no format")
    return int(version)  # type: ignore[arg-type]


def _from_fields(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> State:
    """Assemble a state from its description and arrays; any error means damage."""
    fields = {key: value for key, value in fields.items() if key != "format"}
    names, described = fields["names"], fields.pop("own", [])
    # Checked before use: the number of names is bounded by the file's size.
    if not isinstance(names, list) or fields["slots"] != len(names):
        raise ValueError("The count of variables is not that of their names.")
    slots: list[dict[str, Array]] = [{} for _ in names]
    values: dict[int, Array] = {}
    for key, value in arrays.items():
        position, _, kind = key.partition(".")
        if position == "own":
            values[int(kind)] = value
        elif kind in KINDS:
            slots[_index(position, len(slots))][kind] = value
        else:
            raise ValueError(f"There is no slot {key}.")
    if sorted(values) != list(range(len(described))):
        raise ValueError("The variables of a subclass are not those described.")
    subclass_variables = [
        SubclassVariable(label, position, values[i])
        for i, (label, position) in enumerate(described)
    ]
    rho = fields["rho"]
    return State(
        subclass_variables=tuple(subclass_variables),
        **(
            fields
            | {
                "names": tuple(names),
                "slots": tuple(slots),
                # Files without groups have one number for all variables.
                "rho": tuple(rho) if isinstance(rho, list) else (rho,) * len(slots),
                "patterns": tuple(_listed(fields.get("patterns", []))),
            }
        ),
    )


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("It is no list.")
    return value


def _index(text: str, count: int) -> int:
    index = int(text)
    if not 0 <= index < count or str(index) != text:
        raise ValueError(f"There is no variable {text}.")
    return index


def _checksum_of_format_1(arrays: Mapping[str, Array]) -> int:
    """Return the CRC-32 of the names and bytes of arrays."""
    checksum = 0
    for key in sorted(arrays):
        checksum = zlib.crc32(key.encode(), checksum)
        checksum = zlib.crc32(bytes_of(arrays[key]), checksum)
    return checksum
