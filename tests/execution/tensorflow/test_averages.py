"""Test that weights and averages are swapped without loss on TensorFlow."""

import contextlib
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf


@pytest.fixture(params=[None, "mirrored"])
def scope(request: pytest.FixtureRequest) -> Any:
    """The scope in which a model is made: that of no strategy, or of one."""
    if request.param is None:
        return contextlib.nullcontext()
    return tf.distribute.MirroredStrategy(["CPU:0"]).scope()


def watched(network: keras.Model) -> tuple[keras.callbacks.Callback, dict[str, list[Any]]]:
    """A callback that records the weights before, during and after each evaluation."""
    seen: dict[str, list[Any]] = {"before": [], "during": [], "after": [], "averages": []}

    def record(key: str) -> Any:
        return lambda *_, **__: seen[key].append(models.values(network.trainable_variables))

    def before(*_: Any, **__: Any) -> None:
        record("before")()
        seen["averages"].append(models.values(network.optimizer._model_variables_moving_average))

    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=before,
        on_epoch_end=record("after"),
        on_test_batch_end=record("during"),
    )
    return callback, seen


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_swapping_averages_of_half_precision_weights_loses_no_bit(dtype, scope):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        with scope:
            network = models.model()
            network.compile(
                keras_rmsprop.RMSprop(0.01, use_ema=True, ema_momentum=0.5),
                loss="mse",
                jit_compile=False,
            )
        watch, seen = watched(network)
        x, y = models.data()
        network.fit(
            x,
            y,
            batch_size=len(x),
            validation_data=(x, y),
            epochs=3,
            verbose=0,
            callbacks=[keras.callbacks.SwapEMAWeights(), watch],
        )
    finally:
        keras.config.set_dtype_policy(policy)
    for before, during, after, averages in zip(*seen.values(), strict=True):
        models.assert_identical(after, before)
        models.assert_identical(
            during, [a.astype(d.dtype) for a, d in zip(averages, during, strict=True)]
        )
        assert averages[0].dtype == np.float32
    assert not np.array_equal(seen["during"][-1][0], seen["after"][-1][0])
