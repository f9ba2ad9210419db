"""How does a step's cost grow with the number of parameters of one tensor?"""

import functools
from collections.abc import Iterator

from benchmarks.measure import Settings
from benchmarks.problems import Problem
from benchmarks.registry import Row
from benchmarks.results import Result
from benchmarks.steps import time_steps

COUNTS = tuple(10**exponent for exponent in range(9))


def rows(backend: str) -> Iterator[Row]:
    """One row per decade, up to 400 MB a tensor."""
    for count in COUNTS:
        yield Row(
            "parameters",
            "eager",
            "plain",
            f"{count:,}",
            functools.partial(_measure, backend, count),
            quick=count == 10_000,
            size=count,
        )


def _measure(backend: str, count: int, settings: Settings) -> Result:
    return time_steps(backend, "eager", Problem([(count,)]), settings)
