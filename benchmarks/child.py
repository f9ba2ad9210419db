"""One contender alone in a fresh process: what do its first calls and its memory cost?

Run as `python -m benchmarks.child BACKEND MODE CASE CONTENDER`; prints one JSON object.
Everything counts that a program would meet: tracing, compiling, waking the compiler up.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

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
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", backend, mode, case, contender],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    report: Report = json.loads(done.stdout.splitlines()[-1])
    return report


def measure(backend: str, mode: str, case: str, contender: str) -> Report:
    """Measure in this process."""
    from benchmarks import contenders
    from benchmarks.measure import seconds_per_step
    from benchmarks.problems import CASES, Problem

    module = contenders.on(backend)
    floor = _forget_peak()
    problem = Problem(CASES[case])
    made = module.builders(mode, problem)[contender]()
    problem.forget()
    _forget_peak()
    first_calls = [seconds_per_step(made, 1) for _ in range(FIRST_CALLS)]
    peak_first = _peak()
    _forget_peak()
    steady = statistics.median(seconds_per_step(made, 1) for _ in range(3 * FIRST_CALLS))
    return Report(
        first_calls=first_calls,
        steady=steady,
        peak_first=peak_first - floor,
        peak_steady=_peak() - floor,
        parameters=problem.parameters,
    )


def _forget_peak() -> int:
    """Start a new peak where the system can (Linux); return the bytes in use."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
