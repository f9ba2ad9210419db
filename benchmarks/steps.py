"""How long is one step, `apply` alone, against each peer?"""

import functools
from collections.abc import Iterator

from benchmarks import contenders, targets
from benchmarks.measure import Settings, compare
from benchmarks.problems import CASES, CONFIGS, Problem
from benchmarks.registry import Row
from benchmarks.results import Result


def rows(backend: str) -> Iterator[Row]:
    """Every case plain in every mode; the other options eagerly and for the many tensors."""
    for mode in contenders.on(backend).MODES:
        for config in CONFIGS:
            for case in CASES:
                if mode == "eager" or config == "plain" or case == "conv160":
                    yield Row(
                        "steps",
                        mode,
                        config,
                        case,
                        functools.partial(_measure, backend, mode, config, case),
                        quick=config == "plain"
                        and case in (("scalar", "mlp") if mode == "eager" else ("mlp",)),
                    )


def _measure(backend: str, mode: str, config: str, case: str, settings: Settings) -> Result:
    return time_steps(
        backend,
        mode,
        Problem(CASES[case], CONFIGS[config]),
        settings,
        targets.of_step(backend, mode, config, case),
    )


def time_steps(
    backend: str,
    mode: str,
    problem: Problem,
    settings: Settings,
    wanted: dict[str, float] | None = None,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] | None = None,
) -> Result:
    """Compare contenders of the backend on one problem: all, but those that are left out."""
    if settings.quick:
        without = (*without, "torch compiled")  # minutes of compilation

    builders = contenders.on(backend).builders(mode, problem)
    return compare(
        {
            name: build
            for name, build in builders.items()
            if name not in without and (only is None or name in only)
        },
        lambda name, contender: problem.check(contender, **contenders.CONVENTIONS.get(name, {})),
        settings,
        wanted,
    )
