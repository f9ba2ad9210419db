"""Each row compares those it names, on the steps it names, and holds them to the reference."""

import math

import keras
import numpy as np
import pytest

from benchmarks import (
    cliffs,
    contenders,
    fresh,
    limit,
    overhead,
    problems,
    registry,
    startup,
    training,
    worker,
)
from benchmarks.measure import Contender, DisagreementError, NotComparableError
from benchmarks.problems import CASES, CONFIGS, Problem
from benchmarks.results import BARE, MORE, OURS, SUITES
from benchmarks.tests.test_measure import TINY

BACKEND = keras.backend.backend()
# Keras says so where a row is about just that.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
needs_a_compiler = pytest.mark.skipif(limit.COMPILER is None, reason="the limit is written in C")


def names(**choice):
    return [row.name for row in registry.rows(BACKEND, **{"quick": False, "only": None} | choice)]


def test_the_rows_have_names_of_their_own_and_every_suite_has_some():
    assert len(set(names())) == len(names())
    # Only TensorFlow has gradients of single rows.
    absent = {"gpu"} if BACKEND == "tensorflow" else {"gpu", "embeddings"}
    suites = [name.split("/")[0] for name in names()]
    assert list(dict.fromkeys(suites)) == [suite for suite in SUITES if suite not in absent]


def test_the_rows_that_need_a_gpu_are_run_alone_and_say_if_there_is_none(monkeypatch):
    module = contenders.for_backend(BACKEND)
    monkeypatch.setattr(module, "device", lambda: "cpu")
    rows = list(registry.rows(BACKEND, quick=False, only=None, gpu=True))
    assert [row.suite for row in rows] == ["gpu"] * (0 if BACKEND == "tensorflow" else 2)
    for row in rows:
        assert worker.measure(row, TINY)[0]["failure"] == "there is no GPU"


def test_rows_are_picked_by_a_part_of_their_name():
    mlp = [f"{suite}/eager/plain/mlp" for suite in ("steps", "first_calls", "overhead")]
    assert names(only="eager/plain/mlp") == mlp
    assert names(only="eager/plain/mlp", quick=True) == [mlp[0], mlp[2]]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("mode", contenders.for_backend(BACKEND).MODES)
def test_every_contender_that_can_make_the_steps_makes_the_right_ones(mode, config):
    problem = Problem([(), (3,), (2, 5)], **CONFIGS[config])
    checked = 0
    for name, build in contenders.for_backend(BACKEND).builders(mode, problem).items():
        if name == "torch compiled":  # its compiler takes half a minute
            continue
        try:
            contender = build()
        except NotComparableError:
            assert config != "plain"
        else:
            problem.check(contender, **contenders.CONVENTIONS.get(name, {}))
            checked += 1
    assert checked >= 2


def test_what_an_eager_step_runs_makes_the_right_step():
    problem = Problem([(), (3,), (2, 5)])
    bare = contenders.for_backend(BACKEND).bare(problem)
    assert BARE in bare
    for build in bare.values():
        problem.check(build())


def test_the_microseconds_on_top_are_a_difference():
    ours, peer = overhead.measure_on_top(BACKEND, TINY)
    assert ours["contender"] == OURS
    assert peer["ratio"] == pytest.approx(1e3 * (ours["median"] - peer["median"]))


@needs_a_compiler
def test_a_contender_with_another_epsilon_is_found_out():
    problem = Problem([(1000,)])
    with pytest.raises(DisagreementError, match="distance travelled"):
        problem.check(limit.fused_loop(problem), epsilon_inside_sqrt=False)


def test_a_nan_is_found_out():
    broken = Contender(lambda: None, lambda: None, lambda: [np.full(3, np.nan, np.float32)])
    with pytest.raises(DisagreementError, match="nan"):
        Problem([(3,)]).check(broken)


def test_the_many_tensor_case_is_what_its_name_says():
    problem = Problem(CASES["conv160"])
    assert len(problem.shapes) == 160
    assert round(problem.parameters / 1e6, 1) == 3.7


@needs_a_compiler
def test_the_bandwidth_loop_makes_the_plain_step():
    problem = Problem([(300_001,), (7,)])  # on several threads, and on one
    problem.check(limit.fused_loop(problem))


@needs_a_compiler
def test_the_triad_runs_over_every_element(monkeypatch):
    original, shares = limit._shares, []
    monkeypatch.setattr(limit, "_shares", lambda *a: shares.extend(original(*a)) or shares)
    problem = Problem([(300_000,)])
    limit.triad(problem).step()
    assert sum(a.size for a, _, _ in shares) * 12 == 20 * problem.parameters
    assert all((a == 1.5).all() for a, _, _ in shares)


def test_without_a_compiler_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(limit, "COMPILER", None)
    with pytest.raises(NotComparableError, match="no C compiler"):
        limit.fused_loop(Problem([(3,)]))


def test_fit_is_compared_over_the_same_batches(monkeypatch):
    task = training.TASKS["mlp"]._replace(batch=4, steps=2)
    monkeypatch.setattr(training, "TASKS", {"mlp": task})
    lines = training._measure("any", "mlp", TINY)
    assert [(line["contender"], "failure" in line) for line in lines] == [
        (OURS, False),
        ("keras", False),
    ]


def test_sampled_and_other_steps_are_checked_and_compared(monkeypatch):
    task = training.TASKS["mlp"]._replace(batch=4, steps=2)
    monkeypatch.setattr(training, "TASKS", {"mlp": task})
    for case in ("conv160", "matrix"):
        monkeypatch.setitem(CASES, case, [(3, 2), (2,)])
    rows = list(registry.rows(BACKEND, quick=False, only="diagnostics/"))
    assert {(row.mode, row.config) for row in rows} == {
        *(("eager", config) for config in ("sampled", "not sampled", "one in ten")),
        ("fit", "not sampled"),
    }
    for row in rows:
        for line in row.measure(TINY):
            assert "median" in line
            assert line["deviation"] <= problems.TOLERANCE
        assert (line["contender"], line["target"] > 0.0) == ("without diagnostics", True)


def test_a_first_call_is_measured_alone():
    seen = startup.report(BACKEND, "eager", "scalar", OURS)
    assert seen["steady"] > 0.0
    assert seen["startup"] >= 0.0


@pytest.mark.parametrize(
    ("ours", "peer", "expected"),
    [
        ((8.0, 1.0), (0.0, 2.0), 8.0),
        ((0.0, 1.0), (8.0, 1.0), 0.0),
        ((8.0, 2.0), (0.0, 1.0), math.inf),
    ],
    ids=["earned back", "never behind", "never ahead"],
)
def test_break_even_is_where_the_total_times_meet(ours, peer, expected):
    reports = [{"startup": start, "steady": steady} for start, steady in (ours, peer)]
    assert startup.break_even(*reports) == expected


def test_a_step_with_missing_gradients_is_checked_and_compared(monkeypatch):
    monkeypatch.setitem(cliffs.PROBLEMS, "24", [(3,)] * 4)
    ours, peer = cliffs._measure_missing(TINY)
    assert "median" in ours
    assert peer["target"] == 1.0


@pytest.mark.parametrize("scenario", [cliffs.missing, cliffs.search, cliffs.first_steps])
@pytest.mark.parametrize("name", [OURS, "keras"])
def test_what_is_measured_alone_arrives_at_the_right_weights(scenario, name, monkeypatch):
    monkeypatch.setitem(cliffs.PROBLEMS, "tiny", [(3,), (2, 2), (3,)])
    monkeypatch.setattr(cliffs, "SEARCHED", 2)
    monkeypatch.setattr(cliffs, "SETS", 4)
    assert scenario("tiny", name)["seconds"] > 0.0


def test_what_is_measured_alone_is_found_out_if_it_goes_astray(monkeypatch):
    monkeypatch.setitem(cliffs.PROBLEMS, "tiny", [(3,)])
    monkeypatch.setattr(cliffs, "FIRST_STEPS", 3)
    monkeypatch.setattr(problems, "EPSILON", 1e-3)
    with pytest.raises(DisagreementError, match="distance travelled"):
        cliffs.first_steps("tiny", OURS)


@pytest.fixture
def _no_reports_yet():
    fresh._tell.cache_clear()
    yield
    fresh._tell.cache_clear()


@pytest.mark.usefixtures("_no_reports_yet")
def test_processes_of_their_own_are_paired_and_compared_and_shared_by_rows(monkeypatch):
    seconds = {OURS: iter([1.0, 2.0]), "keras": iter([2.0, 2.0])}
    asked = []

    def fake(run, report, case, name):
        asked.append((report, name))
        yield {"seconds": next(seconds[name]), "left": 2**20 * (70 if name == OURS else 1)}

    monkeypatch.setattr(fresh, "stream", fake)
    time = cliffs._measure_alone(cliffs.search, "24", cliffs.TIME, cliffs.NO_CLIFF, TINY)[1]
    memory = cliffs._measure_alone(cliffs.search, "24", cliffs.LEFT, cliffs.MIB_MORE, TINY)[1]
    assert asked == [(cliffs.search, OURS), (cliffs.search, "keras")] * 2
    assert (time["ratio_low"], time["ratio"], time["ratio_high"]) == (1.25, 1.5, 1.75)
    assert (time["unit"], time["median"], time["target"]) == ("ms", 2000.0, 1.0)
    assert (memory["ratio"], memory["quantity"], memory["target"]) == (69.0, MORE, 60.0)


@pytest.mark.usefixtures("_no_reports_yet")
def test_a_fresh_process_that_fails_is_a_result_and_not_tried_again(monkeypatch):
    asked = []

    def fail(run, report, case, name):
        asked.append(name)
        raise fresh.ProcessDiedError("no room")

    monkeypatch.setattr(fresh, "stream", fail)
    lines = cliffs._measure_alone(cliffs.search, "24", cliffs.TIME, cliffs.NO_CLIFF, TINY)
    assert [line["failure"] for line in lines] == ["no room"] * 2
    assert asked == [OURS, "keras"]
