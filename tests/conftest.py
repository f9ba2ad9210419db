"""Set up every test: one backend, strict numerics, a known precision."""

import gc
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


def since_keras(version: str, reason: str) -> pytest.MarkDecorator:
    """Skip a test on supported Keras versions before `version`."""
    installed = tuple(map(int, keras.__version__.split(".")[:2]))
    older = installed < tuple(map(int, version.split(".")))
    return pytest.mark.skipif(older, reason=f"Keras {version} is the first that {reason}")


def pytest_report_header() -> str:
    """Name the backend: the suite runs once under each."""
    return f"keras {keras.__version__}, KERAS_BACKEND={BACKEND}"


@pytest.fixture(autouse=True)
def _clean_slate() -> Iterator[None]:
    """Fix Keras's seeds, and restore its global settings after the test.

    Keras derives the dtype policy from floatx once, when it is first read. Reading it here keeps
    a test that changes floatx from deciding the policy of all later tests.
    """
    keras.utils.set_random_seed(0)
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def float64(_clean_slate: None) -> None:
    """Run the test with floatx float64, so that the learning rate is exact."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Switch the garbage collector off: Python drops what is raised in its callbacks.

    An interrupt in one of them never reaches the test; hypothesis installs such a callback.
    """
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def rng() -> np.random.Generator:
    """A random generator with a fixed seed, new for each test."""
    return np.random.default_rng(0)
