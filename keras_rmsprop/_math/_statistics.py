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

where s and r are those after the update. `_table` holds them, with a row for each variable, and
`_sample` computes them from the inputs of a step.
"""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_rmsprop._math import _rounding, _rule, _step
from keras_rmsprop._math._rule import Parameter, Tensor
from keras_rmsprop._math._step import GroupPlan, Scalars

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
    "largest_weight_norm",
    # Steps in which the variable had a gradient; the next two count among them.
    "sampled",
    "clipped",
    # Those whose gradient was 0 in all elements.
    "all_zero",
    # Those whose learning rate was below `RATE_LEFT` of the largest so far.
    "at_rest",
    # Calls whose gradient had an element that is not finite, also skipped ones.
    "nonfinite",
    # Calls that `skip_nonfinite` skipped.
    "skipped",
)
COLUMNS = MEASURED + COUNTED

STEPS_HIGH = 2**20

# What is left of the largest learning rate where a schedule has come to its end. Three drops to a
# tenth leave more, and four as much.
RATE_LEFT = 1e-4

# A histogram counts the elements between neighbouring edges, below the first and from the last on.
EDGES = tuple(10.0 ** (exponent / 2.0) for exponent in range(-24, 7))
HISTOGRAMS = ("rates", "update_ratios")


class Sums(NamedTuple):
    """What is added up over the elements of a variable."""

    # In units of the largest elements, because squares of large numbers overflow. See `Largest`.
    squared_gradient: Tensor
    squared_clipped_gradient: Tensor
    squared_weight: Tensor
    squared_update: Tensor
    zero_gradients: Tensor
    clipped: Tensor
    log_root: Tensor
    decided_by_epsilon: Tensor
    frozen: Tensor
    stuck: Tensor


class Largest(NamedTuple):
    """What the largest absolute value of is taken: the units of the first fields of `Sums`."""

    gradient: Tensor
    clipped_gradient: Tensor
    weight: Tensor
    update: Tensor


class Extremes(NamedTuple):
    """What the largest value of is taken."""

    root: Tensor
    # The negated root, for the smallest one.
    minus_root: Tensor


class Gradients(NamedTuple):
    """The gradient of a variable at three stages."""

    raw: Tensor
    clipped: Tensor
    # Transformed, and never scaled.
    used: Tensor


class Effect(NamedTuple):
    """What a step makes of each element."""

    # What is subtracted from the weight, apart from weight decay.
    update: Tensor
    # Of the average after the step, with epsilon; and what epsilon must exceed to decide it.
    root: Tensor
    average: Tensor
    bound: Tensor
    # Before the step, in its own dtype and in that of the arithmetic; and after it.
    weight: Tensor
    wide: Tensor
    moved: Tensor


def effect_of(
    group: GroupPlan, decayed: bool, scalars: Scalars, before: Parameter, used: Tensor
) -> Effect:
    """Compute what a step makes of each element of a variable; everything is elementwise.

    Args:
        group: what the step does with the variable's group, the transform apart.
        decayed: whether weight decay applies.
        scalars: the scalars of the step.
        before: the parameter before the step.
        used: its gradient, transformed.
    """
    before = _rounding.widened(before)
    dtype = _step.dtype_of(before.square_average)
    used, decayed_weight = _step.prepared(group, decayed, scalars, before, ops.cast(used, dtype))
    # From the weight 0 the update alone remains.
    nothing = before._replace(weight=ops.zeros_like(used))
    after, root = _rule.update_and_root(group.form, scalars.step, nothing, used)
    update, average = -after.weight, after.square_average
    weight = before.weight
    return Effect(
        update,
        root,
        average,
        average if group.form.epsilon_inside_sqrt else _rule.sqrt(average),
        weight,
        ops.cast(weight, dtype),
        ops.cast(ops.cast(decayed_weight, dtype) - update, _step.dtype_of(weight)),
    )


def counted(
    effect: Effect, gradients: Gradients, clips: bool, scalars: Scalars
) -> dict[str, Tensor]:
    """Return what is added up, by its name in `Sums`, other than squares.

    Args:
        effect: of the step on each element.
        gradients: of each element.
        clips: whether gradients are clipped at all.
        scalars: the scalars of the step.
    """
    raw, clipped = gradients.raw, gradients.clipped
    # An element that is NaN is not equal to itself.
    cut = ops.logical_and(clipped != raw, raw == raw) if clips else ops.zeros_like(effect.update)
    return {
        "zero_gradients": raw == 0.0,
        "clipped": cut,
        "log_root": ops.log(effect.root),
        "decided_by_epsilon": effect.bound < scalars.step.epsilon,
        "frozen": ops.logical_not(ops.isfinite(effect.average)),
        "stuck": ops.logical_and(effect.update != 0.0, effect.moved == effect.weight),
    }


def not_below(effect: Effect, scalars: Scalars) -> list[Tensor]:
    """Return, for each histogram and each edge, which elements are not below it."""
    rate, size, length = scalars.step.learning_rate, ops.abs(effect.update), ops.abs(effect.wide)
    moves = size > 0.0
    return [effect.root <= rate * (1.0 / edge) for edge in EDGES] + [
        ops.logical_and(moves, size >= length * edge) for edge in EDGES
    ]


class Totals(NamedTuple):
    """What is found in the elements of rows or variables, with a leading axis for these."""

    # (rows, fields of Largest), (rows, fields of Sums) and (rows, fields of Extremes)
    largest: Tensor
    sums: Tensor
    extremes: Tensor
    # (rows, histograms * edges); None without histograms.
    not_below: Tensor | None = None

    def fields(self) -> list[Tensor]:
        """Return the fields that are not None."""
        return [field for field in self if field is not None]

    def by_owner(self, owners: Sequence[int], number: int) -> "Totals":
        """Return the totals of variables, of which each owns some of the rows.

        Args:
            owners: the index of each row's variable.
            number: the number of variables.
        """
        totals = self
        # In float32 a long sum of similar numbers is rounded in one direction again and again.
        while len(set(owners)) < len(owners):
            groups, owners = _in_groups(owners)
            totals = totals._added_up(groups)
        place = {owner: row for row, owner in enumerate(owners)}
        return totals._added_up([[place.get(owner, len(owners))] for owner in range(number)])

    def _added_up(self, groups: Sequence[Sequence[int]]) -> "Totals":
        """Return the totals of groups of rows.

        Args:
            groups: the rows of each group, as many of each; the number of rows stands for none.
        """
        index = np.asarray(groups, np.int32)

        def picked(rows: Tensor, of_none: float) -> Tensor:
            none = ops.full((1, rows.shape[1]), of_none, _step.dtype_of(rows))
            found = ops.take(ops.concatenate([rows, none]), index.reshape(-1), axis=0)
            return ops.reshape(found, (*index.shape, rows.shape[1]))

        parts = Totals(picked(self.largest, -math.inf), picked(self.sums, 0.0), self.extremes)
        largest = ops.max(parts.largest, axis=1)
        return Totals(
            largest,
            ops.sum(parts._sums_in(ops.expand_dims(largest, 1)), axis=1),
            ops.max(picked(self.extremes, -math.inf), axis=1),
            None if self.not_below is None else ops.sum(picked(self.not_below, 0.0), axis=1),
        )

    def _sums_in(self, largest: Tensor) -> Tensor:
        """Return the sums with squares in units of other largest elements."""
        factor = ops.square(unit_of(self.largest) / unit_of(largest))
        # Where all elements are 0, the unit is arbitrary.
        factor = ops.where(self.largest > 0.0, factor, ops.ones_like(factor))
        squares = len(Largest._fields)
        return ops.concatenate(
            [self.sums[..., :squares] * factor, self.sums[..., squares:]], axis=-1
        )


# The rows that are added up at a time.
_GROUP = 32


def _in_groups(owners: Sequence[int]) -> tuple[list[list[int]], list[int]]:
    """Return the rows of each group, filled up with their number, and the owner of each group."""
    groups: dict[tuple[int, int], list[int]] = {}
    seen: collections.Counter[int] = collections.Counter()
    for row, owner in enumerate(owners):
        groups.setdefault((owner, seen[owner] // _GROUP), []).append(row)
        seen[owner] += 1
    filled = [rows + [len(owners)] * (_GROUP - len(rows)) for rows in groups.values()]
    return filled, [owner for owner, _ in groups]


def totals_of_rows(
    effect: Effect,
    gradients: Gradients,
    mask: Tensor | None,
    clips: bool,
    histograms: bool,
    scalars: Scalars,
    dtype: str,
) -> Totals:
    """Reduce the elements of rows.

    Args:
        effect: of the step on each element, (rows, elements).
        gradients: of each element, likewise.
        mask: which of the elements count, above 0; None for all.
        clips: whether gradients are clipped at all.
        histograms: whether to compare with `EDGES`.
        scalars: the scalars of the step.
        dtype: that of the result.
    """
    sized = [gradients.raw, gradients.clipped if clips else gradients.raw]
    sized += [effect.wide, effect.update]
    largest = [_largest(ops.abs(x), mask) for x in sized]
    squares = [
        _sum(ops.square(x / ops.expand_dims(unit_of(own), 1)), mask)
        for x, own in zip(sized, largest, strict=True)
    ]
    counts = counted(effect, gradients, clips, scalars)
    sums = Sums(*squares, **{name: _sum(ops.cast(x, dtype), mask) for name, x in counts.items()})
    above = not_below(effect, scalars) if histograms else []

    def stacked(columns: Sequence[Tensor]) -> Tensor:
        # A gradient may be wider than the slots.
        return ops.stack([ops.cast(column, dtype) for column in columns], axis=1)

    return Totals(
        stacked(largest),
        stacked(sums),
        stacked([_largest(x, mask) for x in Extremes(effect.root, -effect.root)]),
        stacked([_sum(ops.cast(x, dtype), mask) for x in above]) if above else None,
    )


def unit_of(largest: Tensor) -> Tensor:
    """Return the unit in which squares neither overflow nor underflow."""
    one = ops.ones_like(largest)
    unit = ops.where(ops.logical_and(largest > 0.0, ops.isfinite(largest)), largest, one)
    # Compilers multiply by the inverse, which must not underflow.
    longest = float(np.finfo(_step.dtype_of(largest)).max) ** 0.75
    return ops.where(unit > longest, ops.full_like(unit, longest), unit)


def _sum(values: Tensor, mask: Tensor | None) -> Tensor:
    # Not a product, in which what does not count could be NaN.
    return ops.sum(
        values if mask is None else ops.where(mask > 0.0, values, ops.zeros_like(values)), axis=1
    )


def _largest(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        values = ops.where(mask > 0.0, values, ops.full_like(values, -math.inf))
    # An initial value, because a batch may have no row.
    return ops.max(values, axis=1, initial=-math.inf)
