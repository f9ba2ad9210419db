"""Does a step stay fast where programs do what a quiet loop of equal steps does not?

Against `keras.optimizers.RMSprop` alone, which has no cliffs: another set of missing gradients at
every step, busy neighbours, optimizers made one after the other, many tensors in a short run, and
the first batch of `fit`. What happens once in a process is measured in fresh ones:

    python -m benchmarks.cliffs SCENARIO CASE CONTENDER

prints one JSON object, on the active backend.
"""

import functools
import gc
import json
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict, TypeVar

import keras

from benchmarks import busy, child, resident, targets, training
from benchmarks.contenders import _keras
from benchmarks.measure import Array, Contender, Settings, compare, describe
from benchmarks.problems import CHECKED_STEPS, EPSILON, LEARNING_RATE, Problem
from benchmarks.registry import Row
from benchmarks.results import FASTER, MORE, OURS, Comparison, Entry, Figure, Result
from benchmarks.steps import time_steps

PROBLEMS: dict[str, list[tuple[int, ...]]] = {
    "24": [(32, 32)] * 24,
    "160": [(32, 32)] * 160,
    "500": [(32, 32), (32,)] * 250,
}
SETS = 65
OPTIMIZERS = 25
FIRST_STEPS = 30
# A fresh process gives one value only, and each pair one ratio.
PROCESSES = 2
MIB = 2**20

Batch = list[Array | None]
_T = TypeVar("_T")


class Report(TypedDict):
    """What a fresh process saw."""

    seconds: float
    # Resident bytes at the end, beyond those after the first of what was repeated.
    left: int


def rows(backend: str) -> Iterator[Row]:
    """Rows of time, and rows of memory from the same scenarios."""
    del backend
    yield Row("cliffs", "eager", "missing gradients", "24", _measure_missing, quick=True)
    for case in ("24", "160"):
        yield Row("cliffs", "eager", "busy", case, functools.partial(_measure_busy, case))
    for config, case, unit in (
        ("missing gradients left", "24", "MiB"),
        ("search", "24", "ms"),
        ("search left", "24", "MiB"),
        ("first 30 steps", "500", "ms"),
    ):
        yield Row(
            "cliffs", "eager", config, case, functools.partial(_measure_alone, config, case, unit)
        )
    for model in training.TASKS:
        yield Row(
            "cliffs",
            "fit",
            "first batch",
            model,
            functools.partial(_measure_alone, "first batch", model, "ms"),
        )


def _expected(function: Callable[..., _T]) -> Callable[..., _T]:
    """Make a function take Keras's warnings of missing gradients as a matter of course."""

    @functools.wraps(function)
    def quietly(*arguments: Any) -> _T:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            return function(*arguments)

    return quietly


@_expected
def _measure_missing(settings: Settings) -> Result:
    problem = Problem(PROBLEMS["24"])

    def build(name: str) -> Contender:
        built = _keras.build(name, problem)
        batches = map(functools.partial(_chosen, _tensors(problem.gradients)), _sets(problem))

        def step() -> None:
            built.optimizer.apply(next(batches), built.variables)

        # Reading the weights waits for them.
        return Contender(step, built.weights, built.weights)

    def check(_: str, contender: Contender) -> float:
        for _step in range(CHECKED_STEPS):
            contender.step()
        assert contender.weights is not None
        want = problem.after(_first_batches(problem, CHECKED_STEPS))
        return problem.judge(contender.weights(), want)

    builders = {name: functools.partial(build, name) for name in _keras.OPTIMIZERS}
    return compare(builders, check, settings, {"keras": targets.NO_CLIFF})


def _sets(problem: Problem) -> Iterator[Sequence[bool]]:
    """For each step which weights have a gradient: at least one, and hardly ever the same."""
    rng = random.Random(0)
    while True:
        there = [rng.random() < 0.5 for _ in problem.shapes]
        if any(there):
            yield there


def _chosen(gradients: Sequence[Array], there: Sequence[bool]) -> Batch:
    return [g if is_there else None for g, is_there in zip(gradients, there, strict=True)]


def _tensors(arrays: Sequence[Array]) -> list[Array]:
    return [keras.ops.convert_to_tensor(array) for array in arrays]


def _measure_busy(case: str, settings: Settings) -> Result:
    with busy.neighbours(busy.count()):
        return time_steps(
            keras.backend.backend(),
            "eager",
            Problem(PROBLEMS[case]),
            settings,
            {"keras": targets.NO_CLIFF},
            only=tuple(_keras.OPTIMIZERS),
        )


def _measure_alone(config: str, case: str, unit: str, settings: Settings) -> Result:
    """Let the contenders run in turn, each in processes of its own."""
    scenario = config.removesuffix(" left")
    reports: dict[str, list[Report]] = {name: [] for name in _keras.OPTIMIZERS}
    entries: dict[str, Entry] = {}
    for _ in range(PROCESSES * settings.processes):
        for name in reports:
            if name not in entries:
                try:
                    reports[name].append(
                        child.in_fresh_process(
                            "benchmarks.cliffs", keras.backend.backend(), scenario, case, name
                        )
                    )
                except Exception as error:  # the failure is a result
                    entries[name] = Entry(failure=describe(error))
    for name in reports.keys() - entries.keys():
        seen = reports[name]
        values = (
            [r["left"] / MIB for r in seen] if unit == "MiB" else [1e3 * r["seconds"] for r in seen]
        )
        entries[name] = Entry(Figure.of(values))
    comparisons = []
    if all(entry.figure for entry in entries.values()):
        pairs = list(zip(reports[OURS], reports["keras"], strict=True))
        if unit == "MiB":
            more = Figure.of([(a["left"] - b["left"]) / MIB for a, b in pairs])
            comparisons = [Comparison("keras", more, MORE, targets.MIB_MORE)]
        else:
            faster = Figure.of([b["seconds"] / a["seconds"] for a, b in pairs])
            target = targets.ALONE[config]
            comparisons = [Comparison("keras", faster, FASTER, target)]
    return Result(unit, {name: entries[name] for name in reports}, comparisons)


def report(scenario: str, case: str, name: str) -> Report:
    """Act out a scenario in this process.

    Raises: DisagreementError if the contender does not arrive at the right weights.
    """
    return _SCENARIOS[scenario](case, name)


@_expected
def _missing(case: str, name: str) -> Report:
    problem = Problem(PROBLEMS[case])
    built = _keras.build(name, problem)
    gradients, sets = _tensors(problem.gradients), _sets(problem)

    def step() -> None:
        built.optimizer.apply(_chosen(gradients, next(sets)), built.variables)

    seen = _repeated(step, SETS, built.weights)
    problem.judge(built.weights(), problem.after(_first_batches(problem, SETS)), SETS)
    return seen


def _first_batches(problem: Problem, steps: int) -> list[Batch]:
    sets = _sets(problem)
    return [_chosen(problem.gradients, next(sets)) for _ in range(steps)]


def _search(case: str, name: str) -> Report:
    problem = Problem(PROBLEMS[case])
    gradients = _tensors(problem.gradients)
    last: list[_keras.Built] = []

    def one() -> None:
        last[:] = [_keras.build(name, problem)]
        for _ in range(CHECKED_STEPS):
            last[0].optimizer.apply(gradients, last[0].variables)
        last[0].weights()

    seen = _repeated(one, OPTIMIZERS, lambda: None)
    problem.judge(last[0].weights(), problem.expected())
    return seen


def _first_steps(case: str, name: str) -> Report:
    problem = Problem(PROBLEMS[case])
    built, gradients = _keras.build(name, problem), _tensors(problem.gradients)
    seen = _repeated(
        lambda: built.optimizer.apply(gradients, built.variables), FIRST_STEPS, built.weights
    )
    want = problem.after([problem.gradients] * FIRST_STEPS)
    problem.judge(built.weights(), want, FIRST_STEPS)
    return seen


def _first_batch(case: str, name: str) -> Report:
    """That the steps of `fit` agree is checked where they are timed."""
    task = training.TASKS[case]._replace(steps=1)
    x, y = task.data()
    model = task.model(keras)
    model.compile(
        optimizer=_keras.OPTIMIZERS[name](learning_rate=LEARNING_RATE, rho=0.9, epsilon=EPSILON),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return _repeated(lambda: model.fit(x, y, task.batch, verbose=0), 1, lambda: None)


def _repeated(act: Callable[[], object], times: int, wait: Callable[[], object]) -> Report:
    """Do something again and again; the first time counts as time but not as memory."""
    start = time.perf_counter()
    act()
    wait()
    seconds = time.perf_counter() - start
    before = _resident_bytes()
    start = time.perf_counter()
    for _ in range(times - 1):
        act()
    wait()
    seconds += time.perf_counter() - start
    return Report(seconds=seconds, left=_resident_bytes() - before)


def _resident_bytes() -> int:
    """The bytes in use now: the peak since no time at all."""
    gc.collect()
    resident.forget_peak()
    return resident.peak()


_SCENARIOS: dict[str, Callable[[str, str], Report]] = {
    "missing gradients": _missing,
    "search": _search,
    "first 30 steps": _first_steps,
    "first batch": _first_batch,
}


if __name__ == "__main__":
    print(json.dumps(report(*sys.argv[1:])))
