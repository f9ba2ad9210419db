"""Measure the rows of each backend in its own process, which sends each result when it is ready."""

import gc
import itertools
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import busy, registry
from benchmarks.fresh import ProcessDiedError, stream
from benchmarks.measure import QUICK, Settings, describe
from benchmarks.results import Line, failed

# TensorFlow's rows are measured on the CPU; JAX must not reserve all of an accelerator's memory.
ENVIRONMENT = {
    "tensorflow": {"CUDA_VISIBLE_DEVICES": ""},
    "jax": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    "torch": {},
}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def measure_all(
    backend: str, *, quick: bool, only: str | None, gpu: bool = False, neighbours: int = 0
) -> tuple[str, list[Line]]:
    """Measure a backend in its own process; return its device and its lines.

    If the process dies, for example because it runs out of memory, the failure is recorded for the
    current row, and a new process continues after it.
    """
    device, lines, done = "not started", list[Line](), 0
    while True:
        begun = None
        try:
            for kind, told in stream(work, backend, quick, only, done, gpu, neighbours):
                if kind == "device":
                    device = told
                elif kind == "begun":
                    begun = told
                else:
                    lines += [begun | line for line in told]
                    begun = None
                    done += 1
        except ProcessDiedError as error:
            names = begun or _names(backend, "start")
            lines += [names | line for line in failed(str(error))]
            done += 1
            if begun is None:
                return device, lines  # A new process would fail as well.
        else:
            return device, lines


def work(
    backend: str, quick: bool, only: str | None, skip: int, gpu: bool = False, neighbours: int = 0
) -> Iterator[tuple[str, Any]]:
    """Measure in this process, skipping the rows that an earlier one has handled.

    Args:
        backend: the backend.
        quick: whether to measure little.
        only: a part of the names of the rows to measure, or None.
        skip: how many rows have been handled.
        gpu: whether to measure the rows that need a GPU, and no others.
        neighbours: how many processes to keep busy meanwhile.

    Yields: the device, then for each row its names, and its lines once it is measured.
    """
    # Must be set before any framework is imported.
    os.environ.update({"KERAS_BACKEND": backend, **QUIET, **ENVIRONMENT[backend]})
    from benchmarks import contenders

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    settings = QUICK if quick else Settings()
    yield "device", contenders.for_backend(backend).device()
    rows = registry.rows(backend, quick=quick, only=only, gpu=gpu)
    for row in itertools.islice(rows, skip, None):
        size = {} if row.size is None else {"size": row.size}
        yield "begun", _names(backend, row.suite, row.mode, row.config, row.case) | size
        start = time.perf_counter()
        with busy.neighbours(neighbours):
            lines = measure(row, settings)
        yield "done", lines
        seconds = time.perf_counter() - start
        print(f"{backend} {row.name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        gc.collect()


def measure(row: registry.Row, settings: Settings) -> list[Line]:
    """Measure a row; if it fails as a whole, the result is the reason."""
    try:
        return row.measure(settings)
    except Exception as error:  # the failure is a result
        return failed(describe(error))


def _names(
    backend: str, suite: str, mode: str = "", config: str = "", case: str = ""
) -> dict[str, Any]:
    return {"backend": backend, "suite": suite, "mode": mode, "config": config, "case": case}
