"""Fixtures of the tests of steps on TensorFlow."""

from collections import OrderedDict

import pytest

from tests.conftest import BACKEND

# The tests in this folder are skipped on other backends.
if BACKEND == "tensorflow":
    from keras_rmsprop._execution.tensorflow import _programs


@pytest.fixture(autouse=True)
def no_programs_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without compiled programs, which tests would otherwise share."""
    monkeypatch.setattr(_programs, "_programs", OrderedDict())
