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

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
