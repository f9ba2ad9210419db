"""What do the first calls cost, and after how many steps are they earned back?"""

import functools
from collections.abc import Iterator

from benchmarks import child, contenders, targets
from benchmarks.measure import Settings, describe
from benchmarks.registry import Row
from benchmarks.results import BREAK_EVEN, OURS, Comparison, Entry, Figure, Result

CASES = {"eager": ("mlp", "conv160"), "graph": ("conv160",), "xla": ("conv160",)}
CASES["jit"] = CASES["graph"]
PEERS = {
    "tensorflow": ("keras", "tf_keras"),
    "jax": ("keras", "optax jit"),
    "torch": ("keras", "torch foreach", "torch compiled"),
}


def rows(backend: str) -> Iterator[Row]:
    """Eager cases, and the many tensors in the compiled modes."""
    for mode in contenders.on(backend).MODES:
        for case in CASES[mode]:
            yield Row(
                "first_calls",
                mode,
                "plain",
                case,
                functools.partial(_measure, backend, mode, case),
            )


def _measure(backend: str, mode: str, case: str, settings: Settings) -> Result:
    """Start-up is what the first calls took beyond as many later ones."""
    names = (OURS, *PEERS[backend])
    entries: dict[str, Entry] = {}
    reports: dict[str, list[child.Report]] = {name: [] for name in names}
    for _ in range(settings.processes):
        for name in names:
            if name not in entries:
                try:
                    reports[name].append(child.run(backend, mode, case, name))
                except Exception as error:  # the failure is a result
                    entries[name] = Entry(failure=describe(error))
    entries |= {
        name: Entry(Figure.of([1e3 * _startup(report) for report in reports[name]]))
        for name in names
        if name not in entries
    }
    comparisons = [
        Comparison(
            peer,
            Figure.of(
                [_break_even(a, b) for a, b in zip(reports[OURS], reports[peer], strict=True)]
            ),
            BREAK_EVEN,
            targets.BREAK_EVEN.get(case) if (peer, mode) == ("keras", "eager") else None,
        )
        for peer in names[1:]
        if entries[OURS].figure and entries[peer].figure
    ]
    return Result(
        "ms before the steady state", {name: entries[name] for name in names}, comparisons
    )


def _startup(report: child.Report) -> float:
    return max(0.0, sum(report["first_calls"]) - len(report["first_calls"]) * report["steady"])


def _break_even(ours: child.Report, peer: child.Report) -> float:
    """The step from which on ours has taken less time in total; infinite if there is none."""
    behind = _startup(ours) - _startup(peer)
    if behind <= 0.0:
        return 0.0
    gain = peer["steady"] - ours["steady"]
    return behind / gain if gain > 0.0 else float("inf")
