"""Which variables of a report are shown: those a pattern matches, or those that look worst."""

import math
from collections.abc import Sequence

from keras_rmsprop._diagnostics._report import Report, Statistics
from keras_rmsprop._variables import _members, _patterns

# The usual size of an update relative to its weight.
USUAL_RATIO = 1e-3

# How many variables are shown if nobody says which.
FEW = 5

# A variable whose badness is below this is not worth a place of its own.
_NOTICEABLE = 1.0

# How many variables `Selection` collects of those that once were among the worst.
_MOST = 20

# A share of 1 counts as much as a ratio that is this many powers of ten from the usual one.
_DECADES_OF_A_SHARE = 3.0


def badness(statistics: Statistics) -> float:
    """Return how much a variable deserves a look, in powers of ten; 0 if all is usual.

    It adds the distance of the update ratio from 1e-3, the shares of elements that do not move or
    that epsilon decides, dead gradients, and gradients that are not finite.
    """
    if not statistics.step:
        # Never a gradient in a sampled step.
        return 2.0
    bad = _decades(statistics.update_ratio) if statistics.weight_norm != 0.0 else 0.0
    shares = (statistics.frozen_share, statistics.stuck_share, statistics.epsilon_share)
    bad += _DECADES_OF_A_SHARE * sum(share for share in shares if not math.isnan(share))
    if statistics.zero_gradient_share == 1.0:
        bad += _DECADES_OF_A_SHARE
    if statistics.nonfinite:
        bad += _DECADES_OF_A_SHARE * (1.0 + statistics.nonfinite / max(statistics.sampled, 1))
    if not math.isfinite(statistics.gradient_norm):
        bad += 2.0 * _DECADES_OF_A_SHARE
    return bad


def _decades(ratio: float) -> float:
    """Return the distance from the usual ratio in powers of ten, at most 6."""
    if math.isnan(ratio):
        return 0.0
    if ratio == 0.0 or math.isinf(ratio):
        return 6.0
    return min(abs(math.log10(ratio / USUAL_RATIO)), 6.0)


def worst(report: Report, limit: int | None = FEW) -> list[str]:
    """Return the paths of the worst variables, the worst first.

    Args:
        report: the report.
        limit: how many at most; None for all.
    """
    ranked = sorted(report.variables, key=lambda path: -badness(report.variables[path]))
    return ranked if limit is None else ranked[:limit]


def matching(report: Report, pattern: str) -> list[str]:
    """Return the paths that a pattern matches, in the optimizer's order.

    Args:
        report: the report.
        pattern: an exact path, or a regular expression that matches a whole path.

    Raises: ValueError if there are variables, but the pattern matches none.
    """
    return matching_of(list(report.variables), pattern)


def matching_of(paths: Sequence[str], pattern: str) -> list[str]:
    """Return those of some paths that a pattern matches, with or without the model's name.

    Raises: ValueError if there are paths, but the pattern matches none.
    """
    # Even if it is no valid regular expression.
    found = [pattern] if pattern in paths else list(_members.matches_of(pattern, paths))
    if paths and not found:
        some = ", ".join(map(repr, paths[:3]))
        raise ValueError(
            f"No variable of the optimizer matches {pattern!r}. It must be an exact path or a "
            f"regular expression that matches a whole path, such as {some}."
        )
    return found


def checked_pattern(name: str, pattern: object) -> str | None:
    """Return a pattern of paths, or None.

    Args:
        name: of the argument, for the message.
        pattern: what was received.

    Raises: ValueError if it is neither None nor a valid regular expression.
    """
    problem = _patterns.problem_of(pattern) if isinstance(pattern, str) else "it is not a string"
    if pattern is not None and problem is not None:
        raise ValueError(
            f"`{name}` must be None, the path of a variable or a regular expression that matches "
            f"whole paths, received {name}={pattern!r}: {problem}."
        )
    return pattern if isinstance(pattern, str) else None


class Selection:
    """The variables that a training's outputs show.

    Without a pattern these are the worst few. Once chosen, a variable stays, so that its curve goes
    on; others join when they become noticeably bad.
    """

    def __init__(self, pattern: str | None = None) -> None:
        """Create a selection.

        Args:
            pattern: as for `matching`; None for the worst few.
        """
        self._pattern = pattern
        self._chosen: list[str] = []

    def __call__(self, report: Report) -> Sequence[str]:
        """Return the paths to show of a report."""
        if self._pattern is not None:
            return matching(report, self._pattern)
        for path in worst(report):
            is_needed = len(self._chosen) < FEW or badness(report.variables[path]) >= _NOTICEABLE
            if path not in self._chosen and is_needed and len(self._chosen) < _MOST:
                self._chosen.append(path)
        return [path for path in self._chosen if path in report.variables]
