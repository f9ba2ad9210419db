"""Sample the statistics of a step on torch, for many tensors at a time."""

import contextlib
import itertools
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
from keras_rmsprop._math import _rounding, _rows, _statistics, _step, _table
from keras_rmsprop._math._rows import ROW
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._math._statistics import Effect, Extremes, Gradients, Sums, Totals
from keras_rmsprop._math._table import Sample
from keras_rmsprop._variables._watch import Watch

# The elements that are joined and processed at a time; larger tensors are cut. They and what is
# computed from them stay in the cache.
CHUNK = 2**18


class _Piece(NamedTuple):
    """Some of the elements of a variable, flat."""

    # The variable's row in the table.
    owner: int
    parameter: Parameter
    gradients: Gradients

    @property
    def size(self) -> int:
        size: int = self.parameter.weight.numel()
        return size

    @property
    def rows(self) -> int:
        """The number of rows that it takes; what is less than a row is filled up."""
        return max(self.size // ROW, 1)


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
    # Whether the pieces consist of whole rows; others are shorter than a row.
    whole: bool


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
            for piece in _pieces(row, parameters[i], stages[i]):
                alike.setdefault(_kind(plan, i, piece), []).append(piece)
    owners: list[int] = []
    found: list[Totals] = []
    for kind, pieces in alike.items():
        group = plan.groups[kind.group]._replace(transform=None)
        own = scalars(kind.group, torch.promote_types(kind.weight_dtype, torch.float32))
        for chunk in _chunks(pieces):
            effect, rows, mask = _rows_of(kind, chunk, group, own)
            clips, histograms = plan.clip is not None, watch.watched.histograms
            totals = _totals(effect, rows, mask, clips, histograms, own)
            found.append(Totals(*(None if x is None else x.to(table) for x in totals)))
            owners += [piece.owner for piece in chunk for _ in range(piece.rows)]
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
    totals = _rows.joined(found).by_owner(owners, len(chosen))
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


def _pieces(owner: int, parameter: Parameter, gradients: Gradients) -> Iterator[_Piece]:
    """Yield a variable in pieces of whole rows, at most `CHUNK` elements, and the rest."""
    parameter = parameter._replace(accumulator=None, average=None)
    flat = [None if x is None else x.reshape(-1) for x in (*parameter, *gradients)]
    size = parameter.weight.numel()
    end = size - size % ROW
    bounds = [*range(0, end, CHUNK), end]
    # A variable without elements has one piece.
    bounds += [size] if size > end or not size else []
    for start, stop in itertools.pairwise(bounds):
        cut = flat
        if stop - start < size:
            cut = [None if x is None else x[start:stop] for x in flat]
        yield _Piece(owner, Parameter(*cut[:6]), Gradients(*cut[6:]))


def _kind(plan: _step.Plan, i: int, piece: _Piece) -> _Kind:
    parameter = piece.parameter
    return _Kind(
        parameter.weight.device,
        parameter.weight.dtype,
        piece.gradients.raw.dtype,
        plan.members[i],
        plan.decayed[i],
        tuple(slot is not None for slot in parameter[1:4]),
        _rounding.is_narrow(parameter),
        piece.size >= ROW,
    )


def _chunks(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Yield pieces in lists of at most `CHUNK` elements, a row counting as full."""
    chunk: list[_Piece] = []
    elements = 0
    for piece in pieces:
        size = piece.rows * ROW
        if chunk and elements + size > CHUNK:
            yield chunk
            chunk, elements = [], 0
        chunk.append(piece)
        elements += size
    yield chunk


def _rows_of(
    kind: _Kind, chunk: list[_Piece], group: _step.GroupPlan, scalars: _step.Scalars
) -> tuple[Effect, Gradients, torch.Tensor | None]:
    """Join pieces to rows; return the effect of the step on them, and which elements count.

    What fills up a row is 0 before the step, and stays so, but for the average of squares: it is 1,
    so that nothing is divided by 0.
    """
    parameters, stages = zip(*((p.parameter, p.gradients) for p in chunk), strict=True)
    sizes = [piece.size for piece in chunk]
    mask = None
    if not kind.whole:
        lengths = torch.tensor(sizes, device=kind.device).unsqueeze(1)
        mask = torch.arange(ROW, device=kind.device) < lengths

    def joined(tensors: tuple[Any, ...], filling: float = 0.0) -> Any:
        first = tensors[0]
        if first is None:
            return None
        parts = tensors
        if mask is not None:
            rest = first.new_full((ROW,), filling)
            parts = tuple(
                x for t, size in zip(tensors, sizes, strict=True) for x in (t, rest[size:])
            )
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).view(-1, ROW)

    before = Parameter(
        *(
            joined(column, float(name == "square_average"))
            for name, column in zip(Parameter._fields, zip(*parameters, strict=True), strict=True)
        )
    )
    raw, clipped, used = zip(*stages, strict=True)
    rows = joined(raw)
    # Shared where nothing is done to the gradients, to spare copies.
    cut = rows if clipped[0] is raw[0] else joined(clipped)
    same = all(u is c for u, c in zip(used, clipped, strict=True))
    gradients = Gradients(rows, cut, cut if same else joined(used))
    effect = _statistics.effect_of(group, kind.decayed, scalars, before, gradients.used)
    return effect, gradients, mask


def _totals(
    effect: Effect,
    gradients: Gradients,
    mask: torch.Tensor | None,
    clips: bool,
    histograms: bool,
    scalars: _step.Scalars,
) -> Totals:
    """Reduce the elements of rows, as `_statistics.totals_of_rows` does, in fewer passes.

    Args:
        effect: of the step on each element.
        gradients: of each element.
        mask: which of the elements count; None for all.
        clips: whether gradients are clipped at all.
        histograms: whether to compare with `EDGES`.
        scalars: the scalars of the step.
    """
    update, root = effect.update, effect.root
    raw, clipped = (_step.widen(x) for x in gradients[:2])
    largest: list[torch.Tensor] = []
    squares: list[torch.Tensor] = []
    for values in (raw, clipped if clips else raw, effect.wide, update):
        if values is raw and largest:
            own, squared = largest[0], squares[0]
        else:
            own = values.abs().amax(1)
            unit = _statistics.unit_of(own).unsqueeze(1)
            squared = torch.linalg.vector_norm(values / unit, dim=1).square()
        largest.append(own)
        squares.append(squared)
    # A comparison into a buffer of floats is ten times as fast as one into booleans.
    buffer, of_gradient = torch.empty_like(update), torch.empty_like(raw)
    changed = torch.zeros_like(largest[0])
    if clips:
        torch.ne(raw, clipped, out=of_gradient)
        # An element that is NaN is not equal to itself.
        changed = of_gradient.mul_(torch.eq(raw, raw)).sum(1)
    zeros = torch.eq(raw, 0.0, out=of_gradient).sum(1)
    decided = torch.lt(effect.bound, scalars.step.epsilon, out=buffer)
    if mask is None:
        decided = decided.sum(1)
        extremes = Extremes(root.amax(1), -root.amin(1))
    else:
        zeros = zeros - (~mask).sum(1)
        decided = decided.mul_(mask).sum(1)
        extremes = Extremes(
            root.where(mask, -math.inf).amax(1), -root.where(mask, math.inf).amin(1)
        )
        root = root.where(mask, 1.0)
    log_root = torch.log(root, out=buffer).sum(1)
    # Negative averages, which a file may hold, are finite.
    finite = torch.lt(effect.average, math.inf, out=buffer).sum(1)
    still = torch.eq(effect.moved, effect.weight, out=torch.empty_like(effect.weight))
    sums = Sums(
        squared_gradient=squares[0],
        squared_clipped_gradient=squares[1],
        squared_weight=squares[2],
        squared_update=squares[3],
        zero_gradients=zeros,
        clipped=changed,
        log_root=log_root,
        decided_by_epsilon=decided,
        frozen=update.shape[1] - finite,
        stuck=torch.ne(update, 0.0, out=buffer).mul_(still).sum(1),
    )
    above = []
    if histograms:
        for condition in _statistics.not_below(effect, scalars):
            kept = condition if mask is None else condition & mask
            above.append(kept.sum(1))

    def stacked(columns: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([column.to(update.dtype) for column in columns], dim=1)

    return Totals(
        stacked(largest), stacked(sums), stacked(extremes), stacked(above) if above else None
    )
