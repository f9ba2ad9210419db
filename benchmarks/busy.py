"""Neighbours: processes that keep every core busy during a measurement."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import machine

# Each exits by itself once its parent is gone, even if the parent was killed before it started.
_SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


def count() -> int:
    """Return two per core: four on the two cores that the targets assume."""
    return 2 * machine.cores()


@contextlib.contextmanager
def neighbours(processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep this many processes busy within the context."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(processes):
            command = [sys.executable, "-S", "-c", _SPIN, str(os.getpid())]
            process = subprocess.Popen(command)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield started
