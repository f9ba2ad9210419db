"""Test the statistics in NumPy: against the reference, and against numbers worked out by hand."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop._diagnostics._report import Statistics
from keras_rmsprop._math._statistics import EDGES
from keras_rmsprop.reference import Reference, effective_learning_rate
from tests.tools import numpy_statistics
from tests.tools.numpy_statistics import Settings, Step, Variable, statistics_of
from tests.tools.sampled import SampledOptimizer, SampledReference
from yardsticks.agreement import RANKS, Driver, make_problem, reference_of
from yardsticks.variants import Variant, rule_variants, two_groups


@keras.saving.register_keras_serializable(package="tests_of_statistics")
def mixed(gradient: Any, weight: Any) -> Any:
    """A transform that depends on both of its arguments."""
    return gradient * 0.5 + 0.1 * weight


OPTIONS: dict[str, dict[str, Any]] = {
    "decay": {"weight_decay": 0.3},
    "clipvalue": {"clipvalue": 0.7},
    "clipnorm": {"clipnorm": 1.5, "loss_scale_factor": 3.0},
    "global_clipnorm": {"global_clipnorm": 2.5, "momentum": 0.8},
    "accumulation": {"gradient_accumulation_steps": 3, "global_clipnorm": 1.5, "l2": 0.03},
    "transform": {"transform": mixed, "maximize": True},
}
VARIANTS = [
    *rule_variants(),
    *(Variant(name, {}, arguments) for name, arguments in OPTIONS.items()),
]


def together(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(array) for array in arrays])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
def test_the_update_is_what_the_reference_subtracts(variant: Variant) -> None:
    problem = make_problem(*((shape, "float64") for shape in RANKS), steps=9)
    groups = two_groups(variant)
    sampled = SampledReference(reference_of(variant, problem, groups), ["a", "b", "c"])
    reference, seen = sampled.reference, 0
    for gradients, rate in zip(problem.gradients, problem.rates, strict=True):
        before, done = reference.weights, reference.iterations
        sampled.apply(gradients, rate)
        if reference.iterations == done:
            continue
        moved, rates = [], []
        for i, path in enumerate(sampled.paths):
            if gradients[i] is None:
                continue
            own = sampled._own(i)
            lr = rate * groups.get(i, {}).get("learning_rate", 1.0)
            moved.append(before[i] * (1.0 - lr * (own["weight_decay"] or 0.0)))
            moved[-1] = moved[-1] - reference.weights[i]
            rates.append(
                effective_learning_rate(
                    reference.parameters[i].square_average,
                    learning_rate=lr,
                    epsilon=own["epsilon"],
                    epsilon_inside_sqrt=reference.epsilon_inside_sqrt,
                )
            )
            got = sampled.statistics[path]
            length, ulp = np.linalg.norm(moved[-1]), 1e-15 * np.linalg.norm(before[i])
            assert got.update_norm == pytest.approx(length, rel=1e-12, abs=ulp)
            assert got.largest_update == pytest.approx(np.abs(moved[-1]).max(), rel=1e-12, abs=ulp)
            assert got.weight_norm == pytest.approx(np.linalg.norm(before[i]), rel=1e-14)
            assert got.smallest_rate == pytest.approx(rates[-1].min(), rel=1e-12)
            assert (got.step, got.learning_rate) == (reference.iterations, lr)
            seen += 1
        total = sampled.statistics[None]
        ulp = 1e-15 * np.linalg.norm(together(before))
        length = np.linalg.norm(together(moved))
        assert total.update_norm == pytest.approx(length, rel=1e-12, abs=ulp)
        assert total.largest_rate == pytest.approx(together(rates).max(), rel=1e-12)
        with np.errstate(divide="ignore"):
            mean = np.exp(np.mean(np.log(together(rates))))
        assert total.mean_rate == pytest.approx(mean, rel=1e-12)
    assert seen > 6


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_optimizer_is_read_as_a_reference_is(options: dict[str, Any]) -> None:
    variant = Variant("", {}, {"centered": True, **options})
    problem = make_problem(*((shape, "float64") for shape in RANKS), steps=9)
    groups = two_groups(variant)
    reference = SampledReference(reference_of(variant, problem, groups), ["a", "b", "c"])
    driver = Driver(variant, problem, False, groups)
    optimizer = SampledOptimizer(driver.optimizer)
    for gradients, rate in zip(problem.gradients, problem.rates, strict=True):
        if all(gradient is not None for gradient in gradients):
            reference.apply(gradients, rate)
            driver.optimizer.learning_rate = rate
            optimizer.apply([ops.convert_to_tensor(g, "float64") for g in gradients])
    got, want = optimizer.report(), reference.report()
    assert want.total.sampled > 1
    for mine, theirs in zip(
        [*got.variables.values(), got.total], [*want.variables.values(), want.total], strict=True
    ):
        assert mine == pytest.approx(theirs, rel=1e-9, nan_ok=True)
    settings = [own._replace(state_dtype=None) for own in got.settings.values()]
    assert settings == list(want.settings.values())
    assert (got.clip, got.iterations) == (want.clip, want.iterations)


# Numbers worked out by hand: with rho 0.75, s = 0.75 s + 0.25 g**2.

VARIABLE = Variable(
    weight=np.array([3.0, 4.0, 0.0, 12.0]),
    gradient=np.array([0.0, 2.0, -4.0, 4.0]),
    square_average=np.array([4.0 / 3.0, 4.0, 16.0, 16.0]),
    settings=Settings(rho=0.75, epsilon=0.0),
)
OTHER = Variable(
    weight=np.array([0.0]),
    gradient=np.array([8.0]),
    square_average=np.array([64.0]),
    settings=Settings(rho=0.75, epsilon=0.0),
)


def changed(variable: Variable = VARIABLE, **changes: Any) -> Variable:
    own = {k: v for k, v in changes.items() if k in Settings.__dataclass_fields__}
    others = {k: v for k, v in changes.items() if k not in own}
    settings = dataclasses.replace(variable.settings, **own)
    return dataclasses.replace(variable, settings=settings, **others)


def of_step(variable: Variable, **step: Any) -> Statistics:
    return statistics_of(Step(**{"number": 1, "learning_rate": 0.5, **step}), {"a": variable})["a"]


def test_each_number_is_as_defined() -> None:
    # s = (1, 4, 16, 16), r = (1, 2, 4, 4), d = 0.5 (0, 1, -1, 1)
    assert of_step(VARIABLE) == Statistics(
        gradient_norm=6.0,
        clipped_gradient_norm=6.0,
        largest_gradient=4.0,
        zero_gradient_share=0.25,
        weight_norm=13.0,
        update_norm=pytest.approx(0.5 * math.sqrt(3.0)),
        largest_update=0.5,
        smallest_rate=0.125,
        mean_rate=pytest.approx(0.5 / 32.0**0.25),
        largest_rate=0.5,
        epsilon_share=0.0,
        frozen_share=0.0,
        stuck_share=0.0,
        learning_rate=0.5,
        step=1,
        largest_learning_rate=0.5,
        largest_weight_norm=13.0,
        sampled=1,
        clipped=0,
        nonfinite=0,
        skipped=0,
    )


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"epsilon": 4.0}, 0.25),  # as large as s is not larger
        ({"epsilon": 4.1}, 0.5),
        ({"epsilon": 2.1, "epsilon_inside_sqrt": False}, 0.5),
        ({"epsilon": 4.1, "epsilon_inside_sqrt": False}, 1.0),
    ],
)
def test_epsilon_decides_where_it_exceeds_the_average_or_its_root(
    changes: dict[str, Any], share: float
) -> None:
    assert of_step(changed(**changes)).epsilon_share == share


def test_all_variables_together_are_one_long_vector() -> None:
    both = {"a": VARIABLE, "b": OTHER}
    total = statistics_of(Step(number=3, learning_rate=0.5), both)[None]
    assert total.gradient_norm == 10.0
    assert total.zero_gradient_share == 0.2
    assert total.mean_rate == pytest.approx(0.5 / (32.0 * 8.0) ** 0.2)
    assert (total.learning_rate, total.step, total.sampled) == (0.5, 3, 1)


def test_there_is_no_rate_of_all_together_if_factors_differ() -> None:
    both = {"a": VARIABLE, "b": changed(OTHER, rate_factor=2.0)}
    found = statistics_of(Step(number=3, learning_rate=0.5), both)
    assert (found["a"].learning_rate, found["b"].learning_rate) == (0.5, 1.0)
    assert math.isnan(found[None].learning_rate)


@pytest.mark.parametrize(
    ("clip", "limit", "norms", "counts"),
    [
        ("value", 3.0, (math.sqrt(22.0), 3.0), (1, 1)),
        ("value", 4.0, (6.0, 4.0), (0, 1)),
        ("norm", 6.0, (6.0, 6.0), (0, 1)),
        ("norm", 3.0, (3.0, 3.0), (1, 1)),
        ("global_norm", 10.0, (6.0, 8.0), (0, 0)),
        ("global_norm", 5.0, (3.0, 4.0), (1, 1)),
    ],
)
def test_clipping_counts_where_it_changes_the_gradient(
    clip: str, limit: float, norms: tuple[float, float], counts: tuple[int, int]
) -> None:
    step = Step(number=1, learning_rate=0.5, clip=clip, limit=limit)
    found = statistics_of(step, {"a": VARIABLE, "b": OTHER})
    assert (found["a"].gradient_norm, found["b"].gradient_norm) == (6.0, 8.0)
    got = (found["a"].clipped_gradient_norm, found["b"].clipped_gradient_norm)
    assert got == pytest.approx(norms)
    assert (found["a"].clipped, found["b"].clipped) == counts
    assert found[None].clipped == max(counts)


def test_the_mean_of_the_calls_is_unscaled() -> None:
    waiting = np.array([0.0, 2.0, 0.0, 0.0])
    found = of_step(changed(accumulator=waiting), loss_scale=2.0, accumulation_steps=2)
    # (waiting + gradient / 2) / 2 = (0, 1.5, -1, 1)
    assert found.largest_gradient == 1.5
    assert found.gradient_norm == pytest.approx(math.sqrt(4.25))


def test_weights_whose_square_overflows_are_frozen() -> None:
    gradient = np.array([0.0, 2.0, 1e20, math.inf])
    found = of_step(changed(gradient=gradient))
    assert found.frozen_share == 0.5
    assert found.smallest_rate == 0.0
    assert found.nonfinite == 1
    in_float64 = of_step(changed(gradient=gradient, dtype="float64"))
    assert in_float64.frozen_share == 0.25


@pytest.mark.parametrize(
    ("dtype", "share"), [("bfloat16", 0.75), ("float16", 0.5), ("float32", 0.25), ("float64", 0.0)]
)
def test_updates_that_are_rounded_off_are_stuck(dtype: str, share: float) -> None:
    # Steps of 1e-3, 1e-4 and 1e-9 from the weight 1, and one of 1e-6 from 0, which every dtype has.
    weight = np.array([1.0, 1.0, 1.0, 0.0])
    gradient = np.array([1e-3, 1e-4, 1e-9, 1e-6])
    variable = Variable(
        weight, gradient, np.zeros(4), dtype=dtype, settings=Settings(rho=0.75, epsilon=1.0)
    )
    assert of_step(variable, learning_rate=1.0).stuck_share == share


def test_what_does_not_move_at_all_is_not_stuck() -> None:
    assert of_step(changed(gradient=np.zeros(4))).stuck_share == 0.0


def test_only_the_rows_of_a_batch_count() -> None:
    def as_table(values: Any) -> np.ndarray:
        return np.reshape(values, (2, 2))

    table = changed(
        weight=as_table(VARIABLE.weight),
        gradient=as_table(VARIABLE.gradient),
        square_average=as_table(VARIABLE.square_average),
        rows=np.array([True, False]),
    )
    found = of_step(table)
    assert (found.gradient_norm, found.weight_norm) == (2.0, 5.0)
    assert (found.zero_gradient_share, found.smallest_rate) == (0.5, 0.25)


def test_a_variable_without_gradient_keeps_its_numbers() -> None:
    first = statistics_of(Step(number=1, learning_rate=0.5), {"a": VARIABLE, "b": OTHER})
    without = {"a": VARIABLE, "b": dataclasses.replace(OTHER, gradient=None)}
    second = statistics_of(Step(number=2, learning_rate=0.25), without, first)
    assert second["b"] == first["b"]
    assert (second["a"].step, second["a"].sampled) == (2, 2)
    assert (second[None].gradient_norm, second[None].sampled) == (6.0, 2)
    assert (second["a"].learning_rate, second["a"].largest_learning_rate) == (0.25, 0.5)


def test_a_skipped_call_is_counted_and_nothing_else() -> None:
    first = statistics_of(Step(number=1, learning_rate=0.5), {"a": VARIABLE})
    after = numpy_statistics.after_skipped({"a": VARIABLE}, first)
    assert after["a"] == first["a"]._replace(skipped=1)
    assert after[None] == first[None]._replace(skipped=1)


def test_before_the_first_sample_nothing_is_known() -> None:
    report = SampledReference(Reference([[1.0]]), ["a"]).report()
    assert report.variables["a"] == pytest.approx(Statistics(), nan_ok=True)
    assert (report.total.sampled, report.total.step) == (0, 0)


def test_histograms_count_every_element() -> None:
    step = Step(number=1, learning_rate=0.5)
    (elements,) = numpy_statistics.elements_of(step, {"a": VARIABLE}).values()
    rates, ratios = numpy_statistics.histograms_of(elements, EDGES)
    assert rates.sum() == ratios.sum() == 4
    assert len(rates) == len(EDGES) + 1
    # 0.5 and 0.25, 0.125 twice: all between 0.1 and 0.316, but for 0.5.
    where = np.searchsorted(EDGES, 0.2)
    assert rates[where] == 3
    assert rates[where + 1] == 1
    # 0 / 3, 0.5 / 4, 0.5 / 0, 0.5 / 12
    assert (ratios[0], ratios[-1]) == (1, 1)
