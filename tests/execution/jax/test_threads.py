"""Test what another thread reads while steps on JAX are made."""

import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.conftest import BACKEND
from tests.tools import twins
from tests.tools.twins import Training

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

import jax.numpy as jnp

from keras_rmsprop._execution.jax import _values
from tests.tools.steps_jax import SLOTS


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Let Python switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_a_snapshot_taken_by_another_thread_is_of_one_step():
    training = Training({"learning_rate": 0.0, "gradient_accumulation_steps": 10**6})
    ones = [jnp.ones(shape) for shape in twins.SHAPES]
    for _ in range(3):
        training.apply(ones)
    sums = [p.accumulator for p in training.optimizer._roster.parameters]
    owners = [*sums, training.optimizer._iterations]
    seen = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.append([float(np.max(x)) for x in _values.snapshot(owners)])

    reader = threading.Thread(target=look)
    reader.start()
    while len(seen) < 2000:
        training.apply(ones)
    done.set()
    reader.join()
    assert [values for values in seen if len(set(values)) > 1] == []


def test_another_thread_reads_while_steps_are_made():
    training = Training(SLOTS)
    for t in range(3):
        training.step(t)
    owners = [*training.variables, *training.optimizer.variables]
    failures: list[BaseException] = []
    reads = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                for owner in owners:
                    assert np.isfinite(np.array(owner.value)).all()
                training.optimizer.state_dict()
                reads.append(None)
        except BaseException as failure:
            failures.append(failure)

    reader = threading.Thread(target=look)
    reader.start()
    t = 3
    while t < 100 or (len(reads) < 20 and not failures):
        training.step(t)
        t += 1
    done.set()
    reader.join()
    assert not failures
