"""The statistics of an optimizer's steps, as plain numbers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop._math._statistics import COLUMNS, STEPS_HIGH

Array = np.ndarray[Any, Any]


class Statistics(NamedTuple):
    """What one step did to a variable, or to all variables together, and counts of such steps.

    NaN where there is nothing to measure, for example before the first sample.
    """

    # Of the last sampled step in which the variable had a gradient. Norms are Euclidean; the
    # gradient is unscaled, summed over replicas and, with accumulation, the mean of the calls.
    gradient_norm: float = math.nan
    clipped_gradient_norm: float = math.nan
    largest_gradient: float = math.nan
    zero_gradient_share: float = math.nan
    # Before the step.
    weight_norm: float = math.nan
    # Of what the step subtracted from the weights, apart from weight decay.
    update_norm: float = math.nan
    largest_update: float = math.nan
    # learning_rate / r, of the elements; the mean is geometric.
    smallest_rate: float = math.nan
    mean_rate: float = math.nan
    largest_rate: float = math.nan
    # The share of elements whose root r is decided by epsilon, which exceeds the average.
    epsilon_share: float = math.nan
    # The share of elements whose average of squares is infinite or NaN, so that they do not move.
    frozen_share: float = math.nan
    # The share of elements whose update is not 0, but is rounded off when added to the weight.
    stuck_share: float = math.nan
    # Of that step, with the group's factor; NaN for all variables together if factors differ.
    learning_rate: float = math.nan
    # The number of that step, 1 for the first; 0 before the first sample.
    step: int = 0
    # Of all sampled steps.
    largest_learning_rate: float = math.nan
    largest_weight_norm: float = math.nan
    sampled: int = 0
    # Among them, those in which clipping changed the gradient, ...
    clipped: int = 0
    # those in which all of the gradient was 0, ...
    all_zero: int = 0
    # ... and those whose learning rate was below 0.0001 of the largest before.
    at_rest: int = 0
    # Sampled calls in which the gradient had an element that is not finite; and those that
    # `skip_nonfinite` skipped, which are not counted in `sampled`.
    nonfinite: int = 0
    skipped: int = 0

    @property
    def update_ratio(self) -> float:
        """update_norm / weight_norm, the relative size of the step; a usual value is 1e-3."""
        if self.weight_norm == 0.0:
            return math.nan if math.isnan(self.update_norm) else math.inf * self.update_norm
        return self.update_norm / self.weight_norm

    @property
    def clipped_share(self) -> float:
        """The share of sampled steps in which clipping changed the gradient."""
        return self.clipped / self.sampled if self.sampled else math.nan

    @classmethod
    def of(cls, row: Array) -> "Statistics":
        """Return the statistics in a row of the table that the optimizer holds."""
        cells = dict(zip(COLUMNS, map(float, row), strict=True))
        step = int(cells.pop("step_high")) * STEPS_HIGH + int(cells.pop("step_low"))
        counts = {name: int(cells.pop(name)) for name in COUNTS}
        return cls(**{**cells, **counts, "step": step})  # type: ignore[arg-type]


COUNTS = ("sampled", "clipped", "all_zero", "at_rest", "nonfinite", "skipped")


class Histograms(NamedTuple):
    """How many elements of a variable have which value, in bins between `EDGES`.

    The first bin is below the first edge, the last one from the last edge on.
    """

    # Of learning_rate / r.
    rates: Array
    # Of |update| / |weight|.
    update_ratios: Array


class VariableSettings(NamedTuple):
    """What the numbers of a variable must be judged by."""

    dtype: str
    size: int
    rho: float
    momentum: float
    # 0 where it does not apply, ...
    weight_decay: float
    # ... and where it is added to a gradient that a transform has changed.
    l2: float
    epsilon: float
    epsilon_inside_sqrt: bool
    centered: bool
    bias_correction: bool
    lr_in_momentum: bool
    initial_square_average: float
    state_dtype: str | None
    # The samples of the optimizer's steps before it was given the variable.
    samples_before: int = 0


# What an optimizer without a name of its own is called.
NAME = "rmsprop"


class Report(NamedTuple):
    """The statistics of all variables at one moment. See `RMSprop.diagnostics`."""

    # The name of the optimizer, or `NAME` if it was not given one.
    name: str
    # Steps made so far; the learning rate of the next one.
    iterations: int
    # A step is sampled every so many.
    every: int
    # Calls that `skip_nonfinite` has skipped, sampled or not; None without that option.
    skipped_steps: int | None
    # What clips: "value", "norm", "global_norm" or None.
    clip: str | None
    # By the variable's path, in the optimizer's order.
    variables: Mapping[str, Statistics]
    # All variables together.
    total: Statistics
    settings: Mapping[str, VariableSettings]
    # Empty unless they were asked for.
    histograms: Mapping[str, Histograms]
    # Why nothing can be measured, or None.
    reason: str | None = None

    def as_text(self, limit: int | None = 5, width: int | None = None) -> str:
        """Return a table of all variables together and of those that look worst.

        Args:
            limit: how many variables to show, the worst first; None for all.
            width: of the text in characters, by default that of the terminal.
        """
        # These modules read reports.
        from keras_rmsprop._diagnostics import _tables

        return _tables.as_text(self, limit, width)

    def flat(self, pattern: str | None = None) -> dict[str, float]:
        """Return the numbers in a flat dict, as loggers take them.

        The keys are "rmsprop/gradient_norm" and so on for all variables together, and
        "rmsprop/<path>/update_ratio" and so on for single ones. If the optimizer was given a name,
        they begin with it. What was not measured is left out.

        Args:
            pattern: which variables: an exact path, or a regular expression that matches whole
                paths; ".*" for all. By default those that look worst.

        Raises: ValueError if the pattern is invalid or matches no variable.
        """
        from keras_rmsprop._diagnostics import _flat, _selection

        if _selection.checked_pattern("pattern", pattern) is None:
            return _flat.flat(self, _selection.worst(self))
        return _flat.flat(self, _selection.matching(self, str(pattern)))

    def __str__(self) -> str:
        return self.as_text()

    def __repr__(self) -> str:
        # An interpreter shows this; the fields of all variables would fill screens.
        return self.as_text()

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from keras_rmsprop._diagnostics import _tables

        return _tables.as_html(self)
