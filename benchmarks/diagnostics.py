"""What do the statistics of steps cost: where a step is sampled, where it is not, on average?"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

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


class _Case(NamedTuple):
    """How often a step is sampled."""

    every: int
    # How many times as fast as a step without diagnostics it is to be.
    target: float
    # The steps that are timed together, at most five in a quick run.
    steps: int = 1


_DEFAULT = Diagnostics().every

_CASES = {
    # In less than four steps.
    "sampled": _Case(1, 0.25),
    # Only the first step is sampled, before the clock runs.
    "not sampled": _Case(10**9, 0.98),
    # Each time with one sample.
    "by default": _Case(_DEFAULT, 0.98, _DEFAULT),
}


def rows(backend: str) -> Iterator[Row]:
    """Steps that are sampled, that are not, and as many as one of which is sampled by default."""
    for case in ("conv160", "matrix"):
        for name, how in _CASES.items():
            measure = functools.partial(_measure, backend, case, how)
            yield Row("diagnostics", "eager", name, case, measure)


def _measure(backend: str, case: str, how: _Case, settings: Settings) -> list[Line]:
    problem = Problem(CASES[case])
    wait = contenders.for_backend(backend).wait
    steps = min(how.steps, 5) if settings.quick else how.steps
    if steps > 1:
        # A block of so many steps takes up to ten seconds, and averages over slowdowns itself. What
        # differs is the placement in memory, so rebuild rather than repeat.
        settings = dataclasses.replace(
            settings, rounds=1, builds=5 if settings.builds else 0, close_seconds=0.0
        )
    deviations: dict[str, float] = {}

    def contender(name: str, peer: peers.OnKeras) -> Contender:
        batch = peer.tensors(problem.gradients)
        # Step by step, and not in as many steps as are timed together.
        single = Contender(lambda: peer.step(batch), lambda: wait(peer.variables), peer.weights)
        deviations[name] = problem.check(single)

        def step() -> None:
            for _ in range(steps):
                peer.step(batch)

        return single._replace(step=step, steps_per_call=steps)

    return compare(
        {
            OURS: lambda: contender(OURS, _watched(problem, how.every)),
            WITHOUT: lambda: contender(WITHOUT, built(OURS, problem)),
        },
        lambda name, _: deviations[name],
        settings,
        {WITHOUT: how.target},
    )


def _watched(problem: Problem, every: int) -> peers.OnKeras:
    peer = peers.OnKeras(None, problem.start)
    peer.optimizer = keras_rmsprop.RMSprop(
        LEARNING_RATE, epsilon=EPSILON, diagnostics=Diagnostics(every=every)
    )
    peer.optimizer.build(peer.variables)
    return peer
