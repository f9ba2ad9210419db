"""Write variables of Keras, TensorFlow or tf_keras, all or none of them."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import backend

from keras_rmsprop import _state
from keras_rmsprop._execution import _op_by_op
from keras_rmsprop._variables import _pairing
from keras_rmsprop.interop._source import Array


def write(assignments: Iterable[tuple[Any, Any]]) -> None:
    """Assign each value to its variable, or none if one cannot be, or at Ctrl-C.

    Args:
        assignments: variables, and arrays of their shapes or numbers.

    Raises: ValueError if a value is too large for its variable's dtype; nothing has changed then.
    """
    converted = [(variable, _converted(variable, value)) for variable, value in assignments]
    _op_by_op.write_all_or_nothing(converted, _kept, _op_by_op.assign)


def check_variable(variable: Any) -> None:
    """Refuse what cannot be assigned to.

    Raises: ValueError for a path, or a tensor that a layer computes.
    """
    if isinstance(variable, str):
        raise ValueError(f"Weights need variables, received the path {variable!r}.")
    if not hasattr(variable, "assign"):
        raise ValueError(f"Weights need variables, received a {type(variable).__name__}.")


def check_range(array: Array, dtype: str, path: str) -> None:
    """Refuse numbers that a dtype cannot hold.

    Args:
        array: what is to be written.
        dtype: the name of the dtype of what it is written to.
        path: the name of that, for the message.

    Raises: ValueError if a finite number would become infinite, or an integer is above the range.
    """
    if dtype.startswith(("int", "uint")):
        is_too_large = bool(np.any(array > np.iinfo(dtype).max))
    else:
        # What becomes infinite; where it is infinite already, it stays so.
        with np.errstate(over="ignore"):
            narrow = array.astype(_narrow(dtype))
        is_too_large = bool(np.any(np.isfinite(array) & ~np.isfinite(narrow)))
    if is_too_large:
        raise ValueError(
            f"{np.max(np.abs(array)):.7g} is too large for {path!r}, which has the dtype {dtype}. "
            "Nothing has changed."
        )


def _converted(variable: Any, value: Any) -> Any:
    array = np.array(value)
    check_range(array, _dtype_of(variable), _pairing.path_of(variable))
    # Variables of TensorFlow take only arrays of their own dtype.
    dtype = getattr(variable.dtype, "as_numpy_dtype", None)
    return array if dtype is None else array.astype(dtype)


def _dtype_of(variable: Any) -> str:
    return str(backend.standardize_dtype(getattr(variable.dtype, "name", variable.dtype)))


def _narrow(name: str) -> Any:
    """Return NumPy's dtype of this name, or for one that it does not know one as wide."""
    return np.dtype(name if name in ("float16", "float32", "float64") else np.float32)


def _kept(variable: Any) -> Any:
    """Return a copy of a variable's value."""
    if isinstance(variable, keras.Variable):
        return _state.array_of(variable)
    return np.array(variable.numpy())
