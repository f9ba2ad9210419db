"""What does it cost that variables have settings of their own?"""

import functools
import re
from collections.abc import Iterator

import keras

import keras_rmsprop
from benchmarks import contenders
from benchmarks.contenders import built, optimizer_of
from benchmarks.measure import Contender, NotComparableError, Settings, compare
from benchmarks.problems import CASES, EPSILON, LEARNING_RATE, Problem
from benchmarks.registry import Row
from benchmarks.results import OURS, Line
from yardsticks import peers

GROUPS = 4
ONE = "one group"
PARTS = "keras MultiOptimizer"


def rows(backend: str) -> Iterator[Row]:
    """One step of 160 tensors in four groups."""
    measure = functools.partial(_measure, backend)
    yield Row("groups", "eager", f"{GROUPS} groups", "conv160", measure, quick=False)


def _measure(backend: str, settings: Settings) -> list[Line]:
    problem = Problem(CASES["conv160"])
    wait = contenders.for_backend(backend).wait

    def contender(peer: peers.OnKeras) -> Contender:
        batch = peer.tensors(problem.gradients)
        return Contender(lambda: peer.step(batch), lambda: wait(peer.variables), peer.weights)

    return compare(
        {
            OURS: lambda: contender(_in_groups(problem)),
            ONE: lambda: contender(built(OURS, problem)),
            PARTS: lambda: contender(_in_parts(problem)),
        },
        lambda _, each: problem.check(each),
        settings,
        {ONE: 0.95},
    )


def _in_groups(problem: Problem) -> peers.OnKeras:
    """Every fourth tensor in a group; the numbers are equal, so that the reference holds."""
    peer = peers.OnKeras(None, problem.start)
    groups = {
        "|".join(re.escape(v.path) for v in peer.variables[k::GROUPS]): {
            "learning_rate": 1.0,
            "rho": 0.9,
            "epsilon": EPSILON,
        }
        for k in range(GROUPS)
    }
    peer.optimizer = keras_rmsprop.RMSprop(LEARNING_RATE, groups=groups)
    peer.optimizer.build(peer.variables)
    return peer


def _in_parts(problem: Problem) -> peers.OnKeras:
    """The same with an optimizer of Keras's for each part."""
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        raise NotComparableError("comes with Keras 3.15")
    peer = peers.OnKeras(None, problem.start)
    parts = [optimizer_of("keras") for _ in range(GROUPS)]
    places = {id(variable): i for i, variable in enumerate(peer.variables)}
    peer.optimizer = keras.optimizers.MultiOptimizer(lambda v: parts[places[id(v)] % GROUPS])
    peer.optimizer.build(peer.variables)
    return peer
