"""The elements of many variables in rows of one length, and their statistics, a row at a time.

A program that computes the statistics of each variable on its own is slow to compile and to run: it
has dozens of reductions for each of them, most of them small. In rows, the elements of all
variables that a step treats alike are reduced by one loop, and the rows of each variable then added
up.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_rmsprop._math._rule import Parameter, Tensor
from keras_rmsprop._math._statistics import Gradients, Totals, totals_of_nothing

# The elements of a row. The last row of a variable is filled up.
ROW = 2**10

# The elements that are reduced at a time: they stay in the cache, and float32 loses digits in
# longer sums.
PIECE = 2**16

# From so many elements on, a variable has a loop of its own, which needs no copy of it.
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


def totals_of(reduce: Reduce, variables: Sequence[Inputs], histograms: bool, dtype: str) -> Totals:
    """Return the totals of several variables, with a leading axis for them.

    Args:
        reduce: reduces rows.
        variables: of the same dtypes, and with the same fields.
        histograms: whether the totals have them.
        dtype: that of the totals.
    """
    flat = [variable.flat() for variable in variables]
    sizes = [_first(fields).shape[0] for fields in flat]
    if variables[0].mask is not None or None in sizes:
        # Rows of a table, whose number may be unknown in a graph.
        return joined([reduce(Inputs.of(_reshaped(fields, (1, -1)))) for fields in flat])
    start = totals_of_nothing(_ROWS, histograms, dtype)
    found, owners = [], []
    for owner, (fields, size) in enumerate(zip(flat, sizes, strict=True)):
        if size >= LARGE:
            end = size - size % PIECE
            found.append(_folded(reduce, _cut(fields, 0, end), end // PIECE, start))
            owners += [owner] * _ROWS
            flat[owner], sizes[owner] = _cut(fields, end, size), size - end
    found.append(_by_blocks(reduce, flat, sizes))
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


def _folded(reduce: Reduce, fields: Fields, number: int, start: Totals) -> Totals:
    """Reduce pieces of one variable, and add them up row by row."""
    pieces = _reshaped(fields, (number, _ROWS, ROW))

    def add(i: Tensor, totals: list[Tensor]) -> list[Tensor]:
        piece = reduce(Inputs.of([None if x is None else x[i] for x in pieces]))
        return Totals(*totals).joined(piece).fields()

    return Totals(*ops.fori_loop(0, number, add, start.fields()))


def _by_blocks(reduce: Reduce, flat: Sequence[Fields], sizes: Sequence[int]) -> Totals:
    """Reduce variables that are joined to rows, `PIECE` elements at a time."""
    lengths = [
        min(ROW, max(size - row * ROW, 0)) for size in sizes for row in range(_rows_of(size))
    ]
    # A compiler dissolves a loop over a single block, and joins the variables for each sum again.
    blocks = max(-(-len(lengths) // _ROWS), 2)
    lacking = blocks * _ROWS - len(lengths)
    lengths += [0] * lacking
    columns = [
        None if x[0] is None else _filled_up(x, sizes, lacking) for x in zip(*flat, strict=True)
    ]
    there = [x is not None for x in columns]
    pieces = _reshaped(columns, (blocks, _ROWS, ROW))
    number = np.reshape(np.asarray(lengths, np.int32), (blocks, _ROWS, 1))
    place = ops.reshape(ops.arange(ROW, dtype="int32"), (1, ROW))

    def block(own: list[Tensor]) -> list[Tensor]:
        *values, length = own
        rest = iter(values)
        *fields, _ = (next(rest) if is_there else None for is_there in there)
        mask = ops.cast(place < length, "float32")
        return reduce(Inputs.of([*fields, mask])).fields()

    found = ops.map(block, [*(x for x in pieces if x is not None), ops.convert_to_tensor(number)])
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
