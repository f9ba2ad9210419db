"""Test which memory a step on JAX writes to, and when it keeps a second copy."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.twins import Training

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)

import jax
import jax.numpy as jnp

from keras_rmsprop._execution.jax import _memory
from tests.tools.steps_jax import SLOTS, arrays


def test_steps_write_alternately_to_two_buffers(compiled_calls):
    training = Training(SLOTS)
    seen = []
    for t in range(8):
        training.step(t)
        owners = training.optimizer._roster.variables
        seen.append([v.value.unsafe_buffer_pointer() for v in owners])
    assert seen[4:6] == seen[6:8]
    assert not set(seen[6]) & set(seen[7])
    assert len(compiled_calls) == 6


def test_without_a_second_copy_nothing_is_kept_and_no_bit_changes(monkeypatch):
    kept, other = Training(SLOTS), Training(SLOTS)
    for t in range(6):
        kept.step(t)
    monkeypatch.setenv("KERAS_RMSPROP_JAX_SECOND_COPY", "0")
    snapshots = []
    for t in range(6):
        other.step(t)
        references = [weakref.ref(array) for array in arrays(other)]
        # Aliases that JAX makes without any sign of it stay readable, too.
        snapshots += [(jax.device_put(x, jax.devices()[0]), np.array(x)) for x in arrays(other)]
    models.assert_identical(other.state(), kept.state())
    other.step(6)
    rate = other.optimizer._learning_rate.value
    assert all(r() is None or r() is rate for r in references)
    for snapshot, value in snapshots:
        np.testing.assert_array_equal(snapshot, value)


def test_large_arrays_have_a_second_copy_if_it_takes_at_most_an_eighth_of_the_memory(monkeypatch):
    large = jnp.ones(_memory.LARGE // 4, "float32")
    arrays = [large, jnp.ones(_memory.LARGE // 4 - 1, "float32"), large]
    monkeypatch.setenv("KERAS_RMSPROP_JAX_SECOND_COPY", "auto")
    needed = 2 * _memory.LARGE
    for memory, reused in ((8 * needed, [0, 2]), (8 * needed - 1, [])):
        monkeypatch.setattr(_memory, "_memory_of", lambda _, memory=memory: memory)
        assert _memory.reusable(arrays) == reused
    for setting, reused in (("0", []), ("1", [0, 1, 2]), ("auto", [])):
        monkeypatch.setenv("KERAS_RMSPROP_JAX_SECOND_COPY", setting)
        assert _memory.reusable(arrays) == reused


def test_an_alias_is_found_although_another_array_is_deleted_meanwhile(monkeypatch):
    first, second, other = (jnp.ones(8) * n for n in range(3))
    alias = jax.device_put(second, jax.devices()[0])
    other.delete()
    live = jax.live_arrays()
    monkeypatch.setattr(jax, "live_arrays", lambda _: [other, *live])
    assert _memory.with_aliases([first, second]) == {1}
    assert _memory.with_aliases([first]) == set()
    del alias


def test_the_memory_of_the_device_is_found():
    size = _memory._memory_of(jax.devices()[0])
    assert 2**20 < size < 2**50


def test_an_unreferenced_optimizer_is_freed():
    def train() -> list[weakref.ref[Any]]:
        training = Training({"clipnorm": 1.0})
        for t in range(6):
            training.step(t)
        # A reference cycle, which a program may make and a cache must not turn into a leak.
        training.variables[0].owner = training.optimizer
        array = training.optimizer._square_averages[1].value
        return [weakref.ref(x) for x in (training.optimizer, training.variables[0], array)]

    references = train()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
