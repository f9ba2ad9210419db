"""Sample the statistics of a step on torch, for many tensors at a time."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from keras import ops

from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._op_by_op import tensor_of
from keras_rmsprop._execution.torch._layout import Tensors
from keras_rmsprop._execution.torch._stages import accumulate, clip, clip_scales, transform, unscale
from keras_rmsprop._execution.torch._values import read
from keras_rmsprop._math import _rounding, _statistics, _step, _table
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._math._statistics import Gradients, Maxima, Sums, Totals
from keras_rmsprop._math._table import Sample
from keras_rmsprop._variables._watch import Watch

# The elements that are joined and processed at a time; larger tensors are cut. They and what is
# computed from them stay in the cache.
CHUNK = 2**17

# Smaller pieces are joined with others of any size, larger ones with others of the same size, for
# which there is a faster reduction.
SMALL = 2**12


class _Piece(NamedTuple):
    """Some of the elements of a variable, flat."""

    # The variable's row in the table.
    row: int
    parameter: Parameter
    gradients: Gradients


class _Kind(NamedTuple):
    """What pieces must have in common to be joined."""

    device: torch.device
    weight_dtype: torch.dtype
    gradient_dtype: torch.dtype
    group: int
    decayed: bool
    # The slots that there are, and whether they are stored in bfloat16.
    slots: tuple[bool, ...]
    narrow: bool
    # The number of elements; 0 for less than `SMALL`.
    size: int


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Return a context in which operations do not wait for other threads.

    On a busy machine each of hundreds would wait for milliseconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def table_after(
    step: Step, watch: Watch, gradients: Sequence[torch.Tensor | None], rate: Any
) -> torch.Tensor:
    """Return the table after a step that is sampled and does not run op by op.

    Args:
        step: the step.
        watch: what is watched of it.
        gradients: a dense gradient or None for each variable.
        rate: the learning rate, as a step gets it.
    """
    plan, numbers, roster = step.plan, step.numbers, step.roster
    parameters = [owners.read(read) for owners in roster.parameters]
    table, chosen = read(watch.table), watch.watched.positions
    stages, finite = _gradients_of(step, parameters, gradients)

    counters = roster.counters.read(read)
    done = counters.calls // plan.accumulation_steps
    learning_rate = tensor_of(rate, read)

    def scalars(group: int, dtype: torch.dtype) -> _step.Scalars:
        name = str(dtype).removeprefix("torch.")
        return _step.scalars_of(plan, numbers, counters, done, learning_rate, group, name)

    alike: dict[_Kind, list[_Piece]] = {}
    for row, i in enumerate(chosen):
        if i in stages:
            kind = _kind(plan, i, parameters[i], stages[i])
            for piece in _pieces(row, parameters[i], stages[i]):
                size = piece.parameter.weight.numel()
                own_kind = kind._replace(size=0 if size < SMALL else size)
                alike.setdefault(own_kind, []).append(piece)
    rows: list[int] = []
    found: list[Totals] = []
    for kind, pieces in alike.items():
        group = plan.groups[kind.group]._replace(transform=None)
        own = scalars(kind.group, torch.promote_types(kind.weight_dtype, torch.float32))
        for chunk in _chunks(pieces):
            clips, histograms = plan.clip is not None, watch.watched.histograms
            rows += [piece.row for piece in chunk]
            sizes = [piece.parameter.weight.numel() for piece in chunk]
            found.append(
                _totals(kind, _joined(chunk), sizes, group, clips, histograms, own, table.dtype)
            )
    if not found:
        return table
    of_group = {
        group: scalars(group, table.dtype).step.learning_rate for group in set(plan.members)
    }
    like = table.new_tensor
    sample = Sample(
        done,
        counts=like([float(parameters[i].weight.numel()) for i in chosen]),
        rates=torch.stack([torch.as_tensor(of_group[plan.members[i]]).to(table) for i in chosen]),
        present=torch.tensor([i in stages for i in chosen], device=table.device),
        finite=finite,
        by_rule=True,
    )
    totals = _of_rows(found, torch.tensor(rows, device=table.device), len(chosen))
    after: torch.Tensor = _table.table_after(sample, totals, table)
    return after


def _gradients_of(
    step: Step, parameters: list[Parameter], gradients: Sequence[torch.Tensor | None]
) -> tuple[dict[int, Gradients], torch.Tensor | None]:
    """Return the gradients of a step by position, and whether all are finite, as `_sample` does."""
    plan, numbers = step.plan, step.numbers
    given = {i: g for i, g in enumerate(gradients) if g is not None}
    values = [given.pop(i) for i in list(given) if plan.overwritten[i]]
    present = tuple(given)
    owners = [parameters[i] for i in present]
    raw = unscale(plan, numbers, list(given.values()))
    finite = None
    if plan.skip_nonfinite:
        verdicts = [_step.all_finite(plan, raw, owners, [None] * len(raw))]
        verdicts += [value.isfinite().all() for value in values]
        finite = ops.convert_to_tensor(all(map(bool, verdicts)))
    if plan.accumulation_steps > 1:
        raw = accumulate(plan, owners, raw, writes=False)
    scales = clip_scales(plan, numbers, raw)
    clipped: Tensors = raw
    if plan.clip is not None:
        clipped = [clip(plan, numbers, (g,), [place], scales)[0] for place, g in enumerate(raw)]
    # Those without a transform are returned as they are.
    used = transform(plan, numbers, parameters, present, raw, scales)
    used = [c if u is g else u for u, g, c in zip(used, raw, clipped, strict=True)]
    return dict(zip(present, map(Gradients, raw, clipped, used), strict=True)), finite


def _kind(plan: _step.Plan, i: int, parameter: Parameter, gradients: Gradients) -> _Kind:
    return _Kind(
        parameter.weight.device,
        parameter.weight.dtype,
        gradients.raw.dtype,
        plan.members[i],
        plan.decayed[i],
        tuple(slot is not None for slot in parameter[1:4]),
        _rounding.is_narrow(parameter),
        size=0,
    )


def _pieces(row: int, parameter: Parameter, gradients: Gradients) -> Iterator[_Piece]:
    """Yield a variable in pieces of at most `CHUNK` elements."""
    parameter = parameter._replace(accumulator=None, average=None)
    flat = [None if x is None else x.reshape(-1) for x in (*parameter, *gradients)]
    size = parameter.weight.numel()
    for start in range(0, size, CHUNK):
        cut = flat
        if size > CHUNK:
            cut = [None if x is None else x[start : start + CHUNK] for x in flat]
        yield _Piece(row, Parameter(*cut[:6]), Gradients(*cut[6:]))


def _chunks(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces in lists of at most `CHUNK` elements."""
    chunk: list[_Piece] = []
    elements = 0
    for piece in pieces:
        size = piece.parameter.weight.numel()
        if chunk and elements + size > CHUNK:
            yield chunk
            chunk, elements = [], 0
        chunk.append(piece)
        elements += size
    yield chunk


def _joined(chunk: list[_Piece]) -> _Piece:
    """Return pieces joined to one."""
    if len(chunk) == 1:
        return chunk[0]

    def cat(tensors: tuple[Any, ...]) -> Any:
        return None if tensors[0] is None else torch.cat(tensors)

    parameters, stages = zip(*((p.parameter, p.gradients) for p in chunk), strict=True)
    raw, clipped, used = zip(*stages, strict=True)
    joined = cat(raw)
    clipped_joined = joined if clipped[0] is raw[0] else cat(clipped)
    # Shared where nothing is done to the gradients, to spare copies.
    same = all(u is c for u, c in zip(used, clipped, strict=True))
    gradients = Gradients(joined, clipped_joined, clipped_joined if same else cat(used))
    return _Piece(-1, Parameter(*map(cat, zip(*parameters, strict=True))), gradients)


def _totals(
    kind: _Kind,
    joined: _Piece,
    sizes: list[int],
    group: _step.GroupPlan,
    clips: bool,
    histograms: bool,
    scalars: _step.Scalars,
    dtype: torch.dtype,
) -> Totals:
    """Return the totals of pieces, with a leading axis for them.

    Args:
        kind: what the pieces have in common.
        joined: the pieces, joined.
        sizes: the number of elements of each.
        group: as for `_statistics.elements`, as are `clips`, `histograms` and `scalars`.
        clips: see `group`.
        histograms: see `group`.
        scalars: see `group`.
        dtype: that of the result.
    """
    raw, clipped, used = joined.gradients
    lengths = torch.tensor(sizes, device=raw.device)

    def reduce(values: torch.Tensor, operation: str) -> torch.Tensor:
        if not kind.size:
            return torch.segment_reduce(values, operation, lengths=lengths).to(dtype)
        rows = values.view(-1, kind.size)
        return (rows.sum(1) if operation == "sum" else rows.amax(1)).to(dtype)

    largest = reduce(raw.abs(), "max")
    spread = _statistics.unit_of(largest).to(raw.dtype).repeat_interleave(lengths)
    scaled = raw / spread
    each = _statistics.elements(
        group,
        kind.decayed,
        clips,
        histograms,
        scalars,
        joined.parameter,
        Gradients(scaled, scaled if clipped is raw else clipped / spread, used),
    )
    return Totals(
        largest,
        torch.stack([reduce(x, "sum") for x in each.sums], dim=1),
        torch.stack([reduce(x, "max") for x in each.maxima], dim=1),
        torch.stack([reduce(x, "sum") for x in each.not_below], dim=1) if histograms else None,
    )


def _of_rows(found: list[Totals], rows: torch.Tensor, number: int) -> Totals:
    """Add up the totals of pieces to those of variables, with a leading axis for these.

    Args:
        found: the totals of pieces.
        rows: the row of each piece's variable.
        number: the number of rows.
    """

    def joined(column: Sequence[Any]) -> Any:
        return None if column[0] is None else torch.cat([x.to(rows.device) for x in column])

    largest, sums, maxima, not_below = map(joined, zip(*found, strict=True))
    together = largest.new_zeros(number).scatter_reduce_(0, rows, largest, "amax")
    in_unit = Totals(largest, sums, maxima).sums_in(together[rows])
    return Totals(
        together,
        sums.new_zeros(number, len(Sums._fields)).index_add_(0, rows, in_unit),
        maxima.new_full((number, len(Maxima._fields)), -math.inf).scatter_reduce_(
            0, rows.unsqueeze(1).expand_as(maxima), maxima, "amax"
        ),
        None
        if not_below is None
        else not_below.new_zeros(number, not_below.shape[1]).index_add_(0, rows, not_below),
    )
