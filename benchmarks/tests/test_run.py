"""A run names every row, also one in which a process died, and its files show what it found."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import psutil
import pytest

from benchmarks import __main__ as command
from benchmarks import busy, fresh, plot, report, results, summary, worker
from benchmarks.results import OURS

BACKEND = keras.backend.backend()
ROOT = Path(__file__).parents[2]


def lines(**changes):
    """A row in which ours misses one target and a peer has failed."""
    row = dict(zip(results.ROW, (BACKEND, "steps", "eager", "plain", "mlp"), strict=True))
    outcomes = {OURS: [1.0, 2.0, 3.0], "keras": [5.0, 6.0, 7.0], "torch": "does not fit"}
    row_lines = results.lines_of(
        "ms", outcomes, {"keras": [2.0, 3.0, 4.0]}, targets={"keras": 10.0}
    )
    return [row | {"size": 6.0} | changes | line for line in row_lines]


def test_the_table_shows_what_was_missed_and_what_failed():
    text = report.table(lines(), {"cores": "2"})
    assert "cores: 2" in text
    assert "3 times as fast  [2.5 3.5]" in text
    assert ">= 10   MISSED" in text
    assert "0 of 1 targets met" in text
    assert "steps/eager/plain/mlp: torch: does not fit" in text


@pytest.mark.parametrize(
    ("quantity", "verdict"),
    [(results.BREAK_EVEN, "MISSED"), (results.SMALLER, "met")],
    ids=["at most", "at least"],
)
def test_a_target_is_a_bound_on_the_right_side(quantity, verdict):
    row = results.lines_of("", {"keras": [1.0]}, {"keras": [30.0]}, quantity, {"keras": 20.0})
    assert list(report.frame_of(row)["verdict"]) == [verdict]


def test_the_picture_is_drawn_from_whatever_rows_there_are(tmp_path):
    curve = [line for n in (1.0, 10.0) for line in lines(suite="tensors", size=n)]
    for drawn in (lines() + curve, lines(suite="memory")):
        plot.save(drawn, tmp_path / "results.png")
        assert (tmp_path / "results.png").stat().st_size > 1000


def test_rows_measured_later_replace_their_like_in_an_earlier_run(tmp_path):
    first, second, third = (
        lines(backend="tensorflow"), lines(backend="jax"), lines(backend="jax", case="x"),
    )  # fmt: skip
    results.write(tmp_path / "results.json", {"cores": "2"}, first + second + third)
    about, earlier = results.read(tmp_path / "results.json")
    assert about == {"cores": "2"}
    assert earlier == first + second + third
    # A contender that is gone leaves no line behind.
    newer = lines(backend="jax", case="x", size=7.0)[:2]
    added = lines(backend="tensorflow", suite="cliffs")
    assert results.updated(earlier, newer + added) == first + added + second + newer


def test_the_tables_of_the_readme_are_those_of_the_published_run():
    _, published = results.read(summary.PUBLISHED)
    assert summary.markdown(published) in (ROOT / "README.md").read_text()


def test_the_published_table_is_that_of_the_published_run():
    about, published = results.read(summary.PUBLISHED)
    text = (summary.PUBLISHED.parent / "results.txt").read_text()
    assert report.table(published, about) + "\n" == text


def test_a_process_measures_its_rows_and_the_results_are_written(tmp_path, capsys):
    picked = ["--quick", "--backend", BACKEND, "--only", "steps/eager/plain/scalar"]
    command.main([*picked, "--output", str(tmp_path)])
    assert "keras_rmsprop" in capsys.readouterr().out
    machine, (ours, *_) = results.read(tmp_path / "results.json")
    assert results.row_of(ours) == (BACKEND, "steps", "eager", "plain", "scalar")
    assert ours["contender"] == OURS
    assert ours["median"] > 0.0
    assert machine[f"{BACKEND} runs on"]
    # Again, in place.
    command.main([*picked, "--into", str(tmp_path)])
    again, (ours, *_) = results.read(tmp_path / "results.json")
    assert ours["median"] > 0.0
    assert again.keys() - machine.keys() == {f"later, {picked[-1]} on {BACKEND}"}


def never_begins(*arguments):
    os._exit(1)


def dies_in_the_second_row(backend, quick, only, skip, *_):
    yield "device", "here"
    for case in ("first", "second", "third")[skip:]:
        yield "begun", worker._names(backend, "suite", "mode", "config", case)
        if case == "second":
            os._exit(9)
        yield "done", results.lines_of("ms", {OURS: [1.0]}, {})


def test_a_process_that_never_begins_leaves_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(worker, "work", never_begins)
    device, (line,) = worker.measure_all(BACKEND, quick=True, only=None)
    assert device == "not started"
    assert line["failure"] == "the process ended with code 1"


def test_after_a_process_that_died_another_goes_on_with_the_next_row(monkeypatch):
    monkeypatch.setattr(worker, "work", dies_in_the_second_row)
    device, found = worker.measure_all(BACKEND, quick=True, only=None)
    assert device == "here"
    assert [line["case"] for line in found] == ["first", "second", "third"]
    assert [line.get("failure") for line in found] == [None, "the process ended with code 9", None]


def counts_and_fails(start):
    yield from (start, os.getpid())
    raise MemoryError("no room")


def test_a_fresh_process_hands_over_what_its_function_yields_and_how_it_failed():
    told = fresh.stream(counts_and_fails, 3)
    assert next(told) == 3
    assert next(told) != os.getpid()
    with pytest.raises(fresh.ProcessDiedError, match="MemoryError: no room"):
        next(told)


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
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as harness:
        assert harness.stdout is not None
        spinning = psutil.Process(int(harness.stdout.readline()))
        harness.kill()
    deadline = time.monotonic() + 30.0
    while is_running(spinning) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(spinning)


def is_running(of: psutil.Process) -> bool:
    try:
        return of.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
