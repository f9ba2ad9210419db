"""Test that Keras's own tests of optimizers and of their uses pass with this package's class.

They run once, in a process of their own: they are written for Keras's pytest configuration and
not for this suite's (x64 is off, warnings are not errors), they reset TensorFlow's context, change
global state of Keras, and need eight devices on JAX. The results are checked here, module by
module, with the tracebacks of failures. `python -m tests.optimizer.as_keras.run -k NAME` runs some
of them with pytest's own output.
"""

import collections
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest

from tests.conftest import BACKEND
from tests.optimizer.as_keras import selection

SOURCES = Path(keras.__file__).parent / "src"

if not keras.__version__.startswith("3.15."):
    pytest.skip("the tables are for the tests of Keras 3.15", allow_module_level=True)
if not (SOURCES / "optimizers" / "rmsprop_test.py").exists():
    pytest.skip("the installed Keras comes without its tests", allow_module_level=True)
if importlib.util.find_spec("absl.testing") is None:
    pytest.skip("Keras's tests need absl-py", allow_module_level=True)

Result = dict[str, Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """The result of each test, by its id relative to Keras's sources."""
    report = tmp_path_factory.mktemp("as_keras") / "report.json"
    # JAX's x64 mode and pytest's options are meant for this suite only.
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTEST_", "JAX_ENABLE_X64"))
    }
    run = subprocess.run(
        [sys.executable, "-m", "tests.optimizer.as_keras.run", "--report", str(report)],
        cwd=Path(__file__).parents[3],
        env={**environment, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
    )
    if not report.exists():
        pytest.fail(f"Keras's tests did not run to their end:\n{run.stdout}{run.stderr}")
    content = json.loads(report.read_text())
    assert not content["errors"], "\n".join(content["errors"])
    return content["results"]


def failed(result: Result) -> bool:
    """Return whether a test fails with our class and passes with Keras's."""
    return result["outcome"] == "failed" and result["control"] == "passed"


def passed(result: Result) -> bool:
    """Return whether a test passes and made one of our optimizers."""
    return result["outcome"] == "passed" and result["made"] > 0


def here(table: tuple[selection.Row, ...]) -> list[Any]:
    """The rows that concern this backend, each as a test's parameter."""
    return [pytest.param(row, id=row.pattern) for row in table if BACKEND in row.backends]


def of_row(results: dict[str, Result], row: selection.Row) -> dict[str, Result]:
    """The results of the tests that a row matches."""
    return {t: r for t, r in results.items() if selection.matches(t, row.pattern)}


@pytest.mark.parametrize("module", [m for m in selection.modules() if (SOURCES / m).exists()])
def test_keras_own_tests_pass(results, module):
    named = [row.values[0] for row in here(selection.CANNOT_PASS) + here(selection.KNOWN_BUGS)]
    texts = [
        f"{test}\n{result['text']}"
        for test, result in results.items()
        if test.startswith(f"{module}::")
        and failed(result)
        and not any(selection.matches(test, row.pattern) for row in named)
    ]
    assert not texts, "\n\n".join(texts)


@pytest.mark.parametrize("row", here(selection.CANNOT_PASS))
def test_tests_that_cannot_pass_still_fail(results, row):
    about = of_row(results, row)
    assert about, "no test matches this pattern"
    wrong = [test for test, result in about.items() if not failed(result)]
    assert not wrong, f"these do not fail, or fail with Keras's class too: {wrong}"


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(*p.values, id=p.id, marks=pytest.mark.xfail(reason=p.values[0].reason))
        for p in here(selection.KNOWN_BUGS)
    ],
)
def test_a_known_bug_is_fixed(results, row):
    about = of_row(results, row)
    assert all(passed(result) for result in about.values())


def test_enough_tests_used_our_class(results):
    used = collections.Counter(t.split("/")[0] for t, r in results.items() if passed(r))
    print(f"{sum(used.values())} tests passed with our class: {dict(used)}")
    assert sum(used.values()) >= selection.LEAST_PASSED
    assert all(used[part] for part in ("optimizers", "callbacks", "saving", "models", "trainers"))
    # Without a build no step was made, and little was tested.
    built = sum(passed(result) and result["built"] > 0 for result in results.values())
    assert built >= selection.LEAST_PASSED // 2


def test_the_control_passes(results):
    both = [t for t, r in results.items() if r["outcome"] == "failed" and not failed(r)]
    if both:
        pytest.skip(f"these fail with Keras itself, on this machine: {both}")
