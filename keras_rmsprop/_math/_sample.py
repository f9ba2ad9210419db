"""Sample a step: compute its statistics from what it reads, with the stages of `_step.step`."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keras import ops

from keras_rmsprop._math import _rows, _rule, _step
from keras_rmsprop._math._rows import Inputs
from keras_rmsprop._math._rule import Number, Parameter, Tensor
from keras_rmsprop._math._statistics import Gradients, Totals, effect_of, totals_of_rows
from keras_rmsprop._math._step import Counters, Flags, Numbers, Plan, Scalars
from keras_rmsprop._math._table import Sample, Watched, table_after


def sampled(
    plan: Plan,
    numbers: Numbers,
    counters: Counters,
    learning_rate: Number,
    parameters: Sequence[Parameter],
    gradients: Sequence[Tensor | None],
    watched: Watched,
    table: Tensor,
    *,
    by_rule: bool = True,
    row_masks: Mapping[int, Tensor] | None = None,
    flags: Flags | None = None,
) -> Tensor:
    """Return the table after a call that completes a step.

    Args:
        plan: what the step does.
        numbers: the numbers of the step.
        counters: the counts so far.
        learning_rate: the rate of this step.
        parameters: the built variables with their slots.
        gradients: for each parameter a dense tensor of its shape, or None.
        watched: which variables are sampled.
        table: the table before.
        by_rule: whether `_rule.update` makes the update.
        row_masks: as for `_step.step`.
        flags: as for `_step.step`.
    """
    flags = flags or {}
    done = counters.calls // plan.accumulation_steps
    stages, finite = _gradients(plan, numbers, parameters, gradients, row_masks or {}, flags)
    scalars_of = functools.cache(
        functools.partial(_step.scalars_of, plan, numbers, counters, done, learning_rate)
    )
    dtype, nothing = watched.dtype, ops.zeros((), watched.dtype)
    alike: dict[_Kind, dict[int, Inputs]] = {}
    counts, rates = [], []
    for i in watched.positions:
        if i not in stages:
            counts.append(nothing)
            rates.append(nothing)
            continue
        own, row_mask = stages[i]
        before = parameters[i]._replace(accumulator=None, average=None)
        mask, count = _mask_and_count(own.raw, row_mask, dtype)
        kind = _kind(plan, i, before, own, mask)
        alike.setdefault(kind, {})[i] = Inputs(before, own, mask)
        counts.append(count)
        rate = scalars_of(kind.group, _step.arithmetic_dtype(before)).step.learning_rate
        rates.append(nothing + _rule.number_in(rate, dtype))
    if not alike:
        return table
    found = [
        _totals(plan, kind, watched, scalars_of(kind.group, kind.arithmetic), list(own.values()))
        for kind, own in alike.items()
    ]
    order = [i for own in alike.values() for i in own]
    there = [flags.get(i, ops.convert_to_tensor(i in order)) for i in watched.positions]
    sample = Sample(done, ops.stack(counts), ops.stack(rates), ops.stack(there), finite, by_rule)
    return table_after(sample, _in_order(_rows.joined(found), order, watched.positions), table)


def _gradients(
    plan: Plan,
    numbers: Numbers,
    parameters: Sequence[Parameter],
    gradients: Sequence[Tensor | None],
    row_masks: Mapping[int, Tensor],
    flags: Flags,
) -> tuple[dict[int, tuple[Gradients, Tensor | None]], Tensor | None]:
    """Return the gradients and row masks of a step by position, and whether all are finite."""
    present = {i: g for i, g in enumerate(gradients) if g is not None}
    values = [present.pop(i) for i in list(present) if plan.overwritten[i]]
    present = {i: _step.unscale(plan, numbers, parameters[i], g) for i, g in present.items()}
    masks = [row_masks.get(i) for i in present]
    finite = None
    if plan.skip_nonfinite:
        owners = [parameters[i] for i in present]
        finite = _step.all_finite(plan, list(present.values()), owners, masks)
        for value in values:
            finite = ops.logical_and(finite, ops.all(ops.isfinite(value)))
    if plan.accumulation_steps > 1:
        for i, g in present.items():
            _, mean = _step.accumulate(plan, parameters[i], g, True)
            present[i] = mean if i not in flags else ops.where(flags[i], mean, ops.zeros_like(mean))
    clipped = _step.clip(plan, numbers, list(present.values()), masks)
    stages: dict[int, tuple[Gradients, Tensor | None]] = {}
    for i, cut, mask in zip(present, clipped, masks, strict=True):
        used = _step.transform(plan.groups[plan.members[i]], parameters[i], cut)
        stages[i] = Gradients(present[i], cut, used), mask
    return stages, finite


class _Kind(NamedTuple):
    """What variables must have in common to be reduced together."""

    group: int
    decayed: bool
    arithmetic: str
    # None for a slot that is not there.
    dtypes: tuple[str | None, ...]


def _kind(plan: Plan, i: int, before: Parameter, own: Gradients, mask: Tensor | None) -> _Kind:
    fields = (*before, *own, mask)
    return _Kind(
        plan.members[i],
        plan.decayed[i],
        _step.arithmetic_dtype(before),
        tuple(None if x is None else _step.dtype_of(x) for x in fields),
    )


def _mask_and_count(
    raw: Tensor, row_mask: Tensor | None, dtype: str
) -> tuple[Tensor | None, Tensor]:
    """Return which elements count, None for all, and how many."""
    count = ops.cast(math.prod(raw.shape[1:]), dtype)
    if row_mask is None:
        # A table's number of rows may be unknown in a graph.
        return None, count * ops.cast(ops.shape(raw)[0], dtype) if len(raw.shape) else count
    rows = ops.reshape(ops.cast(row_mask, dtype), (-1,) + (1,) * (len(raw.shape) - 1))
    return ops.zeros_like(raw) + ops.cast(rows, _step.dtype_of(raw)), count * ops.sum(rows)


def _totals(
    plan: Plan, kind: _Kind, watched: Watched, scalars: Scalars, variables: Sequence[Inputs]
) -> Totals:
    """Return the totals of the variables of one kind, with a leading axis for them."""
    group = plan.groups[kind.group]._replace(transform=None)

    def reduce(rows: Inputs) -> Totals:
        gradients = rows.gradients
        effect = effect_of(group, kind.decayed, scalars, rows.parameter, gradients.used)
        return totals_of_rows(
            effect,
            gradients,
            rows.mask,
            plan.clip is not None,
            watched.histograms,
            scalars,
            kind.arithmetic,
        )

    totals = _rows.totals_of(reduce, variables)
    return Totals(*(None if x is None else ops.cast(x, watched.dtype) for x in totals))


def _in_order(totals: Totals, order: Sequence[int], positions: Sequence[int]) -> Totals:
    """Return totals, which are of the variables in `order`, in the order of `positions`.

    Those of variables without a gradient are arbitrary.
    """
    if list(order) == list(positions):
        return totals
    place = {position: i for i, position in enumerate(order)}
    index = ops.convert_to_tensor([place.get(i, 0) for i in positions], "int32")
    return Totals(*(None if x is None else ops.take(x, index, axis=0) for x in totals))
