"""What a step does to each variable, computed from what the step reads.

A step's own intermediate results are never used: a compiler would then compute the step itself in
another order, and its results would differ in their last bits. So everything is computed again, by
the same functions.

For one variable with n elements, of which a sum or a largest value counts those that have a
gradient (all, or the rows that a batch touches):

    gradient_norm             ||g||           g unscaled, summed over replicas, mean of accumulation
    clipped_gradient_norm     ||clip(g)||
    largest_gradient          max |g|
    zero_gradient_share       #{g = 0} / n
    weight_norm               ||w||           before the step
    update_norm               ||d||           d what the update subtracts, apart from weight decay
    largest_update            max |d|
    smallest_rate, mean_rate, largest_rate    of lr / r, the mean geometric
    epsilon_share             #{epsilon > s} / n, or outside the root #{epsilon > sqrt(s)} / n
    frozen_share              #{s not finite} / n
    stuck_share               #{d /= 0 and w - d = w} / n, in the weight's dtype

where s and r are those after the update. A table holds one row for each variable and, last, one for
all of them together.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_rmsprop._math import _rounding, _rule, _step
from keras_rmsprop._math._rule import Number, Parameter, Tensor
from keras_rmsprop._math._step import Counters, Flags, GroupPlan, Numbers, Plan, Scalars, TraceOnce

# The columns of a table. The first are of the last step that was sampled, ...
MEASURED = (
    "gradient_norm",
    "clipped_gradient_norm",
    "largest_gradient",
    "zero_gradient_share",
    "weight_norm",
    "update_norm",
    "largest_update",
    "smallest_rate",
    "mean_rate",
    "largest_rate",
    "epsilon_share",
    "frozen_share",
    "stuck_share",
    # The rate of the step, with the group's factor.
    "learning_rate",
    # The steps made so far, with that one, as _STEPS_HIGH * high + low: float32 counts to 2**24.
    "step_high",
    "step_low",
)
# ... these of all steps that were sampled.
COUNTED = (
    "largest_learning_rate",
    # Steps in which the variable had a gradient; the others count among them, but for `skipped`.
    "sampled",
    "clipped",
    # Gradients with an element that is not finite.
    "nonfinite",
    # Calls that `skip_nonfinite` skipped.
    "skipped",
)
COLUMNS = MEASURED + COUNTED

STEPS_HIGH = 2**20

# A histogram counts the elements between neighbouring edges, below the first and from the last on.
EDGES = tuple(10.0 ** (exponent / 2.0) for exponent in range(-24, 7))
HISTOGRAMS = ("rates", "update_ratios")


class Sums(NamedTuple):
    """What is added up over the elements of a variable."""

    # The gradient in units of its largest element, because squares of large ones overflow.
    squared_gradient: Tensor
    squared_clipped_gradient: Tensor
    zero_gradients: Tensor
    clipped: Tensor
    squared_weight: Tensor
    squared_update: Tensor
    log_root: Tensor
    decided_by_epsilon: Tensor
    frozen: Tensor
    stuck: Tensor


class Maxima(NamedTuple):
    """What the largest value of is taken over the elements of a variable."""

    update: Tensor
    root: Tensor
    # The negated root, for the smallest one.
    minus_root: Tensor


class Elements(NamedTuple):
    """What a step does to each element."""

    sums: Sums
    maxima: Maxima
    # For each histogram and each edge, the elements that are not below it.
    not_below: Sequence[Tensor]


class Gradients(NamedTuple):
    """The gradient of a variable at three stages, in units of its largest element or not."""

    raw: Tensor
    clipped: Tensor
    # Transformed, and never scaled.
    used: Tensor


def elements(
    group: GroupPlan,
    decayed: bool,
    clips: bool,
    histograms: bool,
    scalars: Scalars,
    before: Parameter,
    gradients: Gradients,
) -> Elements:
    """Compute what a step does to each element of a variable; everything is elementwise.

    Args:
        group: what the step does with the variable's group, the transform apart.
        decayed: whether weight decay applies.
        clips: whether gradients are clipped at all.
        histograms: whether to compare with `EDGES`.
        scalars: the scalars of the step.
        before: the parameter before the step.
        gradients: `raw` and `clipped` in units of the largest element of `raw`.
    """
    before = _rounding.widened(before)
    dtype = _step.dtype_of(before.square_average)
    used, decayed_weight = _step.prepared(
        group, decayed, scalars, before, ops.cast(gradients.used, dtype)
    )
    # From the weight 0 the update alone remains.
    nothing = before._replace(weight=ops.zeros_like(used))
    after = _rule.update(group.form, scalars.step, nothing, used)
    update, average = -after.weight, after.square_average
    epsilon = scalars.step.epsilon
    root = _rule.root(group.form, average, epsilon)
    bound = average if group.form.epsilon_inside_sqrt else _rule.sqrt(average)
    weight = before.weight
    moved = ops.cast(ops.cast(decayed_weight, dtype) - update, _step.dtype_of(weight))
    size, wide = ops.abs(update), ops.cast(weight, dtype)
    not_below: list[Tensor] = []
    if histograms:
        rate, length = scalars.step.learning_rate, ops.abs(wide)
        not_below += [root <= rate * (1.0 / edge) for edge in EDGES]
        moves = size > 0.0
        not_below += [ops.logical_and(moves, size >= length * edge) for edge in EDGES]

    # An element that is NaN is not equal to itself.
    cut = ops.logical_and(gradients.clipped != gradients.raw, gradients.raw == gradients.raw)

    def share(condition: Tensor) -> Tensor:
        return ops.cast(condition, dtype)

    return Elements(
        Sums(
            squared_gradient=ops.square(gradients.raw),
            squared_clipped_gradient=ops.square(gradients.clipped),
            zero_gradients=share(gradients.raw == 0.0),
            clipped=share(cut) if clips else ops.zeros_like(used),
            squared_weight=ops.square(wide),
            squared_update=ops.square(update),
            log_root=ops.log(root),
            decided_by_epsilon=share(bound < epsilon),
            frozen=share(ops.logical_not(ops.isfinite(average))),
            stuck=share(ops.logical_and(size > 0.0, moved == weight)),
        ),
        Maxima(update=size, root=root, minus_root=-root),
        [share(condition) for condition in not_below],
    )


class Totals(NamedTuple):
    """`Elements` reduced over the elements of a variable, or with a leading axis over several."""

    # The largest element of the gradient: the unit of its squares, see `unit_of`.
    largest_gradient: Tensor
    # (fields of Sums,) and (fields of Maxima,)
    sums: Tensor
    maxima: Tensor
    # (histograms * edges,); None without histograms.
    not_below: Tensor | None = None

    def fields(self) -> list[Tensor]:
        """Return the fields that are not None."""
        return [field for field in self if field is not None]

    def joined(self, other: "Totals") -> "Totals":
        """Return the totals of the elements of both."""
        largest = _larger(self.largest_gradient, other.largest_gradient)
        return Totals(
            largest,
            self.sums_in(largest) + other.sums_in(largest),
            _larger(self.maxima, other.maxima),
            None if self.not_below is None else self.not_below + other.not_below,
        )

    def sums_in(self, largest: Tensor) -> Tensor:
        """Return the sums with the squares of gradients in another unit."""
        factor = ops.square(unit_of(self.largest_gradient) / unit_of(largest))
        # Without a gradient that is not 0, the unit is arbitrary.
        factor = ops.where(self.largest_gradient > 0.0, factor, ops.ones_like(factor))
        one = ops.ones_like(factor)
        scaled = [name.endswith("gradient") for name in Sums._fields]
        return self.sums * ops.stack([factor if each else one for each in scaled], axis=-1)


# The elements that are reduced at a time: they stay in the cache, and float32 loses digits in
# longer sums.
PIECE = 2**16


def total_of(
    group: GroupPlan,
    decayed: bool,
    clips: bool,
    histograms: bool,
    scalars: Scalars,
    before: Parameter,
    gradients: Gradients,
    row_mask: Tensor | None,
) -> tuple[Totals, Tensor]:
    """Reduce the `elements` of one variable.

    Args:
        group: what the step does with the variable's group, the transform apart.
        decayed: whether weight decay applies.
        clips: whether gradients are clipped at all.
        histograms: whether to compare with `EDGES`.
        scalars: the scalars of the step.
        before: the parameter before the step.
        gradients: its gradient.
        row_mask: which rows count, as for `_step.step`.

    Returns: the totals, and the number of elements that count.
    """
    raw, dtype = gradients.raw, _step.arithmetic_dtype(before)
    # A table's number of rows may be unknown in a graph.
    count = ops.cast(math.prod(raw.shape[1:]), dtype)
    mask = None
    if row_mask is not None:
        rows = ops.reshape(ops.cast(row_mask, dtype), (-1,) + (1,) * (len(raw.shape) - 1))
        count = count * ops.sum(rows)
        mask = ops.zeros_like(raw) + ops.cast(rows, _step.dtype_of(raw))
    elif len(raw.shape):
        count = count * ops.cast(ops.shape(raw)[0], dtype)

    there = [ops.reshape(x, (-1,)) for x in (*before, *gradients, mask) if x is not None]

    def piece(cut: Callable[[Tensor], Tensor]) -> Totals:
        """Reduce the elements that a function cuts out of each tensor."""
        cuts = map(cut, there)
        own = Parameter(*(None if x is None else next(cuts) for x in before))
        stages = Gradients(*(next(cuts) for _ in gradients))
        own_mask = None if mask is None else next(cuts)
        return _reduced(
            functools.partial(elements, group, decayed, clips, histograms, scalars, own),
            stages,
            own_mask,
            dtype,
        )

    size = there[0].shape[0]
    if size is None or size <= PIECE:
        return piece(lambda x: x), count
    # A compiler runs a loop over pieces in a third of the time that it takes for whole tensors,
    # which it reads once for each sum.
    rest = size - size % PIECE
    number = size // PIECE
    first = piece(lambda x: x[:PIECE])

    def joined(i: Tensor, fields: list[Tensor]) -> list[Tensor]:
        another = piece(lambda x: ops.reshape(x[:rest], (number, PIECE))[i])
        return Totals(*fields).joined(another).fields()

    totals = Totals(*ops.fori_loop(1, number, joined, first.fields()))
    return totals if rest == size else totals.joined(piece(lambda x: x[rest:])), count


def _reduced(
    elements_of: Callable[[Gradients], Elements],
    gradients: Gradients,
    mask: Tensor | None,
    dtype: str,
) -> Totals:
    """Reduce elements.

    Args:
        elements_of: returns them, given the gradient in its unit.
        gradients: the gradient.
        mask: which of the elements count; None for all.
        dtype: that of the result.
    """
    # A gradient may be wider than the slots.
    largest = _largest(ops.abs(gradients.raw), mask)
    unit = unit_of(largest)
    each = elements_of(Gradients(gradients.raw / unit, gradients.clipped / unit, gradients.used))
    not_below = [_sum(x, mask) for x in each.not_below]
    return Totals(
        ops.cast(largest, dtype),
        ops.stack([ops.cast(_sum(x, mask), dtype) for x in each.sums]),
        ops.stack([ops.cast(_largest(x, mask), dtype) for x in each.maxima]),
        ops.stack([ops.cast(x, dtype) for x in not_below]) if not_below else None,
    )


def unit_of(largest: Tensor) -> Tensor:
    """Return the unit in which the squares of a gradient neither overflow nor underflow."""
    one = ops.ones_like(largest)
    return ops.where(ops.logical_and(largest > 0.0, ops.isfinite(largest)), largest, one)


def _sum(values: Tensor, mask: Tensor | None) -> Tensor:
    # Not a product, in which what does not count could be NaN.
    return ops.sum(
        values if mask is None else ops.where(mask > 0.0, values, ops.zeros_like(values))
    )


def _largest(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        values = ops.where(mask > 0.0, values, ops.full_like(values, -math.inf))
    # An initial value, because a batch may have no row.
    return ops.max(values, initial=-math.inf)


def _larger(a: Tensor, b: Tensor) -> Tensor:
    """Return the larger of two numbers, or NaN; `ops.maximum` would round float64 on torch."""
    return ops.where(b > a, b, a)


class Sample(NamedTuple):
    """A sampled step of some variables, apart from what it found in their elements."""

    # The number of steps made before.
    done: Tensor
    # The number of elements of each variable that count, (variables,).
    counts: Tensor
    # The learning rate of each variable, and whether it has a gradient, (variables,).
    rates: Tensor
    present: Tensor
    # Whether all gradients are finite, if `skip_nonfinite` asks; otherwise None.
    finite: Tensor | None
    # Whether the rule makes the update, and not a subclass.
    by_rule: bool


def table_after(sample: Sample, totals: Totals, table: Tensor) -> Tensor:
    """Return the table after a sampled step.

    Args:
        sample: the step.
        totals: what it found in the elements of the variables.
        table: the table before, (variables + 1, columns).
    """
    dtype = _step.dtype_of(table)
    totals = Totals(*(None if x is None else ops.cast(x, dtype) for x in totals))
    sample = sample._replace(
        rates=ops.cast(sample.rates, dtype),
        present=ops.logical_and(sample.present, sample.counts > 0.0),
        counts=ops.cast(sample.counts, dtype),
    )
    measured = _of_variables(sample, totals, dtype)
    together = _together(sample, measured)
    measured = {
        name: ops.concatenate([values, ops.reshape(together[name], (1,))])
        for name, values in measured.items()
    }
    before = dict(zip(COLUMNS, ops.unstack(table[:, : len(COLUMNS)], axis=1), strict=True))
    present = ops.concatenate([sample.present, ops.any(sample.present, keepdims=True)])
    finite = sample.finite
    made = present if finite is None else ops.logical_and(present, finite)
    after = {name: ops.where(made, measured[name], before[name]) for name in MEASURED}
    rate, largest = measured["learning_rate"], before["largest_learning_rate"]
    # It is NaN at first, as is a rate that is not the same for all variables.
    grows = ops.logical_and(made, ops.logical_or(rate > largest, ops.isnan(largest)))
    after["largest_learning_rate"] = ops.where(grows, rate, largest)
    events = {
        "sampled": made,
        "clipped": ops.logical_and(made, measured["clipped"] > 0.0),
        "nonfinite": ops.logical_and(
            present, ops.logical_not(ops.isfinite(measured["gradient_norm"]))
        ),
        "skipped": ops.logical_and(present, ops.logical_not(made)),
    }
    for name, happened in events.items():
        after[name] = before[name] + ops.cast(happened, dtype)
    columns = ops.stack([after[name] for name in COLUMNS], axis=1)
    if totals.not_below is None:
        return columns
    bins = _bins(sample.counts, totals.not_below)
    bins = ops.where(ops.expand_dims(sample.present, 1), bins, ops.zeros_like(bins))
    bins = ops.concatenate([bins, ops.sum(bins, axis=0, keepdims=True)], axis=0)
    bins = ops.where(ops.expand_dims(made, 1), bins, table[:, len(COLUMNS) :])
    return ops.concatenate([columns, bins], axis=1)


def _of_variables(sample: Sample, totals: Totals, dtype: str) -> dict[str, Tensor]:
    """Return what is measured of each variable, and how many of its elements were clipped."""
    sums = Sums(*ops.unstack(totals.sums, axis=1))
    maxima = Maxima(*ops.unstack(totals.maxima, axis=1))
    counts = sample.counts
    unit = unit_of(totals.largest_gradient)
    norm = unit * _rule.sqrt(sums.squared_gradient)
    step = ops.cast(sample.done + 1, "int32")
    update_norm = _rule.sqrt(sums.squared_update)
    mean_rate = sample.rates * ops.exp(-sums.log_root / counts)
    by_rule = {
        "update_norm": update_norm,
        # Compiled code may drop NaN from a largest value.
        "largest_update": _nan_where_nan(update_norm, maxima.update),
        "smallest_rate": _nan_where_nan(mean_rate, sample.rates / maxima.root),
        "mean_rate": mean_rate,
        "largest_rate": _nan_where_nan(mean_rate, sample.rates / -maxima.minus_root),
        "epsilon_share": sums.decided_by_epsilon / counts,
        "frozen_share": sums.frozen / counts,
        "stuck_share": sums.stuck / counts,
    }
    if not sample.by_rule:
        by_rule = {name: ops.full_like(counts, float("nan")) for name in by_rule}
    return {
        "gradient_norm": norm,
        "clipped_gradient_norm": unit * _rule.sqrt(sums.squared_clipped_gradient),
        "largest_gradient": ops.where(ops.isfinite(norm), totals.largest_gradient, norm),
        "zero_gradient_share": sums.zero_gradients / counts,
        "weight_norm": _rule.sqrt(sums.squared_weight),
        **by_rule,
        "learning_rate": sample.rates,
        "step_high": ops.zeros_like(counts) + ops.cast(step // STEPS_HIGH, dtype),
        "step_low": ops.zeros_like(counts) + ops.cast(step % STEPS_HIGH, dtype),
        "clipped": sums.clipped,
    }


def _together(sample: Sample, measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is measured of all variables that have a gradient, taken together."""
    present = sample.present
    counts = ops.where(present, sample.counts, ops.zeros_like(sample.counts))
    count = ops.sum(counts)

    def of_present(name: str, otherwise: float) -> Tensor:
        values = measured[name]
        return ops.where(present, values, ops.full_like(values, otherwise))

    def norm(name: str) -> Tensor:
        norms = of_present(name, 0.0)
        unit = unit_of(ops.max(norms))
        return unit * _rule.sqrt(ops.sum(ops.square(norms / unit)))

    def largest(name: str) -> Tensor:
        return _nan_where_nan(ops.sum(of_present(name, 0.0)), ops.max(of_present(name, 0.0)))

    def mean(name: str) -> Tensor:
        return ops.sum(counts * of_present(name, 0.0)) / count

    lowest = ops.min(of_present("learning_rate", float("inf")))
    highest = ops.max(of_present("learning_rate", -float("inf")))
    smallest = -ops.max(-of_present("smallest_rate", float("inf")))
    logs = ops.log(of_present("mean_rate", 1.0))
    mean_rate = ops.exp(ops.sum(counts * logs) / count)
    return {
        **{name: norm(name) for name in MEASURED if name.endswith("norm")},
        **{name: mean(name) for name in MEASURED if name.endswith("share")},
        "largest_gradient": largest("largest_gradient"),
        "largest_update": largest("largest_update"),
        "smallest_rate": _nan_where_nan(mean_rate, smallest),
        "mean_rate": mean_rate,
        "largest_rate": largest("largest_rate"),
        # One rate only if those of the variables are the same.
        "learning_rate": ops.where(lowest == highest, highest, ops.full_like(highest, math.nan)),
        "step_high": ops.max(measured["step_high"]),
        "step_low": ops.max(measured["step_low"]),
        "clipped": ops.sum(of_present("clipped", 0.0)),
    }


def _nan_where_nan(indicator: Tensor, values: Tensor) -> Tensor:
    return ops.where(ops.isnan(indicator), indicator, values)


def _bins(counts: Tensor, not_below: Tensor) -> Tensor:
    """Return how many elements are in each bin, from how many are not below each edge."""
    counts = ops.expand_dims(counts, 1)
    bins = []
    for k in range(len(HISTOGRAMS)):
        above = not_below[:, k * len(EDGES) : (k + 1) * len(EDGES)]
        bins.append(
            ops.concatenate([counts, above], axis=1)
            - ops.concatenate([above, ops.zeros_like(counts)], axis=1)
        )
    return ops.concatenate(bins, axis=1)


class Watched(NamedTuple):
    """Which variables are sampled, and how."""

    # Positions among the built variables; none of them is overwritten.
    positions: tuple[int, ...]
    histograms: bool
    # That of the table.
    dtype: str

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the table: a row for each variable, and one for all of them."""
        bins = len(HISTOGRAMS) * (len(EDGES) + 1) if self.histograms else 0
        return len(self.positions) + 1, len(COLUMNS) + bins


def table_at_start(watched: Watched) -> np.ndarray[Any, Any]:
    """Return the table before the first sample."""
    table = np.zeros(watched.shape, watched.dtype)
    # The step is known to be none.
    names = [*MEASURED[: MEASURED.index("step_high")], "largest_learning_rate"]
    table[:, [COLUMNS.index(name) for name in names]] = math.nan
    return table


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
        plan, numbers, counters, learning_rate, parameters, gradients, row_masks, flags, trace_once:
            as for `_step.step`.
        watched: which variables are sampled.
        table: the table before.
        by_rule: whether `_rule.update` makes the update.
    """
    flags, row_masks = flags or {}, row_masks or {}
    done = counters.calls // plan.accumulation_steps
    present = {i: g for i, g in enumerate(gradients) if g is not None}
    values = [present.pop(i) for i in list(present) if plan.overwritten[i]]
    present = {i: _step.unscale(plan, numbers, parameters[i], g) for i, g in present.items()}
    masks = {i: row_masks.get(i) for i in present}
    finite = None
    if plan.skip_nonfinite:
        owners = [parameters[i] for i in present]
        finite = _step.all_finite(plan, list(present.values()), owners, list(masks.values()))
        for value in values:
            finite = ops.logical_and(finite, ops.all(ops.isfinite(value)))
    if plan.accumulation_steps > 1:
        for i, g in present.items():
            _, mean = _step.accumulate(plan, parameters[i], g, True)
            present[i] = mean if i not in flags else ops.where(flags[i], mean, ops.zeros_like(mean))
    clipped = dict(
        zip(
            present,
            _step.clip(plan, numbers, list(present.values()), list(masks.values())),
            strict=True,
        )
    )
    total = _totalling(plan, watched, trace_once)
    of_group = functools.cache(
        functools.partial(_step.scalars_of, plan, numbers, counters, done, learning_rate)
    )
    dtype, nothing = watched.dtype, ops.zeros((), watched.dtype)
    found: dict[int, tuple[Totals, Tensor]] = {}
    rates = []
    for i in watched.positions:
        if i not in present:
            rates.append(nothing)
            continue
        before = parameters[i]._replace(accumulator=None, average=None)
        group = plan.members[i]
        scalars = of_group(group, _step.arithmetic_dtype(before))
        used = _step.transform(plan.groups[group], before, clipped[i])
        stages = Gradients(present[i], clipped[i], used)
        found[i] = total(i)(scalars, before, stages, masks[i])
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
