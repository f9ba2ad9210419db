"""Test a report as a flat dict, as loggers take it."""

import math

import pytest

from keras_rmsprop._diagnostics._report import Statistics
from tests.tools.reports import not_finite, report, statistics, unsampled


def test_the_whole_and_single_variables_have_their_keys():
    total = statistics(gradient_norm=3.0, clipped=25)
    values = report(total=total).flat()
    assert values["rmsprop/gradient_norm"] == 3.0
    assert values["rmsprop/clipped_share"] == 0.5
    assert values["rmsprop/step"] == 100.0
    assert values["rmsprop/model/kernel/update_ratio"] == 2.0**-10
    assert values["rmsprop/model/bias/gradient_norm"] == 0.5
    assert {type(value) for value in values.values()} == {float}


def test_keys_begin_with_the_name_of_the_optimizer():
    values, named = report().flat(), report(name="critic").flat()
    assert named == {f"critic{key.removeprefix('rmsprop')}": x for key, x in values.items()}


def variables_in(values):
    return {key.split("/")[1] for key in values if key.count("/") == 2}


def test_by_default_it_has_the_worst_few_variables():
    rows = {f"layer_{i}": statistics(update_norm=10.0**-i) for i in range(8)}
    assert variables_in(report(rows).flat()) == {
        "layer_0",
        "layer_1",
        "layer_6",
        "layer_7",
        "layer_5",
    }
    assert variables_in(report(rows).flat(".*")) == set(rows)
    assert variables_in(report(rows).flat("layer_[23]")) == {"layer_2", "layer_3"}


def test_a_bad_pattern_is_refused():
    with pytest.raises(ValueError, match=r"received pattern='\(': missing \)"):
        report().flat("(")
    with pytest.raises(ValueError, match=r"received pattern=3: it is not a string"):
        report().flat(3)
    with pytest.raises(ValueError, match="No variable of the optimizer matches 'nothing'"):
        report().flat("nothing")


def test_before_the_first_sample_it_is_empty():
    assert unsampled().flat(".*") == {}


def test_what_was_not_measured_is_left_out():
    rows = {"never": Statistics(), "broken": statistics(gradient_norm=math.nan)}
    values = report(rows).flat()
    assert variables_in(values) == {"broken"}
    assert "rmsprop/broken/gradient_norm" not in values
    assert values["rmsprop/broken/mean_rate"] == 2.0**-6
    assert not any(math.isnan(value) for value in not_finite().flat(".*").values())
