"""Neighbours: processes that keep every core busy while something is measured beside them."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import machine

# Each ends by itself when its parent has gone, even if that was killed before it began.
_SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""


def count() -> int:
    """Two for each core: four on the two cores that the targets are for."""
    return 2 * machine.cores()


@contextlib.contextmanager
def neighbours(processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep so many processes busy in the meantime; they are gone at the end."""
    with contextlib.ExitStack() as stack:
        started = []
        for _ in range(processes):
            command = [sys.executable, "-S", "-c", _SPIN, str(os.getpid())]
            process = subprocess.Popen(command)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield started
