"""What the tests of steps on TensorFlow start from."""

from collections import OrderedDict

import pytest

from tests.conftest import BACKEND

# The tests of this room are skipped on other backends.
if BACKEND == "tensorflow":
    from keras_rmsprop._execution.tensorflow import _programs


@pytest.fixture(autouse=True)
def no_programs_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without compiled programs; another test's would serve this one as well."""
    monkeypatch.setattr(_programs, "_programs", OrderedDict())
