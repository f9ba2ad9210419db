"""What every test starts from: one backend, strict numerics, a known precision."""

import os

# Before any framework is imported. JAX holds float64 only with x64 on.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")

from collections.abc import Iterator

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()


def pytest_report_header() -> str:
    """Name the backend: the suite runs once under each."""
    return f"keras {keras.__version__}, KERAS_BACKEND={BACKEND}"


@pytest.fixture
def float64() -> Iterator[None]:
    """Run the test with floatx float64, so that the learning rate is held exactly."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Fix the seeds that Keras's initializers and layers draw from."""
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, the test's own."""
    return np.random.default_rng(0)
