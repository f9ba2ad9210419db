"""One contender alone in a fresh process: what do its first calls and its memory cost?

Run as `python -m benchmarks.child BACKEND MODE CASE CONTENDER`; prints one JSON object.
Everything counts that a program would meet: tracing, compiling, waking the compiler up.
"""

import json
import os
import statistics
import subprocess
import sys
from typing import Any, TypedDict

FIRST_CALLS = 5


class Report(TypedDict):
    """What the process saw."""

    # Seconds of each of the first calls, and of a later one.
    first_calls: list[float]
    steady: float
    # Bytes above those in use once the framework was imported, so with weights, gradients,
    # slots and temporaries: the peak of the first calls, and that of later calls.
    peak_first: int
    peak_steady: int
    parameters: int


def run(backend: str, mode: str, case: str, contender: str) -> Report:
    """Measure in a process of its own.

    Raises:
        RuntimeError: if the process failed; the message is its last line.
    """
    report: Report = in_fresh_process("benchmarks.child", backend, backend, mode, case, contender)
    return report


def in_fresh_process(module: str, backend: str, *arguments: str) -> Any:
    """Run a module that prints a JSON object last, and return the object.

    Raises:
        RuntimeError: if the process failed; the message is its last line.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def measure(backend: str, mode: str, case: str, contender: str) -> Report:
    """Measure in this process."""
    from benchmarks import contenders
    from benchmarks.measure import seconds_per_step
    from benchmarks.problems import CASES, Problem

    module = contenders.on(backend)
    module.forget_peak()
    floor = module.peak()
    problem = Problem(CASES[case])
    made = module.builders(mode, problem)[contender]()
    problem.forget()
    module.forget_peak()
    first_calls = [seconds_per_step(made, 1) for _ in range(FIRST_CALLS)]
    peak_first = module.peak()
    module.forget_peak()
    steady = statistics.median(seconds_per_step(made, 1) for _ in range(3 * FIRST_CALLS))
    return Report(
        first_calls=first_calls,
        steady=steady,
        peak_first=peak_first - floor,
        peak_steady=module.peak() - floor,
        parameters=problem.parameters,
    )


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
