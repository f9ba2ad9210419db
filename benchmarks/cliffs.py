"""Performance cliffs: programs that are not a quiet loop of equal steps.

Compared only with `keras.optimizers.RMSprop`, which has no cliffs: a new set of missing gradients
at every step, busy neighbours, optimizers created one after another, many tensors in a short run,
and the first batch of `fit`. What happens once per process is measured in fresh processes.
"""

import functools
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence

import keras

from benchmarks import busy, training
from benchmarks.contenders import OPTIMIZERS, built
from benchmarks.fresh import Quantity, Report, in_turn
from benchmarks.measure import Array, Contender, Settings, compare
from benchmarks.problems import CHECKED_STEPS, Problem
from benchmarks.registry import Row
from benchmarks.results import FASTER, MORE, Line
from benchmarks.steps import time_steps
from yardsticks import peers, resident

PROBLEMS: dict[str, list[tuple[int, ...]]] = {
    "24": [(32, 32)] * 24,
    "160": [(32, 32)] * 160,
    "500": [(32, 32), (32,)] * 250,
}
SETS = 65
SEARCHED = 25
FIRST_STEPS = 30
# Fresh processes per contender, as a multiple of the settings' number: each gives only one value.
PROCESSES = 2
MIB = 2**20

TIME = Quantity(
    "ms", lambda seen: 1e3 * seen["seconds"],
    lambda ours, peer: peer["seconds"] / ours["seconds"], FASTER,
)  # fmt: skip
# Growth of the resident bytes after the first repetition.
LEFT = Quantity(
    "MiB", lambda seen: seen["left"] / MIB,
    lambda ours, peer: (ours["left"] - peer["left"]) / MIB, MORE,
)  # fmt: skip

NO_CLIFF = {"keras": 1.0}
MIB_MORE = {"keras": 60.0}


def rows(backend: str) -> Iterator[Row]:
    """Yield rows of time, and rows of memory from the same scenarios."""
    yield Row("cliffs", "eager", "missing gradients", "24", _measure_missing, quick=True)
    for case in ("24", "160"):
        measure = functools.partial(_measure_busy, backend, case)
        yield Row("cliffs", "eager", "busy", case, measure)
    for config, case, scenario, quantity, targets in (
        ("missing gradients left", "24", missing, LEFT, MIB_MORE),
        ("search", "24", search, TIME, NO_CLIFF),
        ("search left", "24", search, LEFT, MIB_MORE),
        ("first 30 steps", "500", first_steps, TIME, {"keras": 0.8}),
    ):
        measure = functools.partial(_measure_alone, scenario, case, quantity, targets)
        yield Row("cliffs", "eager", config, case, measure)
    for model in training.TASKS:
        # It may take 1.2 times as long.
        measure = functools.partial(_measure_alone, first_batch, model, TIME, {"keras": 1 / 1.2})
        yield Row("cliffs", "fit", "first batch", model, measure)


def _measure_busy(backend: str, case: str, settings: Settings) -> list[Line]:
    problem = Problem(PROBLEMS[case])
    with busy.neighbours(busy.count()):
        return time_steps(backend, "eager", problem, settings, NO_CLIFF, only=tuple(OPTIMIZERS))


def _measure_alone(
    scenario: Callable[[str, str], Report], case: str, quantity: Quantity,
    targets: dict[str, float], settings: Settings,
) -> list[Line]:  # fmt: skip
    processes = PROCESSES * settings.processes
    return in_turn(scenario, (case,), tuple(OPTIMIZERS), processes, quantity, targets)


# A new set of missing gradients at every step.


def _measure_missing(settings: Settings) -> list[Line]:
    problem = Problem(PROBLEMS["24"])

    def contender(name: str) -> Contender:
        peer = built(name, problem)
        # Reading the weights waits for them.
        return Contender(_step_with_missing(peer, problem), peer.weights, peer.weights)

    def check(_: str, contender: Contender) -> float:
        for _step in range(CHECKED_STEPS):
            contender.step()
        assert contender.weights is not None
        return _judge_missing(contender.weights(), problem, CHECKED_STEPS)

    builders = {name: functools.partial(contender, name) for name in OPTIMIZERS}
    return compare(builders, check, settings, NO_CLIFF)


def _sets(problem: Problem, gradients: Sequence[Array]) -> Iterator[list[Array | None]]:
    """Yield the gradients of each step, a random half of them, but at least one."""
    rng = random.Random(0)
    while True:
        there = [rng.random() < 0.5 for _ in problem.shapes]
        if any(there):
            yield [g if is_there else None for g, is_there in zip(gradients, there, strict=True)]


def _step_with_missing(peer: peers.Peer, problem: Problem) -> Callable[[], None]:
    batches = _sets(problem, peer.tensors(problem.gradients))
    return lambda: peer.step(next(batches))


def _judge_missing(weights: Sequence[Array], problem: Problem, steps: int) -> float:
    batches = _sets(problem, problem.gradients)
    return problem.judge(weights, problem.after(next(batches) for _ in range(steps)), steps)


# Scenarios for fresh processes. They raise DisagreementError if the weights are wrong.


def missing(case: str, name: str) -> Report:
    """Make many steps, each with a new set of gradients."""
    problem = Problem(PROBLEMS[case])
    peer = built(name, problem)
    seen = _repeated(_step_with_missing(peer, problem), SETS, peer.weights)
    _judge_missing(peer.weights(), problem, SETS)
    return seen


def search(case: str, name: str) -> Report:
    """Create optimizers one after another, and make a few steps with each."""
    problem = Problem(PROBLEMS[case])
    gradients = [keras.ops.convert_to_tensor(g) for g in problem.gradients]
    last: peers.OnKeras

    def one() -> None:
        nonlocal last
        last = built(name, problem)
        for _ in range(CHECKED_STEPS):
            last.step(gradients)
        last.weights()

    seen = _repeated(one, SEARCHED, lambda: None)
    problem.judge(last.weights(), problem.expected())
    return seen


def first_steps(case: str, name: str) -> Report:
    """Make the steps of a short run."""
    problem = Problem(PROBLEMS[case])
    peer = built(name, problem)
    gradients = peer.tensors(problem.gradients)
    seen = _repeated(lambda: peer.step(gradients), FIRST_STEPS, peer.weights)
    want = problem.after([problem.gradients] * FIRST_STEPS)
    problem.judge(peer.weights(), want, FIRST_STEPS)
    return seen


def first_batch(case: str, name: str) -> Report:
    """Call `fit` with one batch. The steps of `fit` are checked in `training`."""
    task = training.TASKS[case]._replace(steps=1)
    model = training.compiled(task.model(keras), keras, OPTIMIZERS[name])
    x, y = task.data()
    return _repeated(lambda: model.fit(x, y, task.batch, verbose=0), 1, lambda: None)


def _repeated(act: Callable[[], object], times: int, wait: Callable[[], object]) -> Report:
    """Repeat an action; the first time counts towards the time but not the memory."""
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
    return {"seconds": seconds, "left": _resident_bytes() - before}


def _resident_bytes() -> int:
    gc.collect()
    return resident.now()
