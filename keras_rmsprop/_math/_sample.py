"""Sample a step: compute its statistics from what it reads, with the stages of `_step.step`."""

import functools
from collections.abc import Callable, Mapping, Sequence

from keras import ops

from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Number, Parameter, Tensor
from keras_rmsprop._math._statistics import Gradients, Totals, total_of
from keras_rmsprop._math._step import Counters, Flags, GroupPlan, Numbers, Plan, TraceOnce
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
    trace_once: TraceOnce | None = None,
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
        trace_once: as for `_step.step`.
    """
    flags = flags or {}
    done = counters.calls // plan.accumulation_steps
    stages, finite = _gradients(plan, numbers, parameters, gradients, row_masks or {}, flags)
    total = _totalling(plan, watched, trace_once)
    of_group = functools.cache(
        functools.partial(_step.scalars_of, plan, numbers, counters, done, learning_rate)
    )
    dtype, nothing = watched.dtype, ops.zeros((), watched.dtype)
    found: dict[int, tuple[Totals, Tensor]] = {}
    rates = []
    for i in watched.positions:
        if i not in stages:
            rates.append(nothing)
            continue
        before = parameters[i]._replace(accumulator=None, average=None)
        scalars = of_group(plan.members[i], _step.arithmetic_dtype(before))
        found[i] = total(i)(scalars, before, *stages[i])
        rates.append(nothing + _rule.number_in(scalars.step.learning_rate, dtype))
    if not found:
        return table
    like, _ = next(iter(found.values()))
    absent = (Totals(*(None if x is None else ops.zeros(x.shape, dtype) for x in like)), nothing)
    totals, counts = zip(*(found.get(i, absent) for i in watched.positions), strict=True)
    there = [flags.get(i, ops.convert_to_tensor(i in found)) for i in watched.positions]
    sample = Sample(
        done, _stacked(counts, dtype), ops.stack(rates), ops.stack(there), finite, by_rule
    )
    columns = zip(*totals, strict=True)
    stacked = [None if column[0] is None else _stacked(column, dtype) for column in columns]
    return table_after(sample, Totals(*stacked), table)


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


def _stacked(values: Sequence[Tensor], dtype: str) -> Tensor:
    return ops.stack([ops.cast(value, dtype) for value in values])


def _totalling(
    plan: Plan, watched: Watched, trace_once: TraceOnce | None
) -> Callable[[int], Callable[..., tuple[Totals, Tensor]]]:
    """Return a function that returns `total_of` for a variable, with the static part bound."""

    # Variables that differ only in numbers and transform share a trace.
    @functools.cache
    def bound(group: GroupPlan, decayed: bool) -> Callable[..., tuple[Totals, Tensor]]:
        clips = plan.clip is not None
        function = functools.partial(total_of, group, decayed, clips, watched.histograms)
        return function if trace_once is None else trace_once(function)

    return lambda i: bound(plan.groups[plan.members[i]]._replace(transform=None), plan.decayed[i])
