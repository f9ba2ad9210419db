"""What do the statistics of steps cost, where a step is sampled and where it is not?"""

import functools
from collections.abc import Iterator

import keras_rmsprop
from benchmarks import contenders
from benchmarks.contenders import built
from benchmarks.measure import Contender, Settings, compare
from benchmarks.problems import CASES, EPSILON, LEARNING_RATE, Problem
from benchmarks.registry import Row
from benchmarks.results import OURS, Line
from keras_rmsprop import Diagnostics
from yardsticks import peers

WITHOUT = "without diagnostics"

# A sampled step is to take less than four steps; the others as long as without.
SAMPLED, OTHERS = 0.25, 0.98

# So rarely that only the first step is sampled, before the clock runs.
RARELY = 10**9


def rows(backend: str) -> Iterator[Row]:
    """One step that is sampled, and one that is not."""
    for case in ("conv160", "matrix"):
        for name, every, target in (("sampled", 1, SAMPLED), ("not sampled", RARELY, OTHERS)):
            measure = functools.partial(_measure, backend, case, every, target)
            yield Row("diagnostics", "eager", name, case, measure)


def _measure(backend: str, case: str, every: int, target: float, settings: Settings) -> list[Line]:
    problem = Problem(CASES[case])
    wait = contenders.for_backend(backend).builders("eager", problem)[OURS]().wait

    def contender(peer: peers.OnKeras) -> Contender:
        batch = peer.tensors(problem.gradients)
        return Contender(lambda: peer.step(batch), wait, peer.weights)

    return compare(
        {
            OURS: lambda: contender(_watched(problem, every)),
            WITHOUT: lambda: contender(built(OURS, problem)),
        },
        lambda _, each: problem.check(each),
        settings,
        {WITHOUT: target},
    )


def _watched(problem: Problem, every: int) -> peers.OnKeras:
    peer = peers.OnKeras(None, problem.start)
    peer.optimizer = keras_rmsprop.RMSprop(
        LEARNING_RATE, epsilon=EPSILON, diagnostics=Diagnostics(every=every)
    )
    peer.optimizer.build(peer.variables)
    return peer
