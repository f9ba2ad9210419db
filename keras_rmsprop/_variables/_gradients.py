"""Check the gradients that `apply` receives against their variables."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_rmsprop._math._rule import Tensor


def check_present(gradients: Sequence[Tensor | None], variables: Sequence[Any]) -> None:
    """Check that there is one entry per variable, and at least one gradient.

    Raises: ValueError if not.
    """
    if len(gradients) != len(variables):
        raise ValueError(
            f"`apply` needs one gradient (or None) for each variable, received "
            f"{len(gradients)} gradients for {len(variables)} variables."
        )
    if all(gradient is None for gradient in gradients):
        raise ValueError("No gradients provided for any variable.")


def check_match(
    gradients: Sequence[Tensor | None],
    variables: Sequence[Any],
    keys: Sequence[Hashable],
    shapes: list[tuple[int, ...]],
    shape_of: Callable[[Tensor], Sequence[int | None]],
) -> None:
    """Check that no variable occurs twice and that every gradient has its variable's shape.

    Args:
        gradients: a gradient or None for each variable.
        variables: the variables; only their names are used.
        keys: what identifies each variable.
        shapes: the shape of each variable.
        shape_of: returns a gradient's shape, with None for unknown dimensions.

    Raises: ValueError that names the variable.
    """
    if len(set(keys)) != len(keys):
        twice = next(v for v, key in zip(variables, keys, strict=True) if keys.count(key) > 1)
        raise ValueError(
            f"The variable {name_of(twice)!r} occurs more than once in one call of `apply`. "
            "Add its gradients up and pass it once."
        )
    received = [
        shape if gradient is None else shape_of(gradient)
        for gradient, shape in zip(gradients, shapes, strict=True)
    ]
    if received == shapes:
        return
    for variable, given, shape in zip(variables, received, shapes, strict=True):
        if not _fits(given, shape):
            raise ValueError(
                f"The gradient of {name_of(variable)!r} has shape {tuple(given)}, but the "
                f"variable has shape {shape}."
            )


def name_of(variable: Any) -> str:
    """Return a variable's path, or its name: a raw tf.Variable has no path."""
    return str(getattr(variable, "path", None) or variable.name)


def _fits(received: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Whether a shape, possibly with unknown dimensions, is compatible with `shape`."""
    return received == shape or (
        len(received) == len(shape)
        and all(a is None or a == b for a, b in zip(received, shape, strict=True))
    )


# Types of gradients that are not tensors or arrays.
PYTHON_TYPES = frozenset({list, tuple, int, float})


def as_tensor(gradient: Any) -> Tensor:
    """Convert a gradient given as a list or a number, which Keras accepts as well."""
    # NumPy keeps float64 for lists of floats. It may not accept lists of tensors.
    try:
        return np.asarray(gradient, "float64")
    except (TypeError, ValueError):
        return ops.convert_to_tensor(gradient)
