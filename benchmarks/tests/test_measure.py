"""Contenders are checked, take turns, and are compared where they were beside each other."""

import dataclasses
import itertools

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.measure import Contender, NotComparableError, Settings, compare
from benchmarks.results import OURS, quartiles

TINY = dataclasses.replace(measure.QUICK, seconds=0.0, rounds=2)


def idle() -> Contender:
    """A contender that does nothing."""
    return Contender(lambda: None, lambda: None, weights=None)


def compared(builders, settings, targets=None, check=lambda *_: 0.0):
    """The lines of a comparison by contender."""
    lines = compare(builders, check, settings, targets)
    return {line["contender"]: line for line in lines}


def test_contenders_take_turns_and_each_round_begins_with_another():
    turns = []
    named = {
        name: Contender(lambda name=name: turns.append(name), lambda: None, None) for name in "abc"
    }
    measure.take_turns(named, rounds=4, seconds=0.0)
    blocks = "".join(name for name, _ in itertools.groupby(turns))
    # Warm-up, then the rounds; the last of a round may be the first of the next.
    assert blocks == "abc" + "abc" + "bca" + "cab" + "abc"


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, ["step", "wait", "step", "step", "wait"]), (10, ["wait", "step", "step", "wait"])],
    ids=["single steps", "a call of many is its own warm-up"],
)
def test_each_turn_begins_with_a_single_step_that_is_not_timed(monkeypatch, steps, expected):
    events = []
    contender = Contender(
        lambda: events.append("step"), lambda: events.append("wait"), None, steps_per_call=steps
    )
    monkeypatch.setattr(measure, "_calls_per_block", lambda _: 2)
    measure.take_turns({"a": contender}, rounds=1, seconds=0.0)
    assert events == expected


def test_where_a_target_is_close_the_two_are_built_anew_and_their_rounds_pooled(monkeypatch):
    built, sittings, times = [], [], iter([1.0, 2.0, 3.0])

    def builder(name: str):
        return lambda: (built.append(name), idle())[1]

    def one_round(contenders, rounds, seconds):
        sittings.append((set(contenders), seconds))
        time = next(times)
        return {name: [time if name == OURS else 2 * time * time] for name in contenders}

    monkeypatch.setattr(measure, "take_turns", one_round)
    deviations = iter([1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0])
    settings = Settings(seconds=2.0, patience=3, close_seconds=0.0, builds=2, sitting_seconds=4.0)
    lines = compared(
        {name: builder(name) for name in (OURS, "keras", "torch")},
        settings,
        {"keras": 0.97, "torch": 18.0},
        check=lambda *_: next(deviations),
    )
    assert sittings == [({OURS, "keras", "torch"}, 6.0), *[({OURS, "keras"}, 4.0)] * 2]
    assert built == [OURS, "keras", "torch", "keras", OURS, OURS, "keras"]
    ours, close, far = lines.values()
    assert (ours["low"], ours["median"], ours["high"]) == (1500.0, 2000.0, 2500.0)
    assert ours["deviation"] == 5.0
    assert (close["ratio_low"], close["ratio"], close["ratio_high"]) == (3.0, 4.0, 5.0)
    assert (close["target"], far["ratio"], far["target"]) == (0.97, 2.0, 18.0)


def test_where_no_target_is_close_nothing_is_built_anew(monkeypatch):
    sittings = []
    monkeypatch.setattr(
        measure, "take_turns", lambda c, *_: sittings.append(c) or {name: [1.0] for name in c}
    )
    compare({OURS: idle, "keras": idle}, lambda *_: 0.0, Settings(), {"keras": 18.0})
    assert len(sittings) == 1


def test_a_contender_that_fails_when_built_anew_has_failed():
    attempts = iter([idle()])
    builders = {OURS: idle, "keras": lambda: next(attempts)}
    settings = dataclasses.replace(TINY, builds=3, sitting_seconds=0.0)
    lines = compared(builders, settings, {"keras": 0.97})
    assert lines["keras"]["failure"] == "StopIteration: no message"
    assert "ratio" not in lines["keras"]
    assert "median" in lines[OURS]


def sittings_of(monkeypatch, times):
    """Let every sitting give the same times of the peer, and return those that there were."""
    sittings = []

    def one_sitting(contenders, *_):
        sittings.append(times)
        return {name: [1.0] * 3 if name == OURS else times for name in contenders}

    monkeypatch.setattr(measure, "take_turns", one_sitting)
    # In the process of a whole suite a collection takes a second, and there is one a sitting.
    monkeypatch.setattr(measure.gc, "collect", lambda: 0)
    return sittings


def test_a_close_pair_goes_on_until_its_ratio_is_known(monkeypatch):
    times = [0.9, 1.0, 1.1]
    sittings = sittings_of(monkeypatch, times)
    compared({OURS: idle, "keras": idle}, Settings(builds=1), {"keras": 0.97})
    known = [measure.uncertainty(times * n) <= measure.PRECISION for n in range(1, 1000)]
    assert len(sittings) == known.index(True) + 1 > 2


@pytest.mark.parametrize(("target", "is_far"), [(0.5, True), (1.8, True), (0.97, False)])
def test_a_pair_far_from_its_target_is_settled_early(monkeypatch, target, is_far):
    sittings = sittings_of(monkeypatch, [0.97, 1.0, 1.03])
    compared({OURS: idle, "keras": idle}, Settings(builds=1), {"keras": target})
    assert (len(sittings) == 2) is is_far


def test_a_close_pair_does_not_go_on_for_ever(monkeypatch):
    monkeypatch.setattr(measure.time, "perf_counter", itertools.count().__next__)
    sittings = sittings_of(monkeypatch, [0.5, 1.0, 1.5])
    settings = Settings(builds=1, close_seconds=3.0)
    compared({OURS: idle, "keras": idle}, settings, {"keras": 0.97})
    assert len(sittings) == 1 + 1 + 2  # all together, the one build, and those before the end


def test_the_uncertainty_is_that_of_the_median():
    rng = np.random.default_rng(0)
    samples = rng.normal(2.0, 0.3, (2000, 101))
    seen = np.std(np.median(samples, axis=1)) / 2.0
    told = np.mean([measure.uncertainty(list(sample)) for sample in samples])
    assert told == pytest.approx(seen, rel=0.1)


def test_ratios_are_taken_within_a_round():
    times = {OURS: [1.0, 10.0, 1.0], "keras": [2.0, 20.0, 2.0]}
    assert measure.ratios([times, {OURS: [5.0]}], "keras") == [2.0, 2.0, 2.0]


def test_a_call_of_several_steps_counts_as_several(monkeypatch):
    calls = []
    contender = Contender(lambda: calls.append(0), lambda: calls.append(1), None, 4)
    monkeypatch.setattr(measure.time, "perf_counter", iter([0.0, 8.0]).__next__)
    assert measure.seconds_per_step(contender, 2) == 1.0
    assert calls == [1, 0, 0, 1]  # the device is waited for before and after


def test_a_failed_contender_stays_in_the_result_with_its_reason():
    def refuse() -> Contender:
        raise NotComparableError("has no such option")

    lines = compared({OURS: idle, "torch": refuse}, TINY)
    assert lines["torch"] == {"contender": "torch", "unit": "ms", "failure": "has no such option"}
    assert "median" in lines[OURS]


def test_a_contender_that_disagrees_is_not_timed():
    def check(name: str, contender: Contender) -> float:
        if name == "keras":
            raise measure.DisagreementError("off by half")
        return 0.0

    lines = compared({OURS: idle, "keras": idle}, TINY, check=check)
    assert lines["keras"]["failure"] == "DisagreementError: off by half"
    assert "median" not in lines["keras"]


def test_quartiles_of_one_value_are_that_value():
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0, 3.0]) == (1.5, 2.0, 2.5)
