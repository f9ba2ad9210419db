"""Contenders alone, each in fresh processes: what happens once in a process, and what it leaves.

Everything counts that a program would meet: tracing, compiling, waking the compiler up.
"""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.measure import describe
from benchmarks.process import ProcessDiedError, stream
from benchmarks.results import OURS, Line, lines_of

# What a process saw.
Report = dict[str, float]


class Quantity(NamedTuple):
    """A number that reports tell, and how ours is compared with a peer's."""

    unit: str
    of: Callable[[Report], float]
    compared: Callable[[Report, Report], float]
    # What the comparison counts.
    counts: str


def in_turn(
    report: Callable[..., Report],
    arguments: Sequence[str],
    names: Sequence[str],
    processes: int,
    quantity: Quantity,
    targets: Mapping[str, float] | None = None,
) -> list[Line]:
    """Let contenders run in turn, so many times; one that fails is not tried again.

    Args:
        report: what each process does, given `arguments` and the contender's name.
        arguments: beside the name.
        names: of the contenders, ours first.
        processes: for each contender; each gives one value, and each pair one ratio.
        quantity: what is read from the reports.
        targets: bounds of the comparisons.
    """
    reports: dict[str, list[Report]] = {name: [] for name in names}
    failures: dict[str, str] = {}
    for attempt in range(processes):
        for name in names:
            if name not in failures:
                told = _tell(attempt, report, *arguments, name)
                if isinstance(told, str):
                    failures[name] = told
                else:
                    reports[name].append(told)
    outcomes: dict[str, Sequence[float] | str] = {
        name: failures.get(name) or [quantity.of(seen) for seen in reports[name]] for name in names
    }
    ratios = {
        peer: list(map(quantity.compared, reports[OURS], reports[peer]))
        for peer in names[1:]
        if not failures.keys() & {OURS, peer}
    }
    return lines_of(quantity.unit, outcomes, ratios, quantity.counts, targets)


@functools.cache
def _tell(attempt: int, report: Callable[..., Report], *arguments: str) -> Report | str:
    """Return what a process saw, or why it saw nothing.

    Rows that read different numbers from the same reports share the processes: an attempt of
    the same arguments is made once.
    """
    del attempt
    try:
        (told,) = stream(_try, report, *arguments)
    except ProcessDiedError as error:
        return str(error)
    return told


def _try(report: Callable[..., Report], *arguments: str) -> Iterator[Report | str]:
    # As in the process of a backend.
    warnings.simplefilter("ignore")
    try:
        told: Report | str = report(*arguments)
    except Exception as error:  # the failure is a result
        told = describe(error)
    yield told
