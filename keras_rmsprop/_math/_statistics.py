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

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import backend, ops

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
    # Steps in which the variable had a gradient; the next two count among them.
    "sampled",
    "clipped",
    # Those whose gradient was 0 in all elements.
    "all_zero",
    # Calls whose gradient had an element that is not finite, also skipped ones.
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


def elements(
    effect: Effect, gradients: Gradients, clips: bool, histograms: bool, scalars: Scalars
) -> Elements:
    """Compute from the effect of a step what is added up, and what the largest is taken of.

    Args:
        effect: of the step on each element.
        gradients: `raw` and `clipped` in units of the largest element of `raw`.
        clips: whether gradients are clipped at all.
        histograms: whether to compare with `EDGES`.
        scalars: the scalars of the step.
    """
    dtype = _step.dtype_of(effect.update)
    size = ops.abs(effect.update)
    # An element that is NaN is not equal to itself.
    cut = ops.logical_and(gradients.clipped != gradients.raw, gradients.raw == gradients.raw)

    def share(condition: Tensor) -> Tensor:
        return ops.cast(condition, dtype)

    return Elements(
        Sums(
            squared_gradient=ops.square(gradients.raw),
            squared_clipped_gradient=ops.square(gradients.clipped),
            zero_gradients=share(gradients.raw == 0.0),
            clipped=share(cut) if clips else ops.zeros_like(size),
            squared_weight=ops.square(effect.wide),
            squared_update=ops.square(effect.update),
            log_root=ops.log(effect.root),
            decided_by_epsilon=share(effect.bound < scalars.step.epsilon),
            frozen=share(ops.logical_not(ops.isfinite(effect.average))),
            stuck=share(ops.logical_and(size > 0.0, effect.moved == effect.weight)),
        ),
        Maxima(update=size, root=effect.root, minus_root=-effect.root),
        list(map(share, not_below(effect, scalars))) if histograms else [],
    )


def not_below(effect: Effect, scalars: Scalars) -> list[Tensor]:
    """Return, for each histogram and each edge, which elements are not below it."""
    rate, size, length = scalars.step.learning_rate, ops.abs(effect.update), ops.abs(effect.wide)
    moves = size > 0.0
    return [effect.root <= rate * (1.0 / edge) for edge in EDGES] + [
        ops.logical_and(moves, size >= length * edge) for edge in EDGES
    ]


class Totals(NamedTuple):
    """`Elements` reduced over the elements of rows or variables, with a leading axis for these."""

    # The largest element of the gradient: the unit of its squares, see `unit_of`. (rows,)
    largest_gradient: Tensor
    # (rows, fields of Sums) and (rows, fields of Maxima)
    sums: Tensor
    maxima: Tensor
    # (rows, histograms * edges); None without histograms.
    not_below: Tensor | None = None

    def fields(self) -> list[Tensor]:
        """Return the fields that are not None."""
        return [field for field in self if field is not None]

    def joined(self, other: "Totals") -> "Totals":
        """Return the totals of the elements of both, row by row."""
        largest = _larger(self.largest_gradient, other.largest_gradient)
        return Totals(
            largest,
            self._sums_in(largest) + other._sums_in(largest),
            _larger(self.maxima, other.maxima),
            None if self.not_below is None else self.not_below + other.not_below,
        )

    def by_owner(self, owners: Sequence[int], number: int) -> "Totals":
        """Return the totals of variables, of which each owns some of the rows.

        Args:
            owners: the index of each row's variable.
            number: the number of variables.
        """
        index = ops.convert_to_tensor(np.asarray(owners, np.int32))
        largest = _largest_by_owner(self.largest_gradient, index, number)
        return Totals(
            largest,
            _sum_by_owner(self._sums_in(ops.take(largest, index)), index, number),
            _largest_by_owner(self.maxima, index, number),
            None if self.not_below is None else _sum_by_owner(self.not_below, index, number),
        )

    def _sums_in(self, largest: Tensor) -> Tensor:
        """Return the sums with the squares of gradients in another unit."""
        factor = ops.square(unit_of(self.largest_gradient) / unit_of(largest))
        # Without a gradient that is not 0, the unit is arbitrary.
        factor = ops.where(self.largest_gradient > 0.0, factor, ops.ones_like(factor))
        one = ops.ones_like(factor)
        scaled = [name.endswith("gradient") for name in Sums._fields]
        return self.sums * ops.stack([factor if each else one for each in scaled], axis=-1)


def totals_of_nothing(rows: int, histograms: bool, dtype: str) -> Totals:
    """Return the totals of rows without elements."""
    edges = len(HISTOGRAMS) * len(EDGES)
    return Totals(
        ops.zeros((rows,), dtype),
        ops.zeros((rows, len(Sums._fields)), dtype),
        ops.full((rows, len(Maxima._fields)), -math.inf, dtype),
        ops.zeros((rows, edges), dtype) if histograms else None,
    )


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
        clips: as for `elements`, as are `histograms` and `scalars`.
        histograms: see `clips`.
        scalars: see `clips`.
        dtype: that of the result.
    """
    # A gradient may be wider than the slots.
    largest = _largest(ops.abs(gradients.raw), mask)
    unit = ops.expand_dims(unit_of(largest), 1)
    scaled = Gradients(gradients.raw / unit, gradients.clipped / unit, gradients.used)
    each = elements(effect, scaled, clips, histograms, scalars)

    def stacked(columns: Sequence[Tensor]) -> Tensor:
        return ops.stack([ops.cast(column, dtype) for column in columns], axis=1)

    return Totals(
        ops.cast(largest, dtype),
        stacked([_sum(x, mask) for x in each.sums]),
        stacked([_largest(x, mask) for x in each.maxima]),
        stacked([_sum(x, mask) for x in each.not_below]) if each.not_below else None,
    )


def unit_of(largest: Tensor) -> Tensor:
    """Return the unit in which the squares of a gradient neither overflow nor underflow."""
    one = ops.ones_like(largest)
    return ops.where(ops.logical_and(largest > 0.0, ops.isfinite(largest)), largest, one)


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


def _larger(a: Tensor, b: Tensor) -> Tensor:
    """Return the larger of two numbers, or NaN; `ops.maximum` would round float64 on torch."""
    return ops.where(b > a, b, a)


def _sum_by_owner(rows: Tensor, owners: Tensor, number: int) -> Tensor:
    if backend.backend() != "torch":
        return ops.segment_sum(rows, owners, number)
    # Keras would add them up in float32.
    return rows.new_zeros((number, *rows.shape[1:])).index_add_(0, owners, rows)


def _largest_by_owner(rows: Tensor, owners: Tensor, number: int) -> Tensor:
    if backend.backend() != "torch":
        return ops.segment_max(rows, owners, number)
    least = rows.new_full((number, *rows.shape[1:]), -math.inf)
    index = owners.long().reshape(-1, *(1,) * (rows.ndim - 1)).expand_as(rows)
    return least.scatter_reduce_(0, index, rows, "amax")
