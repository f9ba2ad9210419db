"""The table that holds the statistics: a row for each variable and, last, one for all of them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Tensor
from keras_rmsprop._math._statistics import (
    COLUMNS,
    COUNTED,
    EDGES,
    HISTOGRAMS,
    MEASURED,
    RATE_LEFT,
    STEPS_HIGH,
    Extremes,
    Largest,
    Sums,
    Totals,
    unit_of,
)


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
    for name in ("learning_rate", "weight_norm"):
        now, largest = measured[name], before[f"largest_{name}"]
        # It is NaN at first. A rate is NaN where it is not the same for all variables, and a norm
        # may be infinite until better weights are loaded.
        grows = ops.logical_or(now > largest, ops.isnan(largest))
        grows = ops.logical_and(made, ops.logical_and(ops.isfinite(now), grows))
        after[f"largest_{name}"] = ops.where(grows, now, largest)
    events = {
        "sampled": made,
        "clipped": ops.logical_and(made, measured["clipped"] > 0.0),
        "all_zero": ops.logical_and(made, measured["zero_gradient_share"] == 1.0),
        "at_rest": ops.logical_and(
            made, measured["learning_rate"] < RATE_LEFT * after["largest_learning_rate"]
        ),
        "nonfinite": ops.logical_and(
            present, ops.logical_not(ops.isfinite(measured["largest_gradient"]))
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
    extremes = Extremes(*ops.unstack(totals.extremes, axis=1))
    largest = Largest(*ops.unstack(totals.largest, axis=1))
    norms = Largest(
        *(unit_of(own) * _rule.sqrt(squares) for own, squares in zip(largest, sums, strict=False))
    )
    counts = sample.counts
    step = ops.cast(sample.done + 1, "int32")
    mean_rate = sample.rates * ops.exp(-sums.log_root / counts)
    by_rule = {
        "update_norm": norms.update,
        # Compiled code may drop NaN from a largest value.
        "largest_update": _nan_where_nan(norms.update, largest.update),
        "smallest_rate": _nan_where_nan(mean_rate, sample.rates / extremes.root),
        "mean_rate": mean_rate,
        "largest_rate": _nan_where_nan(mean_rate, sample.rates / -extremes.minus_root),
        "epsilon_share": _share(sums.decided_by_epsilon, counts),
        "frozen_share": _share(sums.frozen, counts),
        "stuck_share": _share(sums.stuck, counts),
    }
    if not sample.by_rule:
        by_rule = {name: ops.full_like(counts, float("nan")) for name in by_rule}
    return {
        "gradient_norm": norms.gradient,
        "clipped_gradient_norm": norms.clipped_gradient,
        # The norm of finite numbers may be infinite.
        "largest_gradient": _nan_where_nan(norms.gradient, largest.gradient),
        "zero_gradient_share": _share(sums.zero_gradients, counts),
        "weight_norm": norms.weight,
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
        return _share(ops.sum(counts * of_present(name, 0.0)), count)

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


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and exactly 1 for all of it: compilers multiply by the inverse."""
    return ops.where(part == whole, ops.ones_like(whole), part / whole)


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
    names = MEASURED[: MEASURED.index("step_high")] + COUNTED[: COUNTED.index("sampled")]
    table[:, [COLUMNS.index(name) for name in names]] = math.nan
    return table
