"""The cost of the first calls, when it pays off, and the memory that a step takes.

Start-up is the time that the first calls took in excess of the same number of later ones.

Memory is measured for one 4096 x 4096 tensor, in units of its size, above what the imported
framework uses. Weight, gradient and square average make 3, the minimum. TensorFlow's figure comes
from its allocator, the others from the system. It is host memory: if the contenders run on an
accelerator, the rows are left out.
"""

import functools
import math
import statistics
from collections.abc import Iterator, Sequence

from benchmarks import contenders
from benchmarks.fresh import Quantity, Report, in_turn
from benchmarks.measure import Settings, seconds_per_step
from benchmarks.problems import CASES, Problem
from benchmarks.registry import Row
from benchmarks.results import BREAK_EVEN, OURS, SMALLER, Line

FIRST_CALLS = 5
# The compiled modes are measured with many tensors only.
CASES_OF = {"eager": ("mlp", "conv160"), "graph": ("conv160",), "xla": ("conv160",)}
CASES_OF["jit"] = CASES_OF["compiled"] = CASES_OF["graph"]
PEERS = {
    "tensorflow": ("keras", "tf_keras"),
    "jax": ("keras", "optax jit"),
    "torch": ("keras", "torch foreach", "torch compiled"),
}
MEMORY_PEERS = {
    "tensorflow": ("keras", "tf_keras", "tf_keras legacy"),
    "jax": ("keras", "optax jit"),
    "torch": ("keras", "torch", "torch foreach", "torch compiled"),
}
# The maximum number of steps after which compiling must pay off.
TARGETS = {("eager", "conv160"): {"keras": 20.0}}


def rows(backend: str) -> Iterator[Row]:
    """Yield rows of the first calls in every mode, and of the peaks of first and later calls."""
    on_host = contenders.for_backend(backend).device() == "cpu"
    for mode in contenders.for_backend(backend).MODES:
        for case in CASES_OF[mode]:
            measure = functools.partial(_first_calls, backend, mode, case)
            yield Row("first_calls", mode, "plain", case, measure)
        for when in ("first calls", "later calls") if on_host else ():
            measure = functools.partial(_memory, backend, mode, when)
            yield Row("memory", mode, when, "matrix", measure)


def _first_calls(backend: str, mode: str, case: str, settings: Settings) -> list[Line]:
    quantity = Quantity(
        "ms before the steady state", lambda seen: 1e3 * seen["startup"], break_even, BREAK_EVEN
    )
    return in_turn(
        report, (backend, mode, case), (OURS, *PEERS[backend]), settings.processes,
        quantity, TARGETS.get((mode, case)),
    )  # fmt: skip


def break_even(ours: Report, peer: Report) -> float:
    """Return the step after which ours has taken less time in total; infinite if there is none."""
    behind = ours["startup"] - peer["startup"]
    if behind <= 0.0:
        return 0.0
    gain = peer["steady"] - ours["steady"]
    return behind / gain if gain > 0.0 else math.inf


def _memory(backend: str, mode: str, when: str, settings: Settings) -> list[Line]:
    del settings  # a peak is the same every time
    quantity = Quantity(
        "tensors", lambda seen: seen[when], lambda ours, peer: peer[when] / ours[when], SMALLER
    )
    return in_turn(report, (backend, mode, "matrix"), (OURS, *MEMORY_PEERS[backend]), 1, quantity)


def report(backend: str, mode: str, case: str, name: str) -> Report:
    """Make steps in this process.

    Returns:
        Seconds of start-up and of a steady step, and the peaks of the first and of later calls, in
        units of the weights' size: the bytes above those in use after importing the framework,
        that is weights, gradients, slots and temporaries.
    """
    module = contenders.for_backend(backend)
    module.forget_peak()
    floor = module.peak()
    problem = Problem(CASES[case])
    contender = module.builders(mode, problem)[name]()
    problem.forget()

    def calls(count: int) -> tuple[Sequence[float], float]:
        module.forget_peak()
        seconds = [seconds_per_step(contender, 1) for _ in range(count)]
        return seconds, (module.peak() - floor) / (4 * problem.parameters)

    first, peak_of_first = calls(FIRST_CALLS)
    later, peak_of_later = calls(3 * FIRST_CALLS)
    steady = statistics.median(later)
    return {
        "startup": max(0.0, sum(first) - FIRST_CALLS * steady),
        "steady": steady,
        "first calls": peak_of_first,
        "later calls": peak_of_later,
    }
