"""The reports of a training, as many as are worth keeping."""

from keras_rmsprop._diagnostics._report import Report

# As many points as a chart can show.
_MOST_REPORTS = 1000
# Rows of statistics, which take about 700 bytes each.
_MOST_ROWS = 50_000
_FEWEST_REPORTS = 50


class History:
    """Reports at increasing steps, every n-th of those added, and the last.

    n doubles whenever there would be too many, so that those kept are evenly spread.
    """

    def __init__(self) -> None:
        """Create an empty history."""
        self._kept: list[Report] = []
        self._added = 0
        self._every = 1
        self._last: Report | None = None

    def add(self, report: Report) -> None:
        """Add a report of a later step; those of the same or later steps are dropped."""
        step = report.total.step
        if self._last is not None and step <= self._last.total.step:
            self._kept = [kept for kept in self._kept if kept.total.step < step]
            self._added = len(self._kept) * self._every
        if self._added % self._every == 0:
            self._kept.append(report)
        self._added += 1
        self._last = report
        rows = max(_MOST_ROWS // (len(report.variables) + 1), _FEWEST_REPORTS)
        if len(self._kept) > min(rows, _MOST_REPORTS):
            self._kept = self._kept[::2]
            self._every *= 2

    @property
    def reports(self) -> list[Report]:
        """The reports kept, in order of their steps, with the last one added."""
        reports = list(self._kept)
        if self._last is not None and (not reports or reports[-1] is not self._last):
            reports.append(self._last)
        return reports
