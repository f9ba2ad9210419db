"""Run the selected tests with our classes, and those that failed again with Keras's.

    KERAS_BACKEND=jax python -m tests.optimizer.as_keras.run [--report FILE] [arguments of pytest]

A test that also fails with Keras's own class says nothing about ours, so the second pass is the
control. Each pass imports the test modules anew, because they take the classes from Keras when
they are imported.
"""

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

# As Keras runs its own tests. Set before any framework is imported.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Keras's tests of distribution on JAX need eight devices.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import keras
import pytest

from tests.optimizer.as_keras import selection, stand_ins

SOURCES = Path(keras.__file__).parent / "src"


def _id(report: Any) -> str:
    """The test's id relative to Keras's sources, wherever pytest was started."""
    return str(report.nodeid).rpartition("keras/src/")[2]


class Recorder:
    """A pytest plugin that selects tests and records their results."""

    def __init__(self, only: set[str] | None = None) -> None:
        self.only = only
        self.results: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        self._before = (0, 0)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Register the marks of Keras's own configuration."""
        for mark in ("requires_trainable_backend", "multi_device"):
            config.addinivalue_line("markers", mark)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[Any]) -> None:
        """Deselect the tests that are not to be run."""
        chosen, left = [], []
        for item in items:
            test = item.nodeid
            keep = selection.selects(item) if self.only is None else test in self.only
            (chosen if keep else left).append(item)
        config.hook.pytest_deselected(items=left)
        items[:] = chosen

    def pytest_collectreport(self, report: Any) -> None:
        """Record the modules that could not be imported."""
        if report.failed:
            self.errors.append(f"{_id(report)}\n{report.longreprtext}")

    def pytest_runtest_setup(self) -> None:
        """Store the counts before the test."""
        self._before = (stand_ins.Used.made, stand_ins.Used.built)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Record the worst outcome of the three phases."""
        result = self.results.setdefault(
            _id(report), {"outcome": "passed", "text": "", "seconds": 0.0}
        )
        result["seconds"] += report.duration
        if report.outcome != "passed":
            result["outcome"] = report.outcome
            result["text"] += report.longreprtext
        if report.when == "call":
            made, built = self._before
            result["made"] = stand_ins.Used.made - made
            result["built"] = stand_ins.Used.built - built


def run_pass(recorder: Recorder, arguments: list[str]) -> None:
    """Import the modules anew and run pytest over them once."""
    modules = [module for module in selection.modules() if (SOURCES / module).exists()]
    if recorder.only is not None:
        modules = sorted({test.partition("::")[0] for test in recorder.only})
    for name in list(sys.modules):
        if name.startswith("keras.src.") and name.endswith("_test"):
            del sys.modules[name]
    pytest.main(
        [
            *("-c", os.devnull, "--rootdir", str(SOURCES), "-p", "no:cacheprovider"),
            *("-p", "no:warnings", "-q", "--tb=short", "--strict-markers"),
            *arguments,
            *(str(SOURCES / module) for module in modules),
        ],
        plugins=[recorder],
    )


def main() -> int:
    """Run both passes, print pytest's output, and write a report if a file is given."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--report", type=Path)
    options, arguments = parser.parse_known_args()

    ours = Recorder()
    with stand_ins.exchanged():
        run_pass(ours, arguments)
    failed = {test for test, result in ours.results.items() if result["outcome"] == "failed"}
    control = Recorder(only=failed)
    if failed:
        print("\nThe same tests with Keras's own classes:")
        run_pass(control, [])
    for test in failed:
        ours.results[test]["control"] = control.results[test]["outcome"]
    if options.report:
        text = json.dumps({"results": ours.results, "errors": ours.errors})
        options.report.write_text(text)
    return int(bool(failed))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
