"""The elements of many variables in rows of one length, and their statistics, a row at a time.

A program that computes the statistics of each variable on its own is slow to compile and to run: it
has dozens of reductions for each of them, most of them small. In rows, the elements of all
variables that a step treats alike are reduced by one loop, and the rows of each variable then added
up.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_rmsprop._math._rule import Parameter, Tensor
from keras_rmsprop._math._statistics import Gradients, Totals

# The elements of a row. The last row of a variable is filled up.
ROW = 2**10

# The elements that are reduced at a time: they stay in the cache, and float32 loses digits in
# longer sums.
PIECE = 2**16

# From so many elements on, a variable has a loop of its own, for which it is not copied.
LARGE = 2**22

_ROWS = PIECE // ROW

Fields = Sequence[Tensor | None]


class Inputs(NamedTuple):
    """What a step reads of each element of a variable."""

    parameter: Parameter
    gradients: Gradients
    # Which of the elements count, of the same shape; None for all.
    mask: Tensor | None = None

    def flat(self) -> list[Tensor | None]:
        """Return all fields, each flattened."""
        fields = (*self.parameter, *self.gradients, self.mask)
        return [None if x is None else ops.reshape(x, (-1,)) for x in fields]

    @classmethod
    def of(cls, fields: Fields) -> "Inputs":
        """Return the inputs with these fields, in the order of `flat`."""
        slots = len(Parameter._fields)
        return cls(Parameter(*fields[:slots]), Gradients(*fields[slots:-1]), fields[-1])


# Reduces inputs of shape (rows, columns), to totals with a leading axis for the rows.
Reduce = Callable[[Inputs], Totals]


def totals_of(reduce: Reduce, variables: Sequence[Inputs]) -> Totals:
    """Return the totals of several variables, with a leading axis for them.

    Args:
        reduce: reduces rows.
        variables: of the same dtypes, and with the same fields.
    """
    flat = [variable.flat() for variable in variables]
    sizes = [_first(fields).shape[0] for fields in flat]
    if variables[0].mask is not None or None in sizes:
        # Rows of a table, whose number may be unknown in a graph.
        return joined([reduce(Inputs.of(_reshaped(fields, (1, -1)))) for fields in flat])
    found, owners = [], []
    for owner, (fields, size) in enumerate(zip(flat, sizes, strict=True)):
        if size >= LARGE:
            end = size - size % PIECE
            found.append(_by_blocks(reduce, _cut(fields, 0, end), end // PIECE))
            owners += [owner] * (end // ROW)
            flat[owner], sizes[owner] = _cut(fields, end, size), size - end
    found.append(_joined_by_blocks(reduce, flat, sizes))
    owners += [owner for owner, size in enumerate(sizes) for _ in range(_rows_of(size))]
    # The rows that fill up the last block are of nobody.
    totals = joined(found)
    rows = Totals(*(None if x is None else x[: len(owners)] for x in totals))
    return rows.by_owner(owners, len(variables))


def joined(found: Sequence[Totals]) -> Totals:
    """Return totals one after another along the leading axis."""
    if len(found) == 1:
        return found[0]
    columns = zip(*found, strict=True)
    return Totals(*(None if x[0] is None else ops.concatenate(x) for x in columns))


def _joined_by_blocks(reduce: Reduce, flat: Sequence[Fields], sizes: Sequence[int]) -> Totals:
    """Join variables, each filled up to whole rows, and reduce them by blocks."""
    lengths = [
        min(ROW, max(size - row * ROW, 0)) for size in sizes for row in range(_rows_of(size))
    ]
    # A compiler dissolves a loop over a single block, and joins the variables for each sum again.
    blocks = max(-(-len(lengths) // _ROWS), 2)
    lacking = blocks * _ROWS - len(lengths)
    lengths += [0] * lacking
    fields = [
        None if x[0] is None else _filled_up(x, sizes, lacking) for x in zip(*flat, strict=True)
    ]
    return _by_blocks(reduce, fields, blocks, np.asarray(lengths, np.int32))


def _by_blocks(
    reduce: Reduce, fields: Fields, blocks: int, lengths: np.ndarray[Any, Any] | None = None
) -> Totals:
    """Reduce rows, `PIECE` elements at a time.

    Args:
        reduce: reduces rows.
        fields: of `blocks * PIECE` elements.
        blocks: the number of blocks.
        lengths: how many elements of each row count, (rows,); None for all.
    """
    there = [x is not None for x in fields]
    columns = [x for x in _reshaped(fields, (blocks, _ROWS, ROW)) if x is not None]
    if lengths is not None:
        columns.append(ops.convert_to_tensor(lengths.reshape(blocks, _ROWS, 1)))
    place = ops.reshape(ops.arange(ROW, dtype="int32"), (1, ROW))

    def block(own: list[Tensor]) -> list[Tensor]:
        rest = iter(own)
        inputs = Inputs.of([next(rest) if is_there else None for is_there in there])
        if lengths is not None:
            inputs = inputs._replace(mask=ops.cast(place < next(rest), "float32"))
        return reduce(inputs).fields()

    found = ops.map(block, columns)
    return Totals(*(ops.reshape(x, (blocks * _ROWS, *x.shape[2:])) for x in found))


def _filled_up(parts: Sequence[Tensor], sizes: Sequence[int], lacking: int) -> Tensor:
    """Join one field of variables, each filled up to whole rows, and fill up the last block."""
    filled: list[Tensor] = []
    nothing = ops.zeros((lacking * ROW + ROW,), parts[0].dtype)
    for part, size in zip(parts, sizes, strict=True):
        missing = _rows_of(size) * ROW - size
        filled += [part, nothing[:missing]] if missing else [part]
    return ops.concatenate([*filled, nothing[: lacking * ROW]])


def _rows_of(size: int) -> int:
    """Return how many rows a variable has, at least one."""
    return max(-(-size // ROW), 1)


def _first(fields: Fields) -> Tensor:
    return next(x for x in fields if x is not None)


def _cut(fields: Fields, start: int, end: int) -> list[Tensor | None]:
    return [None if x is None else x[start:end] for x in fields]


def _reshaped(fields: Fields, shape: tuple[int, ...]) -> list[Tensor | None]:
    return [None if x is None else ops.reshape(x, shape) for x in fields]
