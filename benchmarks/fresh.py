"""Fresh processes: one per backend, and one for each thing that happens only once per process.

The latter include every cost that a program has: tracing, compiling, initializing the compiler.
"""

import functools
import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.measure import describe
from benchmarks.results import OURS, Line, lines_of

# A fork would inherit the framework's state.
_CONTEXT = multiprocessing.get_context("spawn")

# The measurements of a process.
Report = dict[str, float]


class ProcessDiedError(Exception):
    """The process failed or was killed; the message says how."""


class Quantity(NamedTuple):
    """A number in the reports, and how ours is compared with a peer's."""

    unit: str
    of: Callable[[Report], float]
    compared: Callable[[Report, Report], float]
    # What the comparison measures.
    counts: str


def in_turn(
    report: Callable[..., Report],
    arguments: Sequence[str],
    names: Sequence[str],
    processes: int,
    quantity: Quantity,
    targets: Mapping[str, float] | None = None,
) -> list[Line]:
    """Run the contenders in turn, repeatedly; one that fails is not tried again.

    Args:
        report: runs in each process, with `arguments` and the contender's name.
        arguments: the arguments before the name.
        names: the contenders, ours first.
        processes: how many per contender; each gives one value, and each pair one ratio.
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
    """Return the report of a process, or why there is none.

    Cached, so that rows that read different numbers from the same reports share the processes.
    """
    del attempt
    try:
        (told,) = stream(_once, report, *arguments)
    except ProcessDiedError as error:
        return str(error)
    return told


def _once(report: Callable[..., Report], *arguments: str) -> Iterator[Report]:
    yield report(*arguments)


def stream(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    """Run a generator function in a fresh process and yield its items as they arrive.

    Raises: ProcessDiedError if the process fails or is killed.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()  # So that the pipe ends with the process.
    try:
        while True:
            item = receiver.recv()
            if isinstance(item, ProcessDiedError):
                raise item
            yield item
    except (EOFError, OSError):
        pass  # The process has ended, perhaps in the middle of an item.
    finally:
        receiver.close()
        process.join()
    if process.exitcode:
        raise ProcessDiedError(f"the process ended with code {process.exitcode}")


def _send(
    sender: Connection, function: Callable[..., Iterator[Any]], arguments: Sequence[Any]
) -> None:
    # Hide the peers' expected warnings, which would clutter the table.
    warnings.simplefilter("ignore")
    try:
        for item in function(*arguments):
            sender.send(item)
    except Exception as error:  # the failure is a result
        sender.send(ProcessDiedError(describe(error)))
