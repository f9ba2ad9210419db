"""Test what a browser shows of a training, healthy or with a planted fault."""

import csv
import logging
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.tools import browser as chromium

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "examples" / "characters.py"
FAULTS = ("none", "rate", "dead-layer")
CHARTS = ("ratios", "norms", "rates", "layers", "shares", "counts")


class Run(NamedTuple):
    """What a training has left."""

    status: object
    printed: str
    # What the callback warned of at the end of epochs.
    logged: list[str]
    folder: Path


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def runs(output: Path) -> dict[str, Run]:
    """A short training with each fault."""
    return {fault: train(fault, output) for fault in FAULTS}


def train(fault: str, output: Path) -> Run:
    logged: list[str] = []
    logger = logging.getLogger("keras_rmsprop.callbacks")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.syspath_prepend(SCRIPT.parent)
        arguments = ["--quick", "--fault", fault, "--output", str(output)]
        patch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        patch.setattr(logger, "warning", lambda form, *words: logged.append(form % words))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    return Run(end.value.code, printed.getvalue(), logged, output / "characters" / fault)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    """A browser without a screen."""
    if chromium.missing():
        pytest.skip(str(chromium.missing()))
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


# In words.


def test_a_healthy_training_raises_no_warning_in_any_epoch(runs: dict[str, Run]) -> None:
    run = runs["none"]
    assert run.status == 0, run.printed
    assert "ok      no warning is raised" in run.printed
    assert run.logged == []


@pytest.mark.parametrize(
    ("fault", "ailment", "where"),
    [
        ("rate", "too large updates", r"\d variables"),
        ("dead-layer", "dead gradients", "2 variables, the worst hidden/kernel"),
    ],
)
def test_a_planted_fault_is_named_first(
    runs: dict[str, Run], fault: str, ailment: str, where: str
) -> None:
    run = runs[fault]
    assert run.status == 0, run.printed
    assert re.findall(r"^Warning: (.*)$", run.printed, re.MULTILINE)[0] == ailment
    assert re.match(rf"Warning: {ailment}\. {where}", run.logged[0])


def test_the_learning_rate_of_the_fault_is_a_hundred_times_the_healthy_one(
    runs: dict[str, Run],
) -> None:
    rates = {fault: rows_of(run)[-1]["learning_rate"] for fault, run in runs.items()}
    assert float(rates["rate"]) == pytest.approx(100.0 * float(rates["none"]), rel=1e-6)
    assert rates["dead-layer"] == rates["none"]


def test_the_csv_has_a_row_for_each_sampled_step_and_variable(runs: dict[str, Run]) -> None:
    for run in runs.values():
        rows = rows_of(run)
        steps, variables = ({row[name] for row in rows} for name in ("step", "variable"))
        assert len(variables) == 1 + 8
        assert {"(all)", "hidden/kernel"} <= variables
        assert len(rows) == len(steps) * len(variables) == 20 * 9


def rows_of(run: Run) -> list[dict[str, str]]:
    with (run.folder / "diagnostics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# In a browser.

# The name of each chart, and how many lines, points and maps are drawn in it.
DRAWN = """Array.from(document.querySelectorAll('.js-plotly-plot')).map(chart => [
    chart.id,
    chart.querySelectorAll('path.js-line, path.point, .hm image').length,
])"""

# How many histograms TensorBoard has drawn, in elements inside of elements.
HISTOGRAMS = """
const find = (root, selector) => [
    ...root.querySelectorAll(selector),
    ...[...root.querySelectorAll('*')].flatMap(
        element => element.shadowRoot ? find(element.shadowRoot, selector) : []
    ),
];
return find(document, 'vz-histogram-timeseries')
    .filter(element => find(element.shadowRoot, 'path').length > 1).length
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("none", ["What is wrong: nothing found"]),
        ("rate", ["Warning: too large updates", "What to do: a tenth of the learning rate"]),
        ("dead-layer", ["Warning: dead gradients", "In hidden/kernel, hidden/bias"]),
    ],
)
def test_the_page_shows_its_charts_and_says_what_is_wrong(
    runs: dict[str, Run], browser: chromium.Browser, fault: str, said: list[str]
) -> None:
    page = runs[fault].folder / "diagnostics.html"
    browser.open(page.as_uri())
    names = [f"chart-{name}" for name in CHARTS]
    browser.wait_until(
        "what the charts draw",
        lambda: [name for name, drawn in browser.run(f"return {DRAWN}") if drawn] == names,
    )
    for sentence in said:
        assert sentence in browser.text
    assert ("Warning:" in browser.text) == (fault != "none")

    asked, failed = browser.requests()
    assert failed == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.complaints("WARNING", "SEVERE") == []

    browser.fit_page()
    browser.wait_until("colours", lambda: all(colourful_parts(browser, ".js-plotly-plot")))


def test_tensorboard_shows_the_runs(
    runs: dict[str, Run], output: Path, browser: chromium.Browser, tmp_path: Path
) -> None:
    with tensorboard(output / "characters", tmp_path / "log") as url:
        browser.open(f"{url}#timeseries")
        # All that it shows comes one after the other.
        browser.wait_for("the last step", "return /\\b58\\b/.test(document.body.innerText)")
        shown = {*(f"{fault}/tensorboard/optimizer" for fault in FAULTS), "gradient_norm"}
        browser.wait_until("runs", lambda: all(name in browser.text for name in shown))
        browser.wait_until("a line", lambda: colourful_parts(browser, "scalar-card canvas")[0])

        browser.open(f"{url}#histograms")
        browser.wait_until("histograms", lambda: browser.run(HISTOGRAMS) >= len(FAULTS))
        _, failed = browser.requests()
        assert failed == []
        assert browser.complaints("SEVERE") == []


@contextmanager
def tensorboard(folder: Path, log: Path) -> Iterator[str]:
    """Serve a folder during the block; gives the address."""
    arguments = ["--logdir", str(folder), "--host", "localhost", "--port", "0"]
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", *arguments], stdout=file, stderr=file
        )
    try:
        while not (found := re.search(r"http://localhost:\d+/", log.read_text("utf-8"))):
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(0.2)
        yield found[0]
    finally:
        server.terminate()
        server.wait()


def colourful_parts(browser: chromium.Browser, selector: str) -> list[bool]:
    """Return whether there are colours in each element, as in a chart with lines."""
    script = """
        return Array.from(document.querySelectorAll(arguments[0])).map(element => {
            const box = element.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
        })
    """
    shot = browser.screenshot()
    found = []
    for box in browser.run(script, selector):
        left, top, right, bottom = map(round, box)
        pixels = shot[top:bottom, left:right].astype(int)
        is_coloured = pixels.max(axis=-1, initial=0) - pixels.min(axis=-1, initial=255) > 60
        found.append(np.count_nonzero(is_coloured) > 100)
    return found or [False]
