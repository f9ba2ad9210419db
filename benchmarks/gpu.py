"""One step on a GPU: 160 tensors, and one of 8192², against the peers and a copy on the device.

TensorFlow's rows are measured on the CPU only.
"""

import functools
from collections.abc import Iterator

from benchmarks import contenders, limit
from benchmarks.measure import NotComparableError, Settings
from benchmarks.problems import CASES, Problem
from benchmarks.registry import GPU, Row
from benchmarks.results import Line
from benchmarks.steps import time_steps

PROBLEMS: dict[str, list[tuple[int, ...]]] = {
    "conv160": CASES["conv160"],
    "matrix 8192": [(8192, 8192)],
}
PEERS = {
    "jax": {"optax jit": 0.95},
    "torch": {"torch foreach": 0.95, "torch compiled": 0.95},
}


def rows(backend: str) -> Iterator[Row]:
    """Yield a row for each problem on JAX and torch."""
    if backend in PEERS:
        for case in PROBLEMS:
            measure = functools.partial(_measure, backend, case)
            yield Row(GPU, "eager", "plain", case, measure, quick=case == "conv160")


def _measure(backend: str, case: str, settings: Settings) -> list[Line]:
    device = contenders.for_backend(backend).device()
    if device.lower() == "cpu":
        raise NotComparableError("there is no GPU")
    targets = dict(PEERS[backend])
    if case != "conv160":
        # The share of the device's bandwidth.
        targets[limit.COPY] = 0.8
    return time_steps(backend, "eager", Problem(PROBLEMS[case]), settings, targets)
