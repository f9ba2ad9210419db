"""Test that planted faults are named, and that trainings that go well raise no warning."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop._diagnostics import _ailments, _symptoms
from keras_rmsprop._diagnostics._ailments import AILMENTS, Finding
from keras_rmsprop._diagnostics._report import Report, Statistics, VariableSettings
from keras_rmsprop._diagnostics._symptoms import Sampled
from keras_rmsprop.reference import Reference
from tests.conftest import BACKEND
from tests.tools import planted_runs
from tests.tools.healthy_runs import HEALTHY, Run
from tests.tools.planted_runs import PLANTED, Planted
from tests.tools.sampled import SampledReference


@pytest.fixture(autouse=True)
def _seed() -> None:
    keras.utils.set_random_seed(0)


def warnings_of(report: Report) -> list[Finding]:
    return [each for each in _ailments.find(report) if each.severity == "warning"]


# Whole trainings.


# What is said depends on the numbers alone, which are those of NumPy on every backend.
on_quick_backends = pytest.mark.skipif(
    BACKEND == "jax", reason="the same on every backend, and compiled for seconds each"
)


@on_quick_backends
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
@pytest.mark.filterwarnings("ignore:Gradients do not exist", "ignore:.*makes the first variance")
def test_a_planted_fault_is_named(planted: Planted) -> None:
    *_, report = planted.run()
    findings = _ailments.find(report)
    named = [f for f in findings if (f.ailment, f.severity) == (planted.ailment, planted.severity)]
    assert len(named) == 1, findings
    (finding,) = named
    if planted.where:
        assert finding.variables
        assert [p for p in finding.variables if not re.fullmatch(planted.where, p)] == []
    else:
        assert finding.variables == ()
    # Nothing else is warned of, and what is worst comes first.
    expected = {*planted.besides, *([planted.ailment] if planted.severity == "warning" else [])}
    assert {each.ailment for each in warnings_of(report)} == expected
    if planted.severity == "warning":
        assert findings[0].ailment in expected


def test_every_ailment_is_planted() -> None:
    assert {planted.ailment for planted in PLANTED.values()} == set(AILMENTS)


@on_quick_backends
@pytest.mark.parametrize("run", HEALTHY.values(), ids=HEALTHY)
def test_a_training_that_goes_well_raises_no_warning(run: Run) -> None:
    longest, sampled = 0.0, 0
    for report in run():
        assert warnings_of(report) == []
        longest, sampled = max(longest, report.total.update_norm), report.total.sampled
    assert sampled >= 10
    assert longest > 0.0


def test_a_fault_is_not_seen_before_it_happens() -> None:
    reports = list(PLANTED["a gradient whose square overflows"].run())
    assert [bool(warnings_of(report)) for report in reports] == [False] * 10 + [True] * 20


def test_dead_units_are_named_with_what_they_keep_from_learning() -> None:
    *_, report = planted_runs.dead_units()
    (finding,) = warnings_of(report)
    assert set(finding.variables) == {
        *(
            f"dense/{layer}/{kind}"
            for layer in ("hidden_1", "hidden_2")
            for kind in ("kernel", "bias")
        ),
        "dense/last/kernel",
    }
    assert finding.variables[0] == "dense/hidden_2/kernel"
    assert finding.evidence == (
        "5 variables, the worst dense/hidden_2/kernel: 100 % of the gradients are 0 "
        "(1,024 elements; threshold 100 %), in 30 of 30 sampled steps (a warning from 2 on)"
    )


# Thresholds, from both sides.

SETTINGS = VariableSettings(
    dtype="float32",
    size=10_000,
    rho=0.9,
    momentum=0.0,
    weight_decay=0.0,
    l2=0.0,
    epsilon=1e-7,
    epsilon_inside_sqrt=True,
    centered=False,
    bias_correction=False,
    lr_in_momentum=True,
    initial_square_average=0.0,
    state_dtype=None,
)
# A step of 0.001 for each weight, the weights being about 0.1.
USUAL = Statistics(
    gradient_norm=1.0,
    clipped_gradient_norm=1.0,
    largest_gradient=0.1,
    zero_gradient_share=0.3,
    weight_norm=10.0,
    update_norm=0.1,
    largest_update=0.003,
    smallest_rate=0.01,
    mean_rate=0.1,
    largest_rate=1.0,
    epsilon_share=0.1,
    frozen_share=0.0,
    stuck_share=0.0,
    learning_rate=0.001,
    step=1000,
    largest_learning_rate=0.001,
    largest_weight_norm=10.0,
    sampled=100,
)

# Of which all gradients were 0 in the last two samples.
DEAD: dict[str, Any] = {"zero_gradient_share": 1.0, "all_zero": 2}
# Of which less than a hundredth is left besides.
DEAD_AND_GONE = DEAD | {"weight_norm": 0.09, "update_norm": 0.0, "clipped_gradient_norm": 0.0}


def report_of(
    own: Statistics = USUAL,
    settings: VariableSettings = SETTINGS,
    path: str = "layer/kernel",
    others: int = 0,
    total: Statistics | None = None,
    **changes: Any,
) -> Report:
    """A report of one variable, and of others that are as usual."""
    variables = {path: own, **{f"other_{i}/kernel": USUAL for i in range(others)}}
    return Report(
        **{
            "name": "rmsprop",
            "iterations": own.step,
            "every": 10,
            "skipped_steps": None,
            "clip": None,
            "variables": variables,
            "total": own if total is None else total,
            "settings": dict.fromkeys(variables, SETTINGS) | {path: settings},
            "histograms": {},
            **changes,
        }
    )


def names(report: Report) -> dict[str, str]:
    return {each.ailment: each.severity for each in _ailments.find(report)}


def test_what_is_usual_has_no_ailment() -> None:
    assert names(report_of(others=3)) == {}


CENTERED = SETTINGS._replace(centered=True)
# The norm of steps of 1e-4 learning rates is 1e-5.
BRAKED = {"epsilon_share": 0.9, "update_norm": 0.99e-5, "weight_norm": 1.0}

# For each ailment what shows it just so, and what just does not; (changes of the statistics,
# changes of the settings, others of `report_of`).
EDGES: list[tuple[str, str | None, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]] = [
    ("frozen weights", "warning", {"frozen_share": 1e-4}, {}, {}),
    ("non-finite weights", "warning", {"weight_norm": math.nan}, {}, {}),
    ("non-finite weights", "warning", {"update_norm": math.nan}, {}, {}),
    # A subclass makes the update, which is not seen.
    (
        "non-finite weights",
        None,
        {"update_norm": math.nan, "epsilon_share": math.nan, "frozen_share": math.nan},
        {},
        {},
    ),
    ("non-finite gradients", "warning", {"nonfinite": 1}, {}, {}),
    ("non-finite gradients", None, {"nonfinite": 1}, {}, {"skipped_steps": 1}),
    ("exploding gradient", "warning", {"largest_gradient": 1.9e16}, {}, {}),
    ("exploding gradient", None, {"largest_gradient": 1.8e16}, {}, {}),
    ("exploding gradient", None, {"largest_gradient": 1e100}, {"dtype": "float64"}, {}),
    ("exploding gradient", "warning", {"largest_gradient": 1e152}, {"dtype": "float64"}, {}),
    ("batches skipped", None, {}, {}, {"skipped_steps": 0}),
    ("batches skipped", "note", {}, {}, {"skipped_steps": 10}),
    ("batches skipped", "warning", {}, {}, {"skipped_steps": 11}),
    ("batches skipped", "note", {}, {}, {"skipped_steps": 2, "iterations": 8}),
    ("exploding centered steps", None, {"largest_update": 0.0316}, {"centered": True}, {}),
    ("exploding centered steps", "warning", {"largest_update": 0.0317}, {"centered": True}, {}),
    ("exploding centered steps", None, {"largest_update": 0.0317}, {}, {}),
    (
        "exploding centered steps",
        None,
        {"largest_update": 0.31},
        {"centered": True, "momentum": 0.9},
        {},
    ),
    # The buffer still has the steps of the rate before.
    (
        "exploding centered steps",
        None,
        {"largest_update": 0.03, "learning_rate": 1e-5, "update_norm": 1e-3},
        {"centered": True},
        {},
    ),
    # A step is 0.1 long, and 0.001 * 3.5 * 2.9 is just above a tenth of that.
    ("weight decay dominates", "warning", {"weight_norm": 2.9}, {"weight_decay": 3.5}, {}),
    ("weight decay dominates", None, {"weight_norm": 2.9}, {"weight_decay": 3.4}, {}),
    ("weight decay dominates", "note", {"weight_norm": 3.1}, {"weight_decay": 3.5}, {}),
    ("weight decay dominates", "note", {"weight_norm": 4.9}, {"weight_decay": 9.0}, {}),
    ("weight decay dominates", None, {"weight_norm": 5.1}, {"weight_decay": 9.0}, {}),
    (
        "weight decay dominates",
        "warning",
        {"weight_norm": 2.9, "update_norm": 0.0},
        {"weight_decay": 1e-9},
        {},
    ),
    (
        "weight decay dominates",
        None,
        {"weight_norm": 2.9, "update_norm": 0.0, "learning_rate": 0.0},
        {"weight_decay": 9.0},
        {},
    ),
    ("weight decay dominates", None, {"weight_norm": 2.9, "update_norm": 0.0}, {}, {}),
    (
        "weight decay dominates",
        None,
        {"weight_norm": 2.9},
        {"weight_decay": 9.0},
        {"path": "layer/bias"},
    ),
    ("weight decay dominates", None, {"weight_norm": 2.9}, {"weight_decay": 9.0, "size": 15}, {}),
    (
        "weight decay dominates",
        None,
        {"weight_norm": 2.9, "step": 19},
        {"weight_decay": 9.0},
        {},
    ),
    # A subclass makes the update, which is not seen.
    (
        "weight decay dominates",
        None,
        {"weight_norm": 2.9, "update_norm": math.nan},
        {"weight_decay": 9.0},
        {},
    ),
    (
        "weight decay dominates",
        None,
        {"weight_norm": 2.9, "learning_rate": 0.0},
        {"l2": 1.0},
        {},
    ),
    # Rows that no batch has may shrink.
    (
        "weight decay dominates",
        "note",
        {"weight_norm": 2.9, "zero_gradient_share": 0.5},
        {"weight_decay": 9.0},
        {},
    ),
    # Gradients that are all 0 are the cause, unless it is that nothing is left of the weights.
    (
        "weight decay dominates",
        None,
        {"weight_norm": 0.11, "zero_gradient_share": 1.0},
        {"weight_decay": 100.0},
        {},
    ),
    (
        "weight decay dominates",
        "warning",
        {"weight_norm": 0.09, "zero_gradient_share": 1.0},
        {"weight_decay": 200.0},
        {},
    ),
    ("dead gradients", "warning", DEAD | {"weight_norm": 0.11}, {"weight_decay": 9.0}, {}),
    ("dead gradients", None, DEAD_AND_GONE, {"weight_decay": 9.0}, {}),
    ("dead gradients", None, DEAD_AND_GONE, {"l2": 9.0}, {}),
    ("dead gradients", "warning", DEAD_AND_GONE, {}, {}),
    # A bias may well be near 0, and a norm was larger once for other reasons than decay.
    ("dead gradients", "warning", DEAD_AND_GONE, {"l2": 9.0}, {"path": "layer/bias"}),
    (
        "dead gradients",
        "warning",
        DEAD_AND_GONE | {"update_norm": 0.1},
        {"weight_decay": 9.0},
        {},
    ),
    ("epsilon decides", None, {**BRAKED, "weight_norm": 0.09}, {"weight_decay": 9.0}, {}),
    # They began as small: size**(1/4) is 10.
    (
        "weight decay dominates",
        "note",
        {"weight_norm": 2.9, "largest_weight_norm": 2.9},
        {"weight_decay": 10.5},
        {},
    ),
    (
        "weight decay dominates",
        None,
        {"weight_norm": 2.9, "largest_weight_norm": 2.9},
        {"weight_decay": 10.2},
        {},
    ),
    (
        "weight decay dominates",
        None,
        {"weight_norm": 3.1, "largest_weight_norm": 3.1},
        {"weight_decay": 10.5},
        {},
    ),
    # The gradient is 1.
    ("weight decay dominates", "warning", {"weight_norm": 2.9}, {"l2": 0.035}, {}),
    ("weight decay dominates", None, {"weight_norm": 2.9}, {"l2": 0.034}, {}),
    ("dead gradients", "warning", DEAD, {}, {}),
    # A batch without input, perhaps.
    ("dead gradients", "note", DEAD | {"all_zero": 1}, {}, {}),
    ("dead gradients", None, DEAD | {"zero_gradient_share": 0.9999}, {}, {}),
    ("dead gradients", None, DEAD | {"step": 19}, {}, {}),
    ("dead gradients", "warning", DEAD | {"step": 20}, {}, {}),
    ("dead gradients", "warning", DEAD, {}, {"path": "layer/bias"}),
    (
        "dead gradients",
        "note",
        DEAD,
        {},
        {"path": "other_0/bias", "others": 1},
    ),
    (
        "vanished learning rate",
        "note",
        {"learning_rate": 0.0, "update_norm": 0.0, "at_rest": 10},
        {},
        {},
    ),
    (
        "vanished learning rate",
        "warning",
        {"learning_rate": 0.0, "update_norm": 0.0, "weight_norm": 0.0, "at_rest": 11},
        {},
        {},
    ),
    # The momentum buffer still moves the weights, or it is not known what does.
    (
        "vanished learning rate",
        None,
        {"learning_rate": 0.0, "update_norm": 0.1, "at_rest": 11},
        {"momentum": 0.9},
        {},
    ),
    (
        "vanished learning rate",
        None,
        {"learning_rate": 0.0, "update_norm": math.nan, "at_rest": 11},
        {},
        {},
    ),
    (
        "vanished learning rate",
        "note",
        {"learning_rate": 0.0, "update_norm": 0.0, "at_rest": 2, "sampled": 4},
        {},
        {},
    ),
    (
        "vanished learning rate",
        "warning",
        {"learning_rate": 0.0, "update_norm": 0.0, "at_rest": 3, "sampled": 4},
        {},
        {},
    ),
    (
        "vanished learning rate",
        "warning",
        {"learning_rate": 0.9e-7, "update_norm": 0.9e-5, "at_rest": 11},
        {},
        {},
    ),
    (
        "vanished learning rate",
        None,
        {"learning_rate": 0.9e-7, "update_norm": 1.1e-5, "at_rest": 11},
        {},
        {},
    ),
    (
        "vanished learning rate",
        None,
        {"learning_rate": 1.1e-7, "update_norm": 0.9e-5, "at_rest": 11},
        {},
        {},
    ),
    (
        "vanished learning rate",
        "note",
        {"learning_rate": 0.0, "largest_learning_rate": 0.0},
        {},
        {"others": 1},
    ),
    (
        "vanished learning rate",
        "warning",
        {"learning_rate": 0.0, "largest_learning_rate": 0.0},
        {},
        {},
    ),
    # A warm-up may start from 0.
    (
        "vanished learning rate",
        None,
        {"learning_rate": 0.0, "largest_learning_rate": 0.0, "step": 1},
        {},
        {},
    ),
    # size**(1/4) is 10.
    ("too large updates", "warning", {"update_norm": 2.1, "weight_norm": 100.0}, {}, {}),
    ("too large updates", None, {"update_norm": 1.9}, {}, {}),
    ("too large updates", "warning", {"update_norm": 0.51, "weight_norm": 1.0}, {}, {}),
    ("too large updates", None, {"update_norm": 0.49, "weight_norm": 1.0}, {}, {}),
    ("too large updates", None, {"update_norm": 2.1, "step": 19}, {}, {}),
    ("too large updates", "warning", {"update_norm": 2.1, "step": 20}, {}, {}),
    ("too large updates", None, {"update_norm": 2.1, "step": 90}, {"rho": 0.99}, {}),
    (
        "too large updates",
        "warning",
        {"update_norm": 2.1, "step": 90},
        {"rho": 0.99, "bias_correction": True},
        {},
    ),
    ("too large updates", None, {"update_norm": 2.1}, {}, {"path": "layer/bias"}),
    ("too large updates", None, {"update_norm": 2.1}, {}, {"path": "norm/beta"}),
    ("too large updates", None, {"update_norm": 2.1}, {"size": 15}, {}),
    ("too large updates", "warning", {"update_norm": 2.1}, {"size": 16}, {}),
    ("epsilon decides", None, {"epsilon_share": 0.89}, {}, {}),
    ("epsilon decides", "note", {"epsilon_share": 0.9}, {}, {}),
    ("epsilon decides", "warning", BRAKED, {}, {}),
    ("epsilon decides", "note", {**BRAKED, "update_norm": 1.01e-5}, {}, {}),
    ("epsilon decides", "warning", {**BRAKED, "update_norm": 0.19e-3}, {}, {"others": 1}),
    ("epsilon decides", "note", {**BRAKED, "update_norm": 0.21e-3}, {}, {"others": 1}),
    ("epsilon decides", "note", BRAKED, {}, {"path": "layer/bias"}),
    ("epsilon decides", None, {**BRAKED, "step": 19}, {}, {}),
    ("epsilon decides", "note", {**BRAKED, "update_norm": 0.99e-4}, {}, {}),
    ("epsilon decides", "warning", {**BRAKED, "update_norm": 0.99e-4}, {"momentum": 0.9}, {}),
    ("epsilon decides", "note", {**BRAKED, "learning_rate": 0.0}, {}, {}),
    ("stuck weights", None, {"stuck_share": 0.49}, {}, {}),
    ("stuck weights", "warning", {"stuck_share": 0.5}, {}, {}),
    ("stuck weights", None, {"stuck_share": 0.5}, {}, {"path": "layer/bias"}),
    (
        "stuck weights",
        None,
        {"stuck_share": 1.0, "learning_rate": 0.9e-7, "update_norm": 0.9e-5, "at_rest": 1},
        {},
        {},
    ),
    ("stuck weights", "warning", {"stuck_share": 1.0, "learning_rate": 2.1e-5}, {}, {}),
    ("stuck weights", "note", {"stuck_share": 1.0, "learning_rate": 1.9e-5}, {}, {}),
    # In half precision larger steps are rounded off, too.
    (
        "stuck weights",
        "warning",
        {"stuck_share": 1.0, "learning_rate": 0.9e-7, "at_rest": 1},
        {"dtype": "bfloat16"},
        {},
    ),
    (
        "stuck weights",
        "warning",
        {"stuck_share": 0.5},
        {"dtype": "bfloat16"},
        {"path": "layer/bias"},
    ),
    ("too small updates", None, {"update_norm": 1.1e-5}, {}, {}),
    ("too small updates", "warning", {"update_norm": 0.9e-5}, {}, {}),
    ("too small updates", None, {"update_norm": 0.9e-5}, {"size": 15}, {}),
    ("too small updates", None, {"update_norm": 0.0, "learning_rate": 0.0}, {}, {}),
    (
        "too small updates",
        None,
        {"update_norm": 0.9e-5, "learning_rate": 0.9e-7, "at_rest": 1},
        {},
        {},
    ),
    (
        "too small updates",
        "note",
        {"update_norm": 0.9e-5, "learning_rate": 1.1e-7, "at_rest": 1},
        {},
        {},
    ),
    ("too small updates", "note", {"update_norm": 0.9e-5, "learning_rate": 1.9e-5}, {}, {}),
    ("too small updates", "warning", {"update_norm": 0.9e-5, "learning_rate": 2.1e-5}, {}, {}),
    (
        "clipping always on",
        None,
        {"clipped": 94, "clipped_gradient_norm": 0.5},
        {},
        {"clip": "norm"},
    ),
    (
        "clipping always on",
        "warning",
        {"clipped": 95, "clipped_gradient_norm": 0.5},
        {},
        {"clip": "norm"},
    ),
    (
        "clipping always on",
        "note",
        {"clipped": 95, "clipped_gradient_norm": 0.51},
        {},
        {"clip": "norm"},
    ),
    (
        "clipping always on",
        None,
        {"clipped": 95, "clipped_gradient_norm": 0.51},
        {},
        {"clip": "value"},
    ),
    (
        "clipping always on",
        None,
        {"clipped": 19, "sampled": 19, "clipped_gradient_norm": 0.1},
        {},
        {"clip": "norm"},
    ),
    (
        "clipping always on",
        None,
        {"clipped": 100, "clipped_gradient_norm": 0.1},
        {},
        {"clip": "global_norm", "total": USUAL},
    ),
    ("averages not warmed up", None, {"step": 11}, {}, {}),
    ("averages not warmed up", "note", {"step": 9}, {}, {}),
    ("averages not warmed up", None, {"step": 9}, {"bias_correction": True}, {}),
    ("averages not warmed up", None, {"step": 1}, {"rho": 0.0}, {}),
    # The mean root is 0.01, so the average 1e-4.
    ("averages not warmed up", "note", {"step": 80}, {"initial_square_average": 0.24}, {}),
    ("averages not warmed up", None, {"step": 80}, {"initial_square_average": 0.22}, {}),
    (
        "one variable dominates",
        "note",
        {"gradient_norm": 14.0},
        {},
        {
            "others": 3,
            "clip": "global_norm",
            "total": USUAL._replace(gradient_norm=14.07, clipped=1),
        },
    ),
    (
        "one variable dominates",
        None,
        {"gradient_norm": 14.0},
        {},
        {
            "others": 3,
            "clip": "global_norm",
            "total": USUAL._replace(gradient_norm=14.08, clipped=1),
        },
    ),
    (
        "one variable dominates",
        None,
        {"gradient_norm": 14.0},
        {},
        {"others": 3, "clip": "global_norm", "total": USUAL._replace(gradient_norm=14.0)},
    ),
    (
        "one variable dominates",
        None,
        {"gradient_norm": 14.0},
        {},
        {"others": 3, "clip": "norm", "total": USUAL._replace(gradient_norm=14.0, clipped=1)},
    ),
    ("no gradient", "note", {"sampled": 0}, {}, {"others": 1, "total": USUAL}),
    ("no gradient", None, {"sampled": 0}, {}, {"others": 1, "total": Statistics()}),
]


@pytest.mark.parametrize(
    ("ailment", "severity", "own", "settings", "others"),
    EDGES,
    ids=[f"{i}-{edge[0]}-{edge[1]}" for i, edge in enumerate(EDGES)],
)
def test_a_threshold_is_where_it_is_said_to_be(
    ailment: str,
    severity: str | None,
    own: Mapping[str, Any],
    settings: Mapping[str, Any],
    others: Mapping[str, Any],
) -> None:
    report = report_of(USUAL._replace(**own), SETTINGS._replace(**settings), **others)
    assert names(report).get(ailment) == severity


def test_every_ailment_has_an_edge() -> None:
    assert {ailment for ailment, *_ in EDGES} == set(AILMENTS)


# How findings are put together.


def test_a_consequence_is_not_named_beside_its_cause() -> None:
    for samples, severity in ((1, "note"), (2, "warning")):
        dead = DEAD | {"all_zero": samples, "epsilon_share": 1.0, "update_norm": 0.0}
        assert names(report_of(USUAL._replace(**dead))) == {"dead gradients": severity}
    nan = dict.fromkeys(("weight_norm", "update_norm", "mean_rate"), math.nan)
    own = USUAL._replace(**nan, frozen_share=1.0, nonfinite=3)
    assert list(names(report_of(own))) == ["non-finite weights", "non-finite gradients"]


@pytest.mark.parametrize(
    "changes",
    [
        {"update_norm": 1e-7},
        {"update_norm": 1e-7, "stuck_share": 1.0},
        {"weight_norm": 0.1, "update_norm": 0.06},
    ],
    ids=str,
)
def test_no_other_rate_is_advised_where_decay_is_the_cause(changes: dict[str, float]) -> None:
    own = USUAL._replace(**{"weight_norm": 0.5, **changes})
    settings = SETTINGS._replace(weight_decay=100.0)
    assert names(report_of(own, settings)) == {"weight decay dominates": "warning"}
    assert "weight decay dominates" not in names(report_of(own))
    assert names(report_of(own)) != {}


FADED = USUAL._replace(**DEAD_AND_GONE)
DECAYING = SETTINGS._replace(weight_decay=9.0)


def of_two(one: Statistics, other: Statistics) -> dict[str, set[str]]:
    """The ailments of a variable that decays, and of another that does not."""
    report = report_of(one, DECAYING, "decaying/kernel", others=1)
    report = report._replace(variables={**report.variables, "other_0/kernel": other})
    found: dict[str, set[str]] = {path: set() for path in report.variables}
    for finding in _ailments.find(report):
        for path in finding.variables:
            found[path].add(finding.ailment)
    return found


def test_what_decay_has_left_nothing_of_explains_what_died_later() -> None:
    for died, said in (({"all_zero": 2}, set()), ({"all_zero": 100}, {"dead gradients"})):
        other = USUAL._replace(**{"zero_gradient_share": 1.0, "update_norm": 0.0, **died})
        found = of_two(FADED, other)
        assert found["decaying/kernel"] == {"weight decay dominates"}
        assert found["other_0/kernel"] == said


def test_what_was_dead_before_it_decayed_is_dead_and_explains_nothing() -> None:
    never = FADED._replace(all_zero=100)
    for other, ailment in ((FADED, "dead gradients"), (USUAL, None)):
        found = of_two(never, other)
        assert found["decaying/kernel"] == {"dead gradients"}
        assert found["other_0/kernel"] == ({ailment} if ailment else set())


def test_a_table_whose_unused_rows_decay_explains_nothing() -> None:
    # 5 rows of 4,000 have a gradient.
    table = FADED._replace(zero_gradient_share=0.999, all_zero=0, update_norm=1e-3)
    braked = USUAL._replace(**{**BRAKED, "update_norm": 0.9e-4})
    for other, ailment in ((FADED, "dead gradients"), (braked, "epsilon decides")):
        found = of_two(table, other)
        assert found["decaying/kernel"] == {"weight decay dominates"}
        assert found["other_0/kernel"] == {ailment}


def test_a_penalty_that_alone_moves_the_weights_is_no_large_rate() -> None:
    held = USUAL._replace(**DEAD, weight_norm=0.1, update_norm=0.2)
    assert set(names(report_of(held, SETTINGS._replace(l2=0.1)))) == {"dead gradients"}


def test_numbers_of_an_old_sample_say_nothing_of_averages_that_are_warm_by_now() -> None:
    first = USUAL._replace(step=1, sampled=1)
    for settings in (SETTINGS, SETTINGS._replace(initial_square_average=0.5)):
        for made, said in ((9, True), (300, False)):
            found = names(report_of(first, settings, iterations=made))
            assert ("averages not warmed up" in found) is said


def test_a_variable_is_not_missed_in_samples_before_it_was_there() -> None:
    new = SETTINGS._replace(samples_before=3)
    for samples, said in ((3, False), (4, True)):
        total = USUAL._replace(sampled=samples)
        found = _ailments.find(report_of(Statistics(step=99), new, others=1, total=total))
        assert [f.ailment for f in found] == (["no gradient"] if said else [])
        assert all("in any of 1 sampled" in f.evidence for f in found)


def test_decay_is_measured_against_the_step_or_the_gradient() -> None:
    settings = SETTINGS._replace(weight_decay=10.0, l2=0.01)
    evidence = {}
    for norm in (0.05, 10.0):
        own = USUAL._replace(weight_norm=2.0, clipped_gradient_norm=norm)
        (finding,) = _ailments.find(report_of(own, settings))
        evidence[norm] = finding.evidence
    shrunken = (
        "layer/kernel: the norm of the weights is 2, 20 % of the largest that was sampled "
        "(threshold 50 %; a warning below 30 %), and "
    )
    assert evidence[10.0] == shrunken + (
        "weight decay, which takes 1 % of each weight in a step, is 0.2 times as long as the rest "
        "of the step (threshold 0.1 times)"
    )
    assert evidence[0.05] == shrunken + (
        "the gradient 0.02 of the penalty `l2` is 0.4 times as long as that of the loss (threshold "
        "0.1 times)"
    )


def test_warnings_come_before_notes_and_the_worst_variable_first() -> None:
    few, many = USUAL._replace(frozen_share=0.1), USUAL._replace(frozen_share=0.2)
    report = report_of(few._replace(epsilon_share=1.0), others=2)
    report = report._replace(
        variables={**report.variables, "other_1/kernel": many}, skipped_steps=1, iterations=100
    )
    frozen, skipped = _ailments.find(report)
    assert (frozen.ailment, frozen.severity) == ("frozen weights", "warning")
    assert frozen.variables == ("other_1/kernel", "layer/kernel")
    assert frozen.evidence.startswith("2 variables, the worst other_1/kernel: 20 % of the averages")
    assert (skipped.ailment, skipped.severity) == ("batches skipped", "note")
    assert skipped.variables == ()
    assert skipped.evidence.startswith("1 call was skipped and 100 steps were made")


def test_a_finding_in_words_has_all_of_it() -> None:
    (finding,) = _ailments.find(report_of(USUAL._replace(frozen_share=0.0001)))
    words = finding.in_words()
    assert words.startswith(
        "Warning: frozen weights. layer/kernel: 0.01 % of the averages of squared gradients (1 of "
        "10,000; none should be) are infinite or NaN. "
    )
    assert finding.meaning in words
    assert words.endswith(f"Try: {finding.advice}")


def test_variables_that_were_not_sampled_are_not_judged() -> None:
    report = report_of(Statistics(), total=Statistics())
    assert _ailments.find(report) == []


# What the rules compute.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias_correction": True},
        {"initial_square_average": 0.5},
        {"epsilon": 0.0, "rho": 0.5},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "nesterov": True, "lr_in_momentum": False},
        {"l2": 0.1, "maximize": True},
    ],
    ids=str,
)
def test_no_step_of_the_plain_form_is_longer_than_its_bound(options: dict[str, Any]) -> None:
    # Gradients that grow make the longest steps.
    sampled = SampledReference(Reference([np.ones(16)], **options), ["w"])
    longest = 0.0
    for t in range(60):
        sampled.apply([np.full(16, 10.0**t)], 0.5)
        report = sampled.report()
        variable = Sampled("w", report.variables["w"], report.settings["w"])
        longest = max(longest, report.total.largest_update / 0.5 / variable.longest_plain_step)
    assert 0.95 < longest <= 1.0 + 1e-12


def test_a_fresh_norm_is_that_of_a_new_kernel() -> None:
    kernel = keras.initializers.GlorotUniform(seed=0)((64, 64))
    norm = float(np.linalg.norm(keras.ops.convert_to_numpy(kernel)))
    assert _symptoms.fresh_norm(64 * 64) == pytest.approx(norm, rel=0.05)


def constant(steps: int, **options: Any) -> Iterator[Report]:
    """Make steps with gradients of a constant size."""
    sampled = SampledReference(Reference([np.ones(16)], **options), ["w"])
    for _ in range(steps):
        sampled.apply([np.full(16, 0.01)], 0.001)
        yield sampled.report()


def test_the_warm_up_is_said_to_be_as_long_as_it_is() -> None:
    *_, report = constant(5, rho=0.99, epsilon=0.0)
    (finding,) = _ailments.find(report)
    # Later a step of a constant gradient is as long as the learning rate.
    times = report.total.largest_update / 0.001
    assert times == pytest.approx(4.52, abs=0.005)
    assert "about 4.52 times as long" in finding.evidence
    assert "step 5 of about 100 " in finding.evidence


@pytest.mark.parametrize("epsilon_inside_sqrt", [True, False])
def test_what_is_left_of_the_start_is_what_is_left_of_it(epsilon_inside_sqrt: bool) -> None:
    options = {"epsilon": 1e-4, "epsilon_inside_sqrt": epsilon_inside_sqrt}
    *_, report = constant(80, initial_square_average=1.0, **options)
    left = 0.9**80
    share = left / (left + (1.0 - left) * 1e-4)
    finding = next(f for f in _ailments.find(report) if f.ailment == "averages not warmed up")
    assert f"{100 * share:.3g} % of the average" in finding.evidence
    # 0.9**88 = 0.94e-4
    assert "for about 8 more steps" in finding.evidence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"),
        (1e-9, "less than 0.0001 %"),
        (0.00123456, "0.123 %"),
        (0.5, "50 %"),
        (0.9994, "99.9 %"),
        (0.99999, "more than 99.9 %"),
        (1.0, "100 %"),
        (12.5, "1,250 %"),
    ],
)
def test_only_all_is_100_percent_and_only_nothing_is_0(value: float, text: str) -> None:
    assert _symptoms.percent(value) == text
