"""All rows, collected from the modules that have a function `rows(backend)`.

A new suite is a name in `results.SUITES`; its rows may come from any module in `MODULES`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator

from benchmarks.measure import Settings
from benchmarks.results import SUITES, Line

# The suite of the rows that need a GPU.
GPU = "gpu"

MODULES = (
    "steps", "training", "embeddings", "startup", "cliffs", "groups", "diagnostics", "overhead",
    "gpu",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement, whose name is unique within the backend."""

    suite: str
    mode: str
    config: str
    case: str
    measure: Callable[[Settings], list[Line]]
    # Whether `--quick` runs it.
    quick: bool = False
    # The number that varies along a curve, if the row belongs to one.
    size: float | None = None

    @property
    def name(self) -> str:
        """The name that `--only` is matched against."""
        return f"{self.suite}/{self.mode}/{self.config}/{self.case}"


def rows(backend: str, *, quick: bool, only: str | None, gpu: bool = False) -> Iterator[Row]:
    """Yield the selected rows of a backend, suite by suite.

    Args:
        backend: the active backend, one of `BACKENDS`.
        quick: whether to yield only the rows marked for `--quick`.
        only: a substring of the row names, or None for all.
        gpu: whether to yield the rows that need a GPU, and no others.
    """
    modules = [importlib.import_module(f"benchmarks.{module}") for module in MODULES]
    everything = [row for module in modules for row in module.rows(backend)]
    for row in sorted(everything, key=lambda row: SUITES.index(row.suite)):
        if (row.suite == GPU) is not gpu:
            continue
        if (row.quick or not quick) and (only is None or only in row.name):
            yield row
