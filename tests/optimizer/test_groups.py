"""Do groups of variables take the steps of their own settings, however a step is run?"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from yardsticks.agreement import (
    RANKS,
    TOLERANCE,
    Problem,
    a_problem,
    differences,
    reference_of,
    rmsprop,
)
from yardsticks.variants import Variant, option_variants, rule_variants, two_groups

IDS = {variant.id: variant for variant in rule_variants()}


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Weights of three shapes: one in each of two groups, and one in none."""
    return a_problem(*((shape, "float64") for shape in RANKS), steps=16)


@pytest.mark.parametrize("mode", [False, True], ids="jit_compile={}".format)
@pytest.mark.parametrize("variant", IDS.values(), ids=IDS)
def test_two_groups_follow_the_reference(
    variant: Variant, mode: bool, problem: Problem, float64: None
) -> None:
    worst = differences(variant, problem, jit_compile=mode, groups=two_groups(variant))
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


@pytest.mark.parametrize("mode", [False, "auto"], ids="jit_compile={}".format)
@pytest.mark.parametrize("variant", option_variants(), ids=lambda variant: variant.id)
def test_groups_share_one_counter_clip_average_and_accumulation(
    variant: Variant, mode: Any, problem: Problem, float64: None
) -> None:
    worst = differences(variant, problem, jit_compile=mode, groups=two_groups(variant))
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


@pytest.mark.parametrize("variant", option_variants()[::3], ids=lambda variant: variant.id)
def test_groups_follow_the_reference_in_float32(variant: Variant) -> None:
    problem = a_problem(*((shape, "float32") for shape in RANKS))
    worst = differences(variant, problem, jit_compile="auto", groups=two_groups(variant))
    assert {key: d for key, d in worst.items() if not d.share <= 1.0} == {}


class Given(keras.layers.Layer):
    """A layer whose weights have the inputs as their gradients, if the output is the loss."""

    def __init__(self, starts: Sequence[np.ndarray]) -> None:
        super().__init__(name="given", dtype="float64")
        self.starts = starts

    def build(self, _: Any) -> None:
        """Create the weights."""
        self.held = [
            self.add_weight(
                shape=start.shape,
                dtype="float64",
                name=f"weight_{i}",
                initializer=lambda _, dtype, start=start: ops.convert_to_tensor(start, dtype),
            )
            for i, start in enumerate(self.starts)
        ]

    def call(self, inputs: Sequence[Any]) -> Any:
        """Return the sum of all products of a weight and its input."""
        products = [ops.sum(w * x[0]) for w, x in zip(self.held, inputs, strict=True)]
        return ops.reshape(sum(products[1:], products[0]), (1, 1))


def fit(optimizer: RMSprop, problem: Problem, **options: Any) -> keras.Model:
    """Train weights with the gradients of a problem as data, one batch for each step."""
    inputs = [keras.Input(start.shape, dtype="float64") for start in problem.starts]
    model = keras.Model(inputs, Given(problem.starts)(inputs), name="model")
    data = [np.stack(column) for column in zip(*problem.gradients, strict=True)]
    model.compile(optimizer, loss=lambda _, y: ops.mean(y), **options)
    count = len(problem.gradients)
    model.fit(data, np.zeros((count, 1)), batch_size=1, shuffle=False, verbose=0)
    return model


@pytest.fixture(scope="module")
def without_gaps() -> Problem:
    """A problem in which every weight has a gradient at every step."""
    problem = a_problem(*((shape, "float64") for shape in RANKS), steps=8)
    filled = [
        [
            np.ones(start.shape) if g is None else g
            for g, start in zip(gs, problem.starts, strict=True)
        ]
        for gs in problem.gradients
    ]
    return problem._replace(gradients=filled, rates=[0.02] * 8)


@pytest.mark.parametrize("variant", IDS.values(), ids=IDS)
def test_two_groups_follow_the_reference_in_fit(
    variant: Variant, without_gaps: Problem, float64: None
) -> None:
    groups = two_groups(variant)
    own = {f".*/weight_{i}": settings for i, settings in groups.items()}
    optimizer = rmsprop(learning_rate=0.02, groups=own, **variant.arguments)
    fit(optimizer, without_gaps, **({} if BACKEND != "torch" else {"jit_compile": False}))
    reference = reference_of(variant, without_gaps, groups)
    course = [reference.weights]
    for gradients in without_gaps.gradients:
        reference.apply(gradients, 0.02)
        course.append(reference.weights)
    assert int(ops.convert_to_numpy(optimizer.iterations)) == len(course) - 1
    for i, parameter in enumerate(optimizer._roster.parameters):
        weights = np.array([step[i] for step in course])
        travelled = np.sum(np.abs(np.diff(weights, axis=0)), axis=0)
        rounding = len(course) * np.max(np.spacing(np.abs(weights)), axis=0)
        off = np.abs(ops.convert_to_numpy(parameter.weight) - weights[-1])
        assert np.all(off <= TOLERANCE["float64"] * travelled + rounding)


def test_a_reference_with_groups_is_several_references(rng: np.random.Generator) -> None:
    starts = [rng.normal(size=3), rng.normal(size=(2, 2))]
    own = {"rho": 0.5, "momentum": 0.3, "epsilon": 1e-3, "l2": 0.1, "maximize": True}
    both = Reference(starts, groups=[None, {"learning_rate": 0.5, "weight_decay": 0.2, **own}])
    first, second = Reference(starts[:1]), Reference(starts[1:], weight_decay=0.2, **own)
    for _ in range(5):
        gradients = [rng.normal(size=start.shape) for start in starts]
        both.apply(gradients, 0.1)
        first.apply(gradients[:1], 0.1)
        second.apply(gradients[1:], 0.05)
    np.testing.assert_array_equal(both.weights[0], first.weights[0])
    np.testing.assert_array_equal(both.weights[1], second.weights[0])
