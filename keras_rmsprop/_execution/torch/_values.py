"""Read, convert and assign torch variables and gradients."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import torch

from keras_rmsprop._execution._op_by_op import assign
from keras_rmsprop._math import _rounding, _step


def are_ready(gradients: Sequence[Any], shapes: list[tuple[int, ...]]) -> bool:
    """Whether all gradients are dense floating tensors of these shapes."""
    return (
        _TENSORS.issuperset(map(type, gradients))
        and list(map(_get_shape, gradients)) == shapes
        and _FLOATING.issuperset(map(dtype_of, gradients))
        and _STRIDED.issuperset(map(_get_layout, gradients))
    )


def read(variable: keras.Variable) -> torch.Tensor:
    """Return the variable's current value; the tensor shares the variable's memory."""
    return variable.value


def copied(variable: keras.Variable) -> torch.Tensor:
    """Return a copy of the variable's value."""
    return read(variable).clone()


def write(pairs: Iterable[tuple[Any, torch.Tensor]]) -> None:
    """Assign each value to its variable."""
    for variable, value in pairs:
        assign(variable, value)


def copy(value: torch.Tensor) -> torch.Tensor:
    """Return the value; assigning copies it into the variable's memory anyway."""
    return value


def install() -> None:
    """Make the rounding of slots use torch's conversion."""
    _rounding.bitcast = _bitcast


def _bitcast(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return a tensor's bits as another dtype of the same size; it shares the memory."""
    return tensor.view(getattr(torch, dtype))


def dense(gradient: Any, variable: keras.Variable) -> torch.Tensor:
    """Return the gradient as a dense floating-point tensor.

    Raises: ValueError if it is complex.
    """
    if not isinstance(gradient, torch.Tensor):
        # NumPy arrays, lists and numbers.
        gradient = keras.ops.convert_to_tensor(gradient)
    if gradient.layout is not torch.strided:
        # `to_dense` sums repeated indices, inaccurately in half precision.
        gradient = gradient.to(_widened(gradient.dtype)).to_dense()
    if gradient.dtype not in _FLOATING:
        gradient = _as_floating(gradient, variable)
    return gradient


# In C, as each step asks all variables and gradients. `stored` is the tensor that a variable holds;
# its property `value` would first look for a scope.
stored = operator.attrgetter("_value")
device_of, dtype_of = operator.attrgetter("device"), operator.attrgetter("dtype")
_get_shape, _get_layout = operator.attrgetter("shape"), operator.attrgetter("layout")

_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})
_STRIDED = frozenset({torch.strided})
WIDE = frozenset({torch.float32, torch.float64})
_FLOATING = WIDE | {torch.float16, torch.bfloat16}


def _widened(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _as_floating(gradient: torch.Tensor, variable: Any) -> torch.Tensor:
    """Cast a gradient of integers, or of fewer than 16 bits, to the dtype of the slots."""
    if gradient.is_complex():
        raise ValueError(
            f"The gradient of {variable.path!r} is complex, received dtype {gradient.dtype}. "
            "Pass its real part."
        )
    wide = _step.accumulator_dtype(keras.backend.standardize_dtype(variable.dtype))
    return gradient.to(getattr(torch, wide))


def check_writable(variables: list[keras.Variable]) -> None:
    """Refuse variables whose memory torch cannot write to, before the step writes anything.

    Raises: RuntimeError, as torch does.
    """
    for variable in variables:
        tensor = variable._value
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError(
                f"{variable.path!r} was made under `torch.inference_mode()`, and torch changes it "
                "only there. Build model and optimizer outside, or make the step inside."
            )
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        if tensor.numel() and any(n > 1 and stride == 0 for n, stride in steps):
            raise RuntimeError(
                f"Several elements of {variable.path!r} lie in the same memory, such as those of "
                "an expanded tensor. Give it memory of its own, as `clone()` does."
            )


def check_devices(
    weights: Iterable[keras.Variable], gradients: Iterable[torch.Tensor | None]
) -> None:
    """Refuse gradients that are not on their variables' devices."""
    for variable, gradient in zip(weights, gradients, strict=True):
        if gradient is not None and gradient.device != variable.value.device:
            raise ValueError(
                f"The gradient of {variable.path!r} is on the device {gradient.device}, but the "
                f"variable is on {variable.value.device}."
            )
