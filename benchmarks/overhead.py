"""What Python costs: an eager step against the bare call of what it runs.

The bare call runs the same compiled program, or on torch the same multi-tensor operations, on
arguments that have been collected before. So the difference is everything else that a step does.
On TensorFlow a second peer is the public call of the same concrete function, and a third the step
under `jax.jit`; on JAX there is optax's step as well, with and without donated arguments.
"""

import functools
from collections.abc import Iterator

from benchmarks import contenders
from benchmarks.measure import Settings, compare
from benchmarks.problems import CASES, Problem
from benchmarks.registry import Row
from benchmarks.results import BARE, MICROSECONDS, OURS, Line

PROBLEMS: dict[str, list[tuple[int, ...]]] = {
    "scalar": CASES["scalar"],
    "mlp": CASES["mlp"],
    "conv160": CASES["conv160"],
    "1,000": [(1000,)] * 1000,
}

# The minimum speed relative to a peer: at most a third on top for everything in Python.
TARGETS = {
    "tensorflow": {"concrete function": 0.75, "jax.jit": 0.7},
    "jax": {BARE: 0.75, "optax jit, rebound": 0.9},
    "torch": {BARE: 0.75},
}
# The peer for a single scalar, and the microseconds allowed on top.
ON_TOP = {
    "tensorflow": ("concrete function", 20.0),
    "jax": (BARE, 15.0),
    "torch": (BARE, 20.0),
}


def rows(backend: str) -> Iterator[Row]:
    """Yield rows of ratios by the number of tensors, and one of the microseconds on top."""
    for case in PROBLEMS:
        measure = functools.partial(_measure, backend, case)
        yield Row("overhead", "eager", "plain", case, measure, quick=case == "mlp")
    yield Row("overhead", "eager", "on top", "scalar", functools.partial(measure_on_top, backend))


def _measure(backend: str, case: str, settings: Settings) -> list[Line]:
    targets = dict(TARGETS[backend])
    if case == "scalar":
        targets = {}
    elif case != "conv160":
        targets.pop("jax.jit", None)
    return _compare(backend, case, settings, targets)


def measure_on_top(backend: str, settings: Settings) -> list[Line]:
    """Return ours and the peer's line, with the difference of the medians in microseconds."""
    peer, most = ON_TOP[backend]
    lines = _compare(backend, "scalar", settings, {})
    ours = next(line for line in lines if line["contender"] == OURS)
    for line in lines:
        if line["contender"] == peer and "median" in line and "median" in ours:
            more = 1e3 * (ours["median"] - line["median"])
            line |= {"quantity": MICROSECONDS, "target": most}
            line |= dict.fromkeys(("ratio", "ratio_low", "ratio_high"), more)
    return [line for line in lines if line["contender"] in (OURS, peer)]


def _compare(backend: str, case: str, settings: Settings, targets: dict[str, float]) -> list[Line]:
    module = contenders.for_backend(backend)
    problem = Problem(PROBLEMS[case])
    ours = {OURS: module.builders("eager", problem)[OURS]}
    return compare(
        ours | module.bare(problem), lambda _, each: problem.check(each), settings, targets
    )
