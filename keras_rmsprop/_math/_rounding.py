"""Slots in bfloat16: widening them for a step, and rounding the results stochastically.

bfloat16 is the upper half of float32. To round x, a random integer below 2**16 is added to the bits
of the float32 number, and the lower half is cut off. The probability of rounding away from zero is
the part that is cut off, so the mean over the random integers is x itself. Rounding to the nearest
number would lose every contribution smaller than half a unit in the last place: an average with rho
above 0.998 could not decay any more.

The random integer is a hash of the step, the variable, the kind of slot and the element's index. It
has no state: a resumed run, a replica and every backend round alike. A value that bfloat16 can
represent is never changed, and so neither is a slot that the step leaves alone.
"""

from collections.abc import Callable
from typing import Any

from keras import backend, ops

from keras_rmsprop._math._rule import Parameter, Tensor

# The fields of a `Parameter` that `state_dtype` is about.
SLOTS = ("square_average", "gradient_average", "momentum")

# Any number. It is no option of the optimizer: nothing depends on which random numbers are taken.
SEED = 0x3C6EF372
# Multipliers of a hash by C. Wellons (lowbias32, 2018). The second one as a signed number.
FIRST, SECOND = 0x7FEB352D, 0x846CA68B - 2**32

# The bits of the largest finite bfloat16 number.
LARGEST = 0x7F7F0000


def _not_installed(tensor: Tensor, dtype: str) -> Tensor:
    raise NotImplementedError(f"The engine of {backend.backend()} sets no `bitcast`.")


# Returns the bits of a float32 tensor as int32, or the reverse. Each engine sets it:
# `keras.ops.view` exists since Keras 3.13 only.
bitcast: Callable[[Tensor, str], Tensor] = _not_installed


def is_narrow(parameter: Parameter) -> bool:
    """Whether the slots of a parameter are stored in bfloat16."""
    slot = parameter.square_average
    return slot is not None and backend.standardize_dtype(slot.dtype) == "bfloat16"


def widened(parameter: Parameter) -> Parameter:
    """Return a parameter with its bfloat16 slots in float32."""
    if not is_narrow(parameter):
        return parameter
    slots = {name: getattr(parameter, name) for name in SLOTS}
    return parameter._replace(
        **{name: None if x is None else ops.cast(x, "float32") for name, x in slots.items()}
    )


def key_of_step(done: Tensor) -> Tensor:
    """Return the int32 key of the step that follows `done` steps."""
    return mixed(ops.cast(done, "int32") + SEED)


def key_of(step: Any, position: int) -> Any:
    """Return the key of the variable at `position` in a step."""
    return step + len(SLOTS) * position


def narrowed(parameter: Parameter, key: Tensor) -> Parameter:
    """Return a parameter with its float32 slots rounded to bfloat16.

    Args:
        parameter: the weight and its slots, whole tensors of one shape.
        key: the int32 key of the variable in this step.
    """
    slots: dict[str, Tensor] = {}
    for kind, name in enumerate(SLOTS):
        slot = getattr(parameter, name)
        # A subclass's hook has stored it already.
        if slot is not None and backend.standardize_dtype(slot.dtype) == "float32":
            slots[name] = rounded(slot, mixed(key + kind))
    return parameter._replace(**slots)


def to_bfloat16(x: Tensor, key: Tensor) -> Tensor:
    """Round a float32 tensor to bfloat16, up or down at random, without bias.

    Infinity and NaN stay what they are. Finite numbers stay finite: beyond the largest bfloat16
    number they are rounded towards zero.

    Args:
        x: a whole tensor of any shape.
        key: scalar int32; other keys give other random numbers.
    """
    bits = bitcast(x, "int32")
    random = ops.right_shift(_scrambled(_indices(tuple(x.shape)) + key), 16) & 0xFFFF
    is_within = (bits & 0x7FFFFFFF) < LARGEST
    bits = bits + ops.where(is_within, random, ops.zeros_like(random))
    return ops.cast(bitcast(bits & -0x10000, "float32"), "bfloat16")


# An engine whose steps may be differentiated replaces this by one whose derivative is 1.
rounded: Callable[[Tensor, Tensor], Tensor] = to_bfloat16


def mixed(x: Tensor) -> Tensor:
    """Return a hash of int32 numbers, of which all bits may be used."""
    x = x ^ _shifted(x, 16)
    x = _scrambled(x)
    return x ^ _shifted(x, 16)


def _scrambled(x: Tensor) -> Tensor:
    """Return a hash of int32 numbers whose upper half is well mixed. Products wrap around."""
    x = x * FIRST
    x = x ^ _shifted(x, 15)
    return x * SECOND


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; on int32, backends fill with the sign."""
    return ops.right_shift(x, bits) & ((1 << (32 - bits)) - 1)


def _indices(shape: tuple[int, ...]) -> Tensor:
    """Return the index of each element in row-major order, as int32, modulo 2**32."""
    indices = ops.zeros((), "int32")
    stride = 1
    for axis in reversed(range(len(shape))):
        wrapped = (stride + 2**31) % 2**32 - 2**31
        along = ops.arange(shape[axis], dtype="int32") * wrapped
        indices = indices + ops.reshape(along, (-1, *[1] * (len(shape) - axis - 1)))
        stride *= shape[axis]
    return indices
