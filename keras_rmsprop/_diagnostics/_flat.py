"""A report as a flat dict of numbers, for loggers."""

import math
from collections.abc import Iterable, Iterator

from keras_rmsprop._diagnostics._report import Report, Statistics

# What is logged of all variables together, ...
OF_ALL = (
    "gradient_norm",
    "clipped_gradient_norm",
    "largest_gradient",
    "zero_gradient_share",
    "weight_norm",
    "update_norm",
    "largest_update",
    "update_ratio",
    "smallest_rate",
    "mean_rate",
    "largest_rate",
    "epsilon_share",
    "frozen_share",
    "stuck_share",
    "learning_rate",
    "clipped_share",
    "nonfinite",
    "skipped",
)
# ... and of one.
OF_ONE = (
    "gradient_norm",
    "zero_gradient_share",
    "weight_norm",
    "update_ratio",
    "mean_rate",
    "epsilon_share",
    "frozen_share",
    "stuck_share",
    "nonfinite",
)


def flat(report: Report, paths: Iterable[str]) -> dict[str, float]:
    """Return the numbers of all variables together and of some, and the step, by key.

    Args:
        report: the report.
        paths: of the variables.

    Returns: what was measured, so nothing before the first sample, and no NaN.
    """
    if not report.total.step:
        return {}
    values = {f"{report.name}/step": float(report.total.step), **of_all(report)}
    for path in paths:
        values |= of_one(report, path)
    return values


def of_all(report: Report) -> dict[str, float]:
    """Return what is logged of all variables together, by key."""
    return dict(_measured(report.name, report.total, OF_ALL))


def of_one(report: Report, path: str) -> dict[str, float]:
    """Return what is logged of one variable, by key."""
    return dict(_measured(f"{report.name}/{path}", report.variables[path], OF_ONE))


def _measured(
    prefix: str, statistics: Statistics, names: Iterable[str]
) -> Iterator[tuple[str, float]]:
    if not statistics.step:
        return
    for name in names:
        value = float(getattr(statistics, name))
        if not math.isnan(value):
            yield f"{prefix}/{name}", value
