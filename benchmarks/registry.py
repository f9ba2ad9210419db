"""Which rows there are: modules of this package with a function `rows(backend)`.

A new suite is a name in `results.SUITES`; its rows may come from any module in `MODULES`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator

from benchmarks.measure import Settings
from benchmarks.results import SUITES, Line

MODULES = ("steps", "training", "embeddings", "startup", "cliffs", "groups")


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement. Its name tells it from all others of the backend."""

    suite: str
    mode: str
    config: str
    case: str
    measure: Callable[[Settings], list[Line]]
    # Whether `--quick` runs it.
    quick: bool = False
    # The number that the row varies, where it belongs to a curve.
    size: float | None = None

    @property
    def name(self) -> str:
        """What `--only` is matched with."""
        return f"{self.suite}/{self.mode}/{self.config}/{self.case}"


def rows(backend: str, *, quick: bool, only: str | None) -> Iterator[Row]:
    """All rows of a backend, or those that were asked for, suite by suite.

    Args:
        backend: one of `BACKENDS`, the active one.
        quick: only the rows marked for it.
        only: a part of the names wanted, or None for all.
    """
    modules = [importlib.import_module(f"benchmarks.{module}") for module in MODULES]
    everything = [row for module in modules for row in module.rows(backend)]
    for row in sorted(everything, key=lambda row: SUITES.index(row.suite)):
        if (row.quick or not quick) and (only is None or only in row.name):
            yield row
