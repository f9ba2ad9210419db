"""Update a block whose slots are in bfloat16: `_math._rounding`, with in-place operations."""

from collections.abc import Callable, Iterator, Sequence

import torch

from keras_rmsprop._execution.torch import _layout
from keras_rmsprop._execution.torch._layout import Block, Tensors
from keras_rmsprop._math._rounding import FIRST, LARGEST, SECOND, SEED, key_of

# On a CPU, pieces of large tensors are rounded this many elements at a time, with integers in the
# cache.
CHUNK = 2**17


def update_narrow(
    update: Callable[[Block, Tensors], None], block: Block, gradients: Tensors, done: int
) -> None:
    """Widen the slots of a block, update it in place, and round the slots.

    Args:
        update: updates a block with float32 slots in place.
        block: the tensors, with bfloat16 slots.
        gradients: their gradients.
        done: how many steps have been made.
    """
    columns = (block.square_averages, block.gradient_averages, block.momentums)
    sizes = [tensor.numel() for tensor in block.weights]
    flats = _memory(block, columns, sum(sizes))
    wide = [_views(flat, slots) for flat, slots in zip(flats, columns, strict=True)]
    for values, slots in zip(wide, columns, strict=True):
        if slots:
            torch._foreach_copy_(values, slots)
    s, m, b = wide
    update(block._replace(square_averages=s, gradient_averages=m, momentums=b), gradients)

    step = mixed(done + SEED)
    for kind, (flat, values, slots) in enumerate(zip(flats, wide, columns, strict=True)):
        if slots:
            # Pieces of one tensor go on where the previous one ends.
            keys = [
                mixed(key_of(step, position) + kind) + piece * _layout.PIECE
                for position, (_, piece) in zip(block.positions, block.sources, strict=True)
            ]
            _round_(flat, keys, sizes)
            torch._foreach_copy_(slots, values)


def _memory(block: Block, columns: Sequence[Tensors], elements: int) -> list[torch.Tensor]:
    """Return float32 memory for the slots of each kind."""
    if block.widened is not None:
        return [memory[:elements] for memory in block.widened]
    device = block.weights[0].device
    return [
        torch.empty(elements if slots else 0, dtype=torch.float32, device=device)
        for slots in columns
    ]


def _views(flat: torch.Tensor, slots: Tensors) -> list[torch.Tensor]:
    """Return the parts of a flat tensor, in the shapes of the slots."""
    if not slots:
        return []
    parts = flat.split([slot.numel() for slot in slots])
    return [part.view(slot.shape) for part, slot in zip(parts, slots, strict=True)]


def _round_(flat: torch.Tensor, keys: list[int], sizes: list[int]) -> None:
    """Round float32 numbers in place to numbers that bfloat16 can represent.

    Args:
        flat: several tensors, one after the other.
        keys: for each of them its key, any integers.
        sizes: their numbers of elements.
    """
    size = _layout.WIDENED
    if flat.device.type == "cpu":
        size = _layout.GRAIN if max(sizes) <= _layout.GRAIN else CHUNK
    longest = min(size, flat.numel())
    indices = torch.arange(longest, dtype=torch.int32, device=flat.device)
    memory = torch.empty(2, longest, dtype=torch.int32, device=flat.device)
    bits = flat.view(torch.int32)
    for start, parts in _chunks(keys, sizes, size):
        end = 0
        for key, length in parts:
            first, end = end, end + length
            torch.add(indices[:length], key, out=memory[0, first:end])
        _round_chunk_(bits[start : start + end], memory[0, :end], memory[1, :end])


def _chunks(
    keys: list[int], sizes: list[int], limit: int
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield chunks of at most `limit` elements: where each starts, and its parts.

    A part is a whole small tensor, or a piece of a larger one: the key of its first element as a
    signed number, and its number of elements.
    """
    start = filled = 0
    parts: list[tuple[int, int]] = []
    for key, size in zip(keys, sizes, strict=True):
        for first in range(0, size, limit):
            length = min(limit, size - first)
            if filled + length > limit:
                yield start, parts
                start, filled, parts = start + filled, 0, []
            parts.append(((key + first + 2**31) % 2**32 - 2**31, length))
            filled += length
    if parts:
        yield start, parts


def _round_chunk_(bits: torch.Tensor, random: torch.Tensor, memory: torch.Tensor) -> None:
    """Round the bits of float32 numbers in place.

    Args:
        bits: int32, shape (elements,).
        random: the index plus the key of each, overwritten.
        memory: overwritten.
    """
    random *= FIRST
    torch.bitwise_right_shift(random, 15, out=memory)
    memory &= 2**17 - 1
    random ^= memory
    random *= SECOND
    random >>= 16
    random &= 0xFFFF
    # Neither infinity nor NaN, and not beyond the largest number either. The sign of the difference
    # becomes a mask: on a CPU a comparison takes as long as four of these operations.
    torch.bitwise_and(bits, 0x7FFFFFFF, out=memory)
    memory -= LARGEST
    memory >>= 31
    random &= memory
    bits += random
    bits &= -0x10000


def mixed(number: int) -> int:
    """Return `_math._rounding.mixed` of an integer, modulo 2**32."""
    number %= 2**32
    number ^= number >> 16
    number = number * FIRST % 2**32
    number ^= number >> 15
    number = number * SECOND % 2**32
    return number ^ number >> 16
