"""What do the statistics of steps cost: where a step is sampled, where it is not, on average?

By default one step in `EVERY` is sampled, and that is to take at most `SHARE` of the time. Steps of
two optimizers differ by more, with the placement of their arrays in memory, so it does not show
beside steps without diagnostics. If every tenth step is sampled, it does: a sample then may take as
long as `SHARE * EVERY` steps.
"""

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import keras

import keras_rmsprop
from benchmarks import contenders, training
from benchmarks.contenders import built
from benchmarks.measure import Contender, Settings, compare
from benchmarks.problems import CASES, EPSILON, LEARNING_RATE, Problem
from benchmarks.registry import Row
from benchmarks.results import OURS, Line
from keras_rmsprop import Diagnostics
from yardsticks import peers

WITHOUT = "without diagnostics"


class _Case(NamedTuple):
    """How often a step is sampled."""

    every: int
    # How many times as fast as a step without diagnostics it is to be.
    target: float
    # The steps that are timed together.
    steps: int = 1


EVERY = Diagnostics().every
# Of the time of steps without diagnostics.
SHARE = 0.02

# Only the first step is sampled, before the clock runs.
_NEVER_AGAIN = Diagnostics(every=10**9)

_CASES = {
    # In less than four steps.
    "sampled": _Case(1, 0.25),
    "not sampled": _Case(_NEVER_AGAIN.every, 1.0 - SHARE),
    # With what a sample leaves in the caches; each time with one.
    "one in ten": _Case(10, 10.0 / (10.0 + SHARE * EVERY), 10),
}


def rows(backend: str) -> Iterator[Row]:
    """Steps that are sampled, that are not, and ten of which one is; steps of `fit`."""
    for case in ("conv160", "matrix"):
        for name, how in _CASES.items():
            measure = functools.partial(_measure, backend, case, how)
            yield Row("diagnostics", "eager", name, case, measure)
    for case in training.TASKS:
        # A step of `fit` asks itself whether it is sampled.
        yield Row("diagnostics", "fit", "not sampled", case, functools.partial(_measure_fit, case))


def _measure(backend: str, case: str, how: _Case, settings: Settings) -> list[Line]:
    problem = Problem(CASES[case])
    wait = contenders.for_backend(backend).wait
    deviations: dict[str, float] = {}

    def contender(name: str, peer: peers.OnKeras) -> Contender:
        batch = peer.tensors(problem.gradients)
        # Step by step, and not in as many steps as are timed together.
        single = Contender(lambda: peer.step(batch), lambda: wait(peer.variables), peer.weights)
        deviations[name] = problem.check(single)

        def step() -> None:
            for _ in range(how.steps):
                peer.step(batch)

        return single._replace(step=step, steps_per_call=how.steps)

    return compare(
        {
            OURS: lambda: contender(OURS, _watched(problem, how.every)),
            WITHOUT: lambda: contender(WITHOUT, built(OURS, problem)),
        },
        lambda name, _: deviations[name],
        settings,
        {WITHOUT: how.target},
    )


def _measure_fit(case: str, settings: Settings) -> list[Line]:
    watched = functools.partial(keras_rmsprop.RMSprop, diagnostics=_NEVER_AGAIN)
    optimizers: dict[str, tuple[ModuleType, Callable[..., Any]]] = {
        OURS: (keras, watched),
        WITHOUT: (keras, keras_rmsprop.RMSprop),
    }
    return training.compared(case, optimizers, settings, {WITHOUT: 1.0 - SHARE})


def _watched(problem: Problem, every: int) -> peers.OnKeras:
    peer = peers.OnKeras(None, problem.start)
    peer.optimizer = keras_rmsprop.RMSprop(
        LEARNING_RATE, epsilon=EPSILON, diagnostics=Diagnostics(every=every)
    )
    peer.optimizer.build(peer.variables)
    return peer
