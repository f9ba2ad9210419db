"""Test which reports of a training are kept."""

import itertools

import pytest

from keras_rmsprop._diagnostics import _history
from tests.tools.reports import report, statistics


def steps(history):
    return [kept.total.step for kept in history.reports]


def add(history, *at):
    for step in at:
        history.add(report(step=step))


def test_a_short_history_is_complete():
    history = _history.History()
    assert steps(history) == []
    add(history, *range(1, 101))
    assert steps(history) == list(range(1, 101))


@pytest.mark.parametrize("count", [1000, 1001, 1002, 5000])
def test_a_long_history_is_thinned_evenly_and_has_the_last_report(count):
    history = _history.History()
    add(history, *range(1, count + 1))
    kept = steps(history)
    assert len(kept) <= 1001
    assert len(kept) >= 500
    assert (kept[0], kept[-1]) == (1, count)
    distances = {second - first for first, second in itertools.pairwise(kept[:-1])}
    assert len(distances) == 1


def test_many_variables_leave_room_for_fewer_reports():
    history = _history.History()
    variables = dict.fromkeys(map(str, range(499)), statistics())
    for step in range(1, 301):
        history.add(report(variables, step=step))
    assert len(history.reports) <= 101


def test_a_training_that_goes_back_replaces_what_came_after():
    history = _history.History()
    add(history, 1, 2, 3, 4, 5, 6, 7)
    add(history, 4, 5)
    assert steps(history) == [1, 2, 3, 4, 5]


def test_after_going_back_the_last_report_and_the_spacing_stay_right():
    history = _history.History()
    add(history, *range(1, 1502))
    add(history, *range(1001, 3001))
    kept = steps(history)
    assert kept == sorted(set(kept))
    assert kept[-1] == 3000
    assert len(kept) <= 1001
