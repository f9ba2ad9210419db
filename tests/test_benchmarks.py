"""The harness of the benchmarks: it measures the right thing and hides nothing. No timings."""

import dataclasses
import itertools
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    busy,
    child,
    cliffs,
    contenders,
    limit,
    measure,
    problems,
    registry,
    report,
    training,
)
from benchmarks.measure import Contender, NotComparableError, Settings, compare
from benchmarks.problems import CASES, CONFIGS, Problem
from benchmarks.results import (
    BREAK_EVEN,
    MORE,
    OURS,
    SMALLER,
    Comparison,
    Entry,
    Figure,
    Record,
    Result,
)

BACKEND = keras.backend.backend()
# Keras's variables under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TINY = Settings(quick=True, seconds=0.0, rounds=2, close_seconds=0.0, builds=0, processes=1)
SHAPES = [(), (3,), (2, 5)]


def idle() -> Contender:
    """A contender that does nothing."""
    return Contender(lambda: None, lambda: None, weights=None)


def refuses(text: str) -> Callable[[], Contender]:
    """A builder of a contender that cannot be compared."""

    def build() -> Contender:
        raise NotComparableError(text)

    return build


def record(**changes: object) -> Record:
    """A row in which ours misses one target and a peer has failed."""
    result = Result(
        "ms",
        {
            OURS: Entry(Figure(2.0, 1.0, 3.0), deviation=1e-7),
            "keras": Entry(Figure(6.0, 5.0, 7.0)),
            "torch": Entry(failure="does not fit"),
        },
        [Comparison("keras", Figure(3.0, 2.0, 4.0), target=10.0)],
    )
    whole = Record(BACKEND, "steps", "eager", "plain", "mlp", 6.0, result)
    return dataclasses.replace(whole, **changes)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("mode", contenders.on(BACKEND).MODES)
def test_every_contender_that_can_make_the_steps_makes_the_right_ones(mode, config):
    problem = Problem(SHAPES, CONFIGS[config])
    checked = 0
    for name, build in contenders.on(BACKEND).builders(mode, problem).items():
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


def test_a_contender_with_another_epsilon_is_found_out():
    problem = Problem([(1000,)])
    contender = limit.fused_loop(problem)
    with pytest.raises(measure.DisagreementError, match="distance travelled"):
        problem.check(contender, epsilon_inside_sqrt=False)


def test_a_nan_is_found_out():
    problem = Problem([(3,)])
    broken = Contender(lambda: None, lambda: None, lambda: [np.full(3, np.nan, np.float32)])
    with pytest.raises(measure.DisagreementError, match="nan"):
        problem.check(broken)


@pytest.mark.parametrize("kernel", [limit._numpy_step, limit._kernel()], ids=["numpy", "best"])
def test_the_bandwidth_loop_makes_the_plain_step(monkeypatch, kernel):
    monkeypatch.setattr(limit, "_kernel", lambda: kernel)
    problem = Problem([(300_001,), (7,)])  # on several threads, and on one
    problem.check(limit.fused_loop(problem))


@pytest.mark.skipif(limit.COMPILER is None, reason="the triad is written in C")
def test_the_triad_runs_over_every_element(monkeypatch):
    original, shares = limit._shares, []
    monkeypatch.setattr(
        limit, "_shares", lambda *a, count: shares.extend(original(*a, count=count)) or shares
    )
    problem = Problem([(300_000,)])
    limit.triad(problem).step()
    assert sum(a.size for a, _, _ in shares) * 12 == 20 * problem.parameters
    assert all((a == 1.5).all() for a, _, _ in shares)


def test_the_many_tensor_case_is_what_its_name_says():
    problem = Problem(CASES["conv160"])
    assert len(problem.shapes) == 160
    assert round(problem.parameters / 1e6, 1) == 3.7


def test_contenders_take_turns_and_each_round_begins_with_another():
    turns = []
    named = {
        name: Contender(lambda name=name: turns.append(name), lambda: None, None)
        for name in ("a", "b", "c")
    }
    measure.take_turns(named, rounds=4, seconds=0.0)
    blocks = "".join(name for i, name in enumerate(turns) if i == 0 or turns[i - 1] != name)
    assert blocks == "abc" + "abc" + "bca" + "cab" + "abc"  # warm-up, then the rounds


def test_each_turn_begins_with_a_call_that_is_not_timed(monkeypatch):
    events = []
    contender = Contender(lambda: events.append("step"), lambda: events.append("wait"), None)
    monkeypatch.setattr(measure, "_calls_per_block", lambda _: 2)
    measure.take_turns({"a": contender}, rounds=1, seconds=0.0)
    assert events == ["step", "wait", "step", "step", "wait"]


def test_a_call_of_many_steps_is_its_own_warm_up(monkeypatch):
    events = []
    contender = Contender(lambda: events.append("fit"), lambda: None, None, steps_per_call=10)
    monkeypatch.setattr(measure, "_calls_per_block", lambda _: 1)
    measure.take_turns({"a": contender}, rounds=1, seconds=0.0)
    assert events == ["fit"]


def test_where_a_target_is_close_the_two_are_built_anew_and_their_rounds_pooled(monkeypatch):
    built, sittings = [], []
    times = iter([1.0, 2.0, 3.0])

    def builder(name: str) -> Callable[[], Contender]:
        return lambda: (built.append(name), idle())[1]

    def one_round(contenders, rounds, seconds):
        sittings.append((set(contenders), seconds))
        time = next(times)
        return {name: [time if name == OURS else 2 * time * time] for name in contenders}

    monkeypatch.setattr(measure, "take_turns", one_round)
    deviations = iter([1.0, 2.0, 3.0, 7.0, 4.0, 5.0, 6.0])
    settings = Settings(seconds=2.0, patience=3, close_seconds=0.0, builds=2, sitting_seconds=4.0)
    result = compare(
        {OURS: builder(OURS), "keras": builder("keras"), "torch": builder("torch")},
        lambda *_: next(deviations),
        settings,
        {"keras": 0.97, "torch": 18.0},
    )
    assert sittings == [({OURS, "keras", "torch"}, 6.0), *[({OURS, "keras"}, 4.0)] * 2]
    assert built == [OURS, "keras", "torch", "keras", OURS, OURS, "keras"]
    assert result.entries[OURS].figure == Figure.of([1e3, 2e3, 3e3])
    assert result.entries[OURS].deviation == 5.0
    close, far = result.comparisons
    assert (close.figure, close.target) == (Figure.of([2.0, 4.0, 6.0]), 0.97)
    assert (far.figure, far.target) == (Figure.of([2.0]), 18.0)


def test_where_no_target_is_close_nothing_is_built_anew(monkeypatch):
    sittings = []
    monkeypatch.setattr(
        measure, "take_turns", lambda c, *_: sittings.append(c) or {name: [1.0] for name in c}
    )
    compare({OURS: idle, "keras": idle}, lambda *_: 0.0, Settings(), {"keras": 18.0})
    assert len(sittings) == 1


def test_a_contender_that_fails_when_built_anew_has_failed(monkeypatch):
    attempts = iter([idle(), None])

    def once() -> Contender:
        contender = next(attempts)
        if contender is None:
            raise MemoryError("no room")
        return contender

    settings = dataclasses.replace(TINY, builds=3, sitting_seconds=0.0)
    result = compare({OURS: idle, "keras": once}, lambda *_: 0.0, settings, {"keras": 0.97})
    assert result.entries["keras"] == Entry(failure="MemoryError: no room")
    assert result.comparisons == []
    assert result.entries[OURS].figure is not None


def test_a_close_pair_goes_on_until_its_ratio_is_known(monkeypatch):
    rounds = []

    def one_sitting(contenders, *_):
        rounds.append([0.9, 1.0, 1.1])
        return {name: [1.0] * 3 if name == OURS else rounds[-1] for name in contenders}

    monkeypatch.setattr(measure, "take_turns", one_sitting)
    # In the process of a whole suite a collection takes a second, and there is one a sitting.
    monkeypatch.setattr(measure.gc, "collect", lambda: 0)
    compare({OURS: idle, "keras": idle}, lambda *_: 0.0, Settings(builds=1), {"keras": 0.97})
    pooled = [[0.9, 1.0, 1.1] * n for n in range(1, len(rounds) + 1)]
    first = next(i for i, p in enumerate(pooled) if measure.uncertainty(p) <= measure.PRECISION)
    assert first > 1
    assert len(rounds) == first + 1


def test_a_close_pair_does_not_go_on_for_ever(monkeypatch):
    monkeypatch.setattr(measure.time, "perf_counter", itertools.count().__next__)
    sittings = []

    def one_sitting(contenders, *_):
        sittings.append([0.5, 1.0, 1.5])
        return {name: [1.0] * 3 if name == OURS else sittings[-1] for name in contenders}

    monkeypatch.setattr(measure, "take_turns", one_sitting)
    settings = Settings(builds=1, close_seconds=3.0)
    compare({OURS: idle, "keras": idle}, lambda *_: 0.0, settings, {"keras": 0.97})
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
    figure = Figure.of(measure.ratios([times], "keras"))
    assert Comparison("keras", figure, target=2.5).met is False


def test_a_call_of_several_steps_counts_as_several():
    calls = []
    contender = Contender(lambda: calls.append(0), lambda: calls.append(1), None, 4)
    clock = iter([0.0, 8.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure.time, "perf_counter", lambda: next(clock))
        assert measure.seconds_per_step(contender, 2) == 1.0
    assert calls == [1, 0, 0, 1]  # the device is waited for before and after


def test_a_failed_contender_stays_in_the_result_with_its_reason():
    result = compare({OURS: idle, "torch": refuses("has no such option")}, lambda *_: 0.0, TINY)
    assert result.entries["torch"] == Entry(failure="has no such option")
    assert result.entries[OURS].figure is not None
    assert result.comparisons == []


def test_a_contender_that_disagrees_is_not_timed():
    def check(name: str, contender: Contender) -> float:
        if name == "keras":
            raise measure.DisagreementError("off by half")
        return 0.0

    result = compare({OURS: idle, "keras": idle}, check, TINY)
    assert result.entries["keras"] == Entry(failure="DisagreementError: off by half")


@pytest.mark.parametrize(
    ("quantity", "met"), [(BREAK_EVEN, False), (SMALLER, True)], ids=["at most", "at least"]
)
def test_a_target_is_a_bound_on_the_right_side(quantity, met):
    assert Comparison("keras", Figure(30, 30, 30), quantity, target=20).met is met


@pytest.mark.parametrize(
    ("ours", "peer", "expected"),
    [
        ((9.0, 1.0), (1.0, 2.0), 8.0),
        ((1.0, 1.0), (9.0, 1.0), 0.0),
        ((9.0, 2.0), (1.0, 1.0), math.inf),
    ],
    ids=["earned back", "never behind", "never ahead"],
)
def test_break_even_is_where_the_total_times_meet(ours, peer, expected):
    from benchmarks.first_calls import _break_even

    def run(startup: float, steady: float) -> child.Report:
        return child.Report(
            first_calls=[startup + steady, steady], steady=steady,
            peak_first=0, peak_steady=0, parameters=1,
        )  # fmt: skip

    assert _break_even(run(*ours), run(*peer)) == expected


def test_a_record_survives_json():
    before = record()
    assert Record.from_json(json.loads(json.dumps(dataclasses.asdict(before)))) == before


def test_the_table_shows_what_was_missed_and_what_failed():
    text = report.table([record()], {"cores": "2"})
    assert "cores: 2" in text
    assert "3 times as fast  [2 4]" in text
    assert ">= 10   MISSED" in text
    assert "0 of 1 targets met" in text
    assert "steps/eager/plain/mlp: torch: does not fit" in text


def test_the_picture_is_drawn_from_whatever_rows_there_are(tmp_path):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    from benchmarks import plot

    curve = [record(suite="tensors", size=size) for size in (1.0, 10.0)]
    plot.save([record(), *curve], tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 1000


def test_the_rows_have_names_of_their_own_and_every_suite_has_some():
    names = [row.name for row in registry.rows(BACKEND, quick=False, only=None)]
    assert len(set(names)) == len(names)
    # Only TensorFlow has gradients of single rows.
    absent = set() if BACKEND == "tensorflow" else {"embeddings"}
    assert {name.split("/")[0] for name in names} == set(registry.SUITES) - absent


def test_rows_are_picked_by_a_part_of_their_name():
    picked = [row.name for row in registry.rows(BACKEND, quick=False, only="eager/plain/mlp")]
    assert picked == ["steps/eager/plain/mlp", "first_calls/eager/plain/mlp"]
    quick = [row.name for row in registry.rows(BACKEND, quick=True, only="eager/plain/mlp")]
    assert quick == ["steps/eager/plain/mlp"]


def test_a_first_call_is_measured_alone():
    seen = child.measure(BACKEND, "eager", "scalar", OURS)
    assert len(seen["first_calls"]) == child.FIRST_CALLS
    assert min(seen["first_calls"]) > 0.0
    assert seen["parameters"] == 1


def test_fit_is_compared_over_the_same_batches(monkeypatch):
    task = training.TASKS["mlp"]._replace(batch=4, steps=2)
    monkeypatch.setattr(training, "TASKS", {"mlp": task})
    result = training._measure("any", "mlp", TINY)
    assert result.entries["keras"].failure is None
    assert result.entries[OURS].failure is None


def test_a_process_measures_its_rows_and_the_results_are_written(tmp_path, capsys):
    picked = ["--quick", "--backend", BACKEND, "--only", "steps/eager/plain/scalar"]
    command.main([*picked, "--output", str(tmp_path)])
    assert "keras_rmsprop" in capsys.readouterr().out
    written = json.loads((tmp_path / "results.json").read_text())
    (row,) = [Record.from_json(line) for line in written["records"]]
    assert (row.backend, row.suite, row.case) == (BACKEND, "steps", "scalar")
    assert row.result.entries[OURS].figure is not None
    assert written["machine"][f"{BACKEND} runs on"]


def test_a_process_that_dies_leaves_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(command, "WORKER", Path(__file__).stem + "_missing")
    device, (row,) = command.run_worker(BACKEND, quick=True, only=None)
    assert device == "not started"
    assert row.result.entries[OURS].failure == "the process ended with code 1"


DYING_WORKER = """
import json, os, sys

skip = int(sys.argv[sys.argv.index("--skip") + 1])
with open(sys.argv[2], "w", buffering=1) as output:
    print(json.dumps({"device": "here"}), file=output)
    for case in ("first", "second", "third")[skip:]:
        print(json.dumps({"started": f"suite/mode/config/{case}"}), file=output)
        if case == "second":
            os._exit(9)
        row = {"backend": "any", "suite": "suite", "mode": "mode", "config": "config"}
        result = {"unit": "ms", "entries": {}, "comparisons": []}
        done = {**row, "case": case, "size": None, "result": result}
        print(json.dumps({"done": done}), file=output)
"""


def test_after_a_process_that_died_another_goes_on_with_the_next_row(monkeypatch, tmp_path):
    (tmp_path / "dying_worker.py").write_text(DYING_WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(command, "WORKER", "dying_worker")
    device, records = command.run_worker(BACKEND, quick=True, only=None)
    assert device == "here"
    assert [record.case for record in records] == ["first", "second", "third"]
    assert records[1].result.entries[OURS].failure == "the process ended with code 9"


def test_busy_neighbours_run_meanwhile_and_are_gone_afterwards():
    with busy.neighbours(2) as started:
        assert [process.poll() for process in started] == [None, None]
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_busy_neighbours_end_when_the_harness_is_killed():
    program = (
        "import os, time; from benchmarks import busy\n"
        "with busy.neighbours(1) as (spinning,):\n"
        "    print(spinning.pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=root
    ) as harness:
        assert harness.stdout is not None
        pid = int(harness.stdout.readline())
        harness.kill()
        deadline = time.monotonic() + 30.0
        while _is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self").exists():
        pytest.skip("asks Linux which processes there are")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_step_with_missing_gradients_is_checked_and_compared(monkeypatch):
    monkeypatch.setitem(cliffs.PROBLEMS, "24", [(3,)] * 4)
    result = cliffs._measure_missing(TINY)
    assert [entry.failure for entry in result.entries.values()] == [None, None]
    assert result.comparisons[0].target == 1.0


@pytest.mark.parametrize("scenario", ["missing gradients", "search", "first 30 steps"])
@pytest.mark.parametrize("name", [OURS, "keras"])
def test_what_is_measured_alone_arrives_at_the_right_weights(scenario, name, monkeypatch):
    monkeypatch.setitem(cliffs.PROBLEMS, "tiny", [(3,), (2, 2), (3,)])
    monkeypatch.setattr(cliffs, "OPTIMIZERS", 2)
    monkeypatch.setattr(cliffs, "SETS", 4)
    assert cliffs.report(scenario, "tiny", name)["seconds"] > 0.0


def test_what_is_measured_alone_is_found_out_if_it_goes_astray(monkeypatch):
    monkeypatch.setitem(cliffs.PROBLEMS, "tiny", [(3,)])
    monkeypatch.setattr(cliffs, "FIRST_STEPS", 3)
    monkeypatch.setattr(problems, "EPSILON", 1e-3)
    with pytest.raises(measure.DisagreementError, match="distance travelled"):
        cliffs.report("first 30 steps", "tiny", OURS)


def test_processes_of_their_own_are_paired_and_compared(monkeypatch):
    reports = {
        OURS: iter([cliffs.Report(seconds=s, left=70 * 2**20) for s in (1.0, 2.0)]),
        "keras": iter([cliffs.Report(seconds=s, left=2**20) for s in (2.0, 2.0)]),
    }
    asked = []

    def fake(module, backend, scenario, case, name):
        asked.append((scenario, name))
        return next(reports[name])

    monkeypatch.setattr(child, "in_fresh_process", fake)
    result = cliffs._measure_alone("search", "24", "ms", TINY)
    assert asked == [("search", OURS), ("search", "keras")] * 2
    assert result.comparisons == [Comparison("keras", Figure(1.5, 1.25, 1.75), target=1.0)]
    monkeypatch.setattr(
        child, "in_fresh_process",
        lambda *a: cliffs.Report(seconds=1.0, left=2**20 * (70 if a[-1] == OURS else 1)),
    )  # fmt: skip
    (memory,) = cliffs._measure_alone("search left", "24", "MiB", TINY).comparisons
    assert (memory.figure.median, memory.quantity, memory.met) == (69.0, MORE, False)


def test_a_fresh_process_that_fails_is_a_result(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no room")

    monkeypatch.setattr(child, "in_fresh_process", fail)
    result = cliffs._measure_alone("search", "24", "ms", TINY)
    assert result.entries[OURS].failure == "RuntimeError: no room"
    assert result.comparisons == []


def test_rows_measured_later_replace_their_like_in_an_earlier_run(tmp_path):
    old = [record(backend="tensorflow"), record(backend="jax"), record(backend="jax", case="x")]
    new = [record(backend="jax", case="x", size=7.0), record(backend="tensorflow", suite="cliffs")]
    data = {"machine": {"cores": "2"}, "records": [dataclasses.asdict(r) for r in old]}
    (tmp_path / "results.json").write_text(json.dumps(data))
    about, rows = command.read_results(tmp_path / "results.json", new)
    assert about == {"cores": "2"}
    assert rows == [old[0], new[1], old[1], new[0]]
