"""Which rows there are: each suite is a module with a function `rows(backend)`.

A new suite is a module of this package, named in `SUITES`, whose `rows` yields one `Row` per
measurement that makes sense on that backend.
"""

import dataclasses
import importlib
from collections.abc import Callable, Iterator

from benchmarks.measure import Settings
from benchmarks.results import Result

BACKENDS = ("tensorflow", "jax", "torch")
SUITES = (
    "steps",
    "training",
    "tensors",
    "parameters",
    "embeddings",
    "first_calls",
    "memory",
    "cliffs",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement. Its name tells it from all others of the backend."""

    suite: str
    mode: str
    config: str
    case: str
    measure: Callable[[Settings], Result]
    # Whether `--quick` runs it.
    quick: bool = False
    # The number that the row varies, where it belongs to a curve.
    size: float | None = None

    @property
    def name(self) -> str:
        """What `--only` is matched with."""
        return f"{self.suite}/{self.mode}/{self.config}/{self.case}"


def rows(backend: str, *, quick: bool, only: str | None) -> Iterator[Row]:
    """All rows of a backend, or those that were asked for.

    Args:
        backend: one of `BACKENDS`, the active one.
        quick: only the rows marked for it.
        only: a part of the names wanted, or None for all.
    """
    for suite in SUITES:
        for row in importlib.import_module(f"benchmarks.{suite}").rows(backend):
            if (row.quick or not quick) and (only is None or only in row.name):
                yield row
