"""Test how exactly tf_keras's schedules are carried over, on every backend.

tf_keras computes them in float32. They become Keras's, which compute in float32 on TensorFlow, and
on JAX and torch in the dtype of `keras.config.floatx()`.
"""

import itertools
from typing import Any

import numpy as np
import pytest

from keras_rmsprop import conventions, interop
from tests.conftest import BACKEND
from tests.tools import halfway
from tests.tools.models import Array
from yardsticks import peers

pytest.importorskip("tf_keras")

tf_keras = peers._tf_keras()

SHAPES = ((), (2, 4), (3,))
# Numbers that float32 holds, to which the legacy class rounds them.
ARGUMENTS = {"rho": 0.875, "epsilon": 2.0**-10}
CLASSES = {"new": peers.TFKeras, "legacy": peers.TFKerasLegacy}
SCHEDULES: dict[str, tuple[float, ...]] = {
    "ExponentialDecay": (0.1, 3, 0.7),
    "CosineDecay": (0.1, 30),
    "PolynomialDecay": (0.1, 30, 0.001),
    "InverseTimeDecay": (0.1, 10, 0.3),
}
of_each = pytest.mark.parametrize("name", SCHEDULES)
by_each = pytest.mark.parametrize("kind", CLASSES)


def trainings(kind: str, name: str, *, given: bool) -> tuple[Any, Any, halfway.Problem]:
    """Return a training that changes to `RMSprop` halfway, and one that does not."""
    schedule = getattr(tf_keras.optimizers.schedules, name)(*SCHEDULES[name])
    problem = halfway.make_problem(*SHAPES, moving=False)._replace(rates=None)

    def make() -> Any:
        return CLASSES[kind](problem.starts, learning_rate=schedule, **ARGUMENTS)

    def bring(peer: Any, variables: list[Any]) -> Any:
        own = {"learning_rate": conventions.CountSchedule(schedule)} if given else {}
        return interop.like(peer.optimizer, variables, "order", **own)

    want = halfway.steps(make(), problem, 0, halfway.STEPS)
    return halfway.there_then_here(make(), bring, problem), want, problem


@of_each
@by_each
def test_a_schedule_that_is_given_as_a_function_takes_the_same_steps(float64, kind, name):
    halfway.assert_same(*trainings(kind, name, given=True))


@of_each
@by_each
def test_a_schedule_takes_steps_that_differ_by_roundings_to_float32(float64, kind, name):
    got, want, problem = trainings(kind, name, given=False)
    if BACKEND == "tensorflow":
        # Keras rounds there as tf_keras does.
        halfway.assert_same(got, want, problem)
        return
    errors = [
        np.max(np.abs(mine - theirs) / distance)
        for mine, theirs, distance in zip(
            got[-1].weights, want[-1].weights, distances(want), strict=True
        )
    ]
    assert max(errors) < 1e-6
    assert max(errors) > 1e-10, "README says that they differ"


def distances(training: Any) -> list[Array]:
    """Return how far the elements of the weights have travelled."""
    steps = [
        [np.abs(b - a) for a, b in zip(one.weights, other.weights, strict=True)]
        for one, other in itertools.pairwise(training)
    ]
    return [np.sum(own, axis=0) for own in zip(*steps, strict=True)]
