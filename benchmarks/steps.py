"""The time of one step (`apply` alone) against each peer.

Also by the number of tensors, and by the number of parameters of one tensor.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence

from benchmarks import contenders, limit
from benchmarks.measure import Settings, compare
from benchmarks.problems import CASES, CONFIGS, Problem
from benchmarks.registry import Row
from benchmarks.results import Line

# Tensors of 1,000 parameters, and parameters of one tensor, up to 400 MB.
TENSORS = (1, 3, 10, 30, 100, 300, 1000)
PARAMETERS = tuple(10**exponent for exponent in range(9))

# The minimum speed relative to a peer; rows that miss it stay in the table. The targets are for 2
# CPU cores. Figures for other machines are compared with the same targets.
# (backend, mode, config) -> peer -> case -> ratio
TARGETS: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {
    ("tensorflow", "eager", "plain"): {
        "keras": {"scalar": 10, "mlp": 18, "conv160": 18, "matrix": 3.5},
        # Relative to the bandwidth that the loop, or the triad, reaches.
        limit.LOOP: {"matrix": 0.75},
        limit.TRIAD: {"matrix": 0.6},
    },
    ("tensorflow", "eager", "clipnorm+decay"): {
        "keras": {"scalar": 12, "mlp": 18, "conv160": 18, "matrix": 2}
    },
    ("tensorflow", "eager", "global_clipnorm+ema"): {
        "keras": {"scalar": 12, "mlp": 18, "conv160": 18, "matrix": 2}
    },
    ("tensorflow", "graph", "plain"): {"keras": {"conv160": 1.8, "matrix": 2.5}},
    ("jax", "eager", "plain"): {"keras": {"conv160": 8}},
    ("torch", "eager", "plain"): {
        "keras": {"conv160": 2, "matrix": 2},
        "torch foreach": {"conv160": 0.95, "matrix": 0.95},
    },
    ("torch", "compiled", "plain"): {
        "torch compiled": {"mlp": 0.95, "conv160": 0.95, "matrix": 0.95}
    },
}
# For modes in which Keras's own step is compiled as a whole.
NO_SLOWER = {"keras": 0.97}


def rows(backend: str) -> Iterator[Row]:
    """Yield all cases in all modes, with other options eagerly or for many tensors; and curves."""
    for mode in contenders.for_backend(backend).MODES:
        quick = ("scalar", "mlp") if mode == "eager" else ("mlp",)
        for config in CONFIGS:
            for case in CASES:
                if mode == "eager" or config == "plain" or case == "conv160":
                    yield Row(
                        "steps", mode, config, case,
                        functools.partial(_measure, backend, mode, config, case),
                        quick=config == "plain" and case in quick,
                    )  # fmt: skip
    curves = [("tensors", n, [(1000,)] * n, n == 10) for n in TENSORS]
    curves += [("parameters", n, [(n,)], n == 10_000) for n in PARAMETERS]
    for suite, count, shapes, is_quick in curves:
        # torch.compile takes minutes for hundreds of tensors; the row of 160 covers it.
        without = ("torch compiled",) if len(shapes) > 100 else ()
        measure = functools.partial(_measure_curve, backend, shapes, without)
        yield Row(suite, "eager", "plain", f"{count:,}", measure, quick=is_quick, size=count)


def targets_of(backend: str, mode: str, config: str, case: str) -> dict[str, float]:
    """Return the targets of a row of steps by peer."""
    if mode in ("xla", "jit"):
        return NO_SLOWER
    peers = TARGETS.get((backend, mode, config), {})
    return {peer: cases[case] for peer, cases in peers.items() if case in cases}


def _measure(backend: str, mode: str, config: str, case: str, settings: Settings) -> list[Line]:
    problem = Problem(CASES[case], **CONFIGS[config])
    return time_steps(backend, mode, problem, settings, targets_of(backend, mode, config, case))


def _measure_curve(
    backend: str, shapes: Sequence[tuple[int, ...]], without: tuple[str, ...], settings: Settings
) -> list[Line]:
    return time_steps(backend, "eager", Problem(shapes), settings, without=without)


def time_steps(
    backend: str,
    mode: str,
    problem: Problem,
    settings: Settings,
    targets: Mapping[str, float] | None = None,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] | None = None,
) -> list[Line]:
    """Compare the backend's contenders on one problem, all or those selected."""
    if settings.quick:
        without = (*without, "torch compiled")  # minutes of compilation
    builders = contenders.for_backend(backend).builders(mode, problem)
    return compare(
        {
            name: build
            for name, build in builders.items()
            if name not in without and (only is None or name in only)
        },
        lambda name, contender: problem.check(contender, **contenders.CONVENTIONS.get(name, {})),
        settings,
        targets,
    )
