"""Test which variables of a report are shown."""

import math

import pytest

from keras_rmsprop._diagnostics import _selection
from keras_rmsprop._diagnostics._report import Statistics
from tests.tools.reports import report, statistics

HEALTHY = statistics(update_norm=2e-3)

AILMENTS = {
    "updates too large": statistics(update_norm=2.0),
    "updates too small": statistics(update_norm=2e-6),
    "no update": statistics(update_norm=0.0),
    "frozen": statistics(frozen_share=1.0),
    "stuck": statistics(stuck_share=1.0),
    "decided by epsilon": statistics(epsilon_share=0.9),
    "dead": statistics(zero_gradient_share=1.0),
    "a gradient was not finite": statistics(nonfinite=1),
    "the gradient is not finite": statistics(gradient_norm=math.nan, update_norm=math.nan),
    "never a gradient": Statistics(),
}


@pytest.mark.parametrize("name", AILMENTS)
def test_an_ailing_variable_comes_before_healthy_ones(name):
    variables = {"first": HEALTHY, "ailing": AILMENTS[name], "last": HEALTHY}
    assert _selection.worst(report(variables), 1) == ["ailing"]


def test_the_usual_variable_is_not_bad():
    assert _selection.badness(HEALTHY) == pytest.approx(0.0, abs=1e-12)


def test_weights_that_start_from_0_have_no_ratio_to_be_judged_by():
    assert _selection.badness(statistics(weight_norm=0.0)) == 0.0


def test_some_zero_gradients_are_usual():
    few, most = (statistics(zero_gradient_share=share) for share in (0.0, 0.99))
    assert _selection.badness(few) == _selection.badness(most)


def test_equally_bad_variables_keep_the_order_of_the_optimizer():
    variables = dict.fromkeys(["c", "a", "b"], HEALTHY)
    assert _selection.worst(report(variables), None) == ["c", "a", "b"]


def test_a_pattern_matches_whole_paths_and_an_exact_path_itself():
    variables = dict.fromkeys(["a/kernel", "a/kernel_2", "b/kernel", "a+(b"], HEALTHY)
    shown = report(variables)
    assert _selection.matching(shown, "a/kernel") == ["a/kernel"]
    assert _selection.matching(shown, ".*/kernel") == ["a/kernel", "b/kernel"]
    assert _selection.matching(shown, "a+(b") == ["a+(b"]


def test_a_pattern_that_matches_nothing_is_refused_with_paths_that_there_are():
    with pytest.raises(ValueError, match=r"'kern'.*such as 'model/kernel', 'model/bias'"):
        _selection.matching(report(), "kern")


def test_the_name_of_the_model_may_be_left_out_or_be_gone_after_a_load():
    assert _selection.matching(report(), "kernel") == ["model/kernel"]
    loaded = report(dict.fromkeys(["a/kernel", "b/kernel"], HEALTHY))
    assert _selection.matching(loaded, "model/a/kernel") == ["a/kernel"]


def test_a_chosen_variable_stays_and_others_join_only_when_they_are_bad():
    selection = _selection.Selection()
    paths = [f"layer_{i}" for i in range(8)]
    healthy = dict.fromkeys(paths, HEALTHY)
    assert selection(report(healthy)) == paths[:5]
    slightly = {**healthy, "layer_6": statistics(update_norm=3e-3)}
    assert selection(report(slightly)) == paths[:5]
    badly = {**healthy, "layer_7": statistics(frozen_share=1.0)}
    assert selection(report(badly)) == [*paths[:5], "layer_7"]
    assert selection(report(healthy)) == [*paths[:5], "layer_7"]


def test_there_is_a_limit_to_the_variables_that_join():
    selection = _selection.Selection()
    for i in range(60):
        variables = {f"layer_{i}_{j}": AILMENTS["frozen"] for j in range(60)}
        variables |= {f"layer_{k}_0": AILMENTS["frozen"] for k in range(60)}
        shown = selection(report(variables))
    assert 0 < len(shown) <= 20


def test_a_variable_that_is_gone_is_not_shown():
    selection = _selection.Selection()
    selection(report({"a": HEALTHY, "b": HEALTHY}))
    assert selection(report({"b": HEALTHY})) == ["b"]
