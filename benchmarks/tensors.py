"""How does a step's cost grow with the number of tensors? Each holds 1,000 parameters."""

import functools
from collections.abc import Iterator

from benchmarks.measure import Settings
from benchmarks.problems import Problem
from benchmarks.registry import Row
from benchmarks.results import Result
from benchmarks.steps import time_steps

COUNTS = (1, 3, 10, 30, 100, 300, 1000)


def rows(backend: str) -> Iterator[Row]:
    """One row per number of tensors."""
    for count in COUNTS:
        yield Row(
            "tensors",
            "eager",
            "plain",
            f"{count:,}",
            functools.partial(_measure, backend, count),
            quick=count == 10,
            size=count,
        )


def _measure(backend: str, count: int, settings: Settings) -> Result:
    # torch.compile takes minutes for hundreds of tensors; `steps` has it for 160.
    without = ("torch compiled",) if count > 100 else ()
    return time_steps(backend, "eager", Problem([(1000,)] * count), settings, without=without)
