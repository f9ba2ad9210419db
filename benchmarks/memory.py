"""How much memory do the slots and the temporaries of a step take?

For one 4096 x 4096 tensor, in units of its size, above what the imported framework uses. The
weight, its gradient and the square average make 3, the least there can be. On TensorFlow its
allocator is asked, elsewhere the system. It is the host's memory: where the contenders run on
an accelerator, the rows are left out.
"""

import functools
from collections.abc import Iterator

from benchmarks import child, contenders
from benchmarks.measure import Settings, describe
from benchmarks.registry import Row
from benchmarks.results import OURS, SMALLER, Comparison, Entry, Figure, Result

PEERS = {
    "tensorflow": ("keras", "tf_keras", "tf_keras legacy"),
    "jax": ("keras", "optax jit"),
    "torch": ("keras", "torch", "torch foreach", "torch compiled"),
}


def rows(backend: str) -> Iterator[Row]:
    """The peak of the first calls and that of later ones, in every mode."""
    if contenders.on(backend).device() != "cpu":
        return
    for mode in contenders.on(backend).MODES:
        for when in ("first calls", "later calls"):
            yield Row(
                "memory", mode, when, "matrix", functools.partial(_measure, backend, mode, when)
            )


def _measure(backend: str, mode: str, when: str, settings: Settings) -> Result:
    del settings  # a peak is the same every time
    entries = {name: _entry(backend, mode, when, name) for name in (OURS, *PEERS[backend])}
    figures = {name: entry.figure.median for name, entry in entries.items() if entry.figure}
    comparisons = [
        Comparison(name, Figure.of([figures[name] / figures[OURS]]), SMALLER)
        for name in PEERS[backend]
        if {name, OURS} <= figures.keys()
    ]
    return Result("tensors", entries, comparisons)


def _entry(backend: str, mode: str, when: str, name: str) -> Entry:
    try:
        report = _report(backend, mode, name)
    except Exception as error:  # the failure is a result
        return Entry(failure=describe(error))
    peak = report["peak_first"] if when == "first calls" else report["peak_steady"]
    return Entry(Figure.of([peak / (4 * report["parameters"])]))


@functools.cache
def _report(backend: str, mode: str, name: str) -> child.Report:
    return child.run(backend, mode, "matrix", name)
