"""Test that a saved and loaded training goes on bit for bit as if it had not stopped."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="a format of TensorFlow's")
# For tests that do not depend on how `fit` runs.
QUICKEST = {"jit_compile": BACKEND == "jax"}


def optimizer() -> keras_rmsprop.RMSprop:
    """Return an optimizer with every slot, which makes a step in every third call."""
    return keras_rmsprop.RMSprop(
        keras.optimizers.schedules.ExponentialDecay(2.0**-6, 3, 0.5),
        centered=True,
        momentum=0.5,
        nesterov=True,
        lr_in_momentum=False,
        epsilon_inside_sqrt=False,
        initial_square_average=1.0,
        weight_decay=0.125,
        global_clipnorm=0.5,
        use_ema=True,
        ema_momentum=0.75,
        gradient_accumulation_steps=3,
    )


# A user's new process, which only imports the package.
GO_ON = """
import sys
import keras
import numpy as np
import keras_rmsprop

network = keras.saving.load_model("model.keras")
data = np.load("data.npz")
network.fit(data["x"], data["y"], batch_size=8, epochs=2, shuffle=False, verbose=0)
np.savez("weights.npz", *network.get_weights())
np.savez("state.npz", *[keras.ops.convert_to_numpy(v) for v in network.optimizer.variables])
"""


def test_a_model_saved_to_keras_goes_on_in_a_new_process(tmp_path):
    network = models.model()
    models.fit(network, optimizer())
    network.save(tmp_path / "model.keras")
    x, y = models.data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    want = models.go_on(network)

    package = Path(keras_rmsprop.__file__).parent.parent
    command = [sys.executable, "-W", "error::UserWarning", "-c", GO_ON]
    child = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    models.assert_identical(np.load(tmp_path / "weights.npz").values(), want)
    models.assert_identical(
        np.load(tmp_path / "state.npz").values(), models.values(network.optimizer.variables)
    )


def test_weights_saved_to_h5_include_the_optimizer(tmp_path):
    network = models.model()
    models.fit(network, optimizer(), **QUICKEST)
    network.save_weights(tmp_path / "all.weights.h5")
    want = models.go_on(network)

    other = models.model()
    other.compile(optimizer(), loss="mse", **QUICKEST)
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "all.weights.h5")
    models.assert_identical(models.go_on(other), want)


def test_a_model_that_scales_its_loss_is_saved_with_both_optimizers(tmp_path):
    network = models.model()
    scaling = keras.optimizers.LossScaleOptimizer(optimizer(), initial_scale=1024.0)
    models.fit(network, scaling, **QUICKEST)
    network.save(tmp_path / "model.keras")
    want = models.go_on(network)

    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer.inner_optimizer, keras_rmsprop.RMSprop)
    models.assert_identical(models.go_on(loaded), want)


def test_a_model_compiled_by_the_registered_name_trains():
    network = models.model()
    start = network.get_weights()
    got = models.fit(network, "keras_rmsprop>RMSprop", **QUICKEST)
    assert type(network.optimizer) is keras_rmsprop.RMSprop
    want = models.fit(models.model(), keras_rmsprop.RMSprop(), **QUICKEST)
    models.assert_identical(got, want)
    assert not np.array_equal(got[0], start[0])


@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter:DeprecationWarning")
def test_an_exported_model_predicts_without_its_optimizer(tmp_path):
    if BACKEND == "torch":
        pytest.skip("Keras exports torch models through packages that we do not need")
    import tensorflow as tf

    network = models.model()
    models.fit(network, optimizer(), epochs=1, **QUICKEST)
    network.export(tmp_path / "exported", verbose=False)
    x, _ = models.data()
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(
        exported.serve(tf.constant(x)), network.predict(x, verbose=0), rtol=1e-5
    )


def tape_step(network: Any, rule: Any) -> Any:
    """Return a function that makes one step of a GradientTape loop on a batch."""
    import tensorflow as tf

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean((network(x) - y) ** 2)
        weights = network.trainable_variables
        rule.apply(tape.gradient(value, weights), weights)

    return step


@on_tensorflow
@pytest.mark.parametrize("built", [False, True], ids=["restored before build", "after build"])
def test_a_checkpoint_goes_on_in_fresh_objects(tmp_path, built):
    import tensorflow as tf

    x, y = (tf.constant(array) for array in models.data())
    network, rule = models.model(), optimizer()
    step = tape_step(network, rule)
    for _ in range(4):
        step(x, y)
    saved = tf.train.Checkpoint(model=network, optimizer=rule).save(str(tmp_path / "checkpoint"))
    for _ in range(4):
        step(x, y)

    fresh, fresh_rule = models.model(), optimizer()
    if built:
        fresh_rule.build(fresh.trainable_variables)
    status = tf.train.Checkpoint(model=fresh, optimizer=fresh_rule).restore(saved)
    if not built:
        fresh_rule.build(fresh.trainable_variables)
    status.assert_consumed()
    step = tape_step(fresh, fresh_rule)
    for _ in range(4):
        step(x, y)
    models.assert_identical(fresh.get_weights(), network.get_weights())
    models.assert_identical(models.values(fresh_rule.variables), models.values(rule.variables))


@on_tensorflow
def test_a_saved_module_goes_on_training(tmp_path):
    import tensorflow as tf

    class Trainer(tf.Module):
        """A model that is trained by a function of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.model = models.model()
            self.optimizer = optimizer()
            self.optimizer.build(self.model.trainable_variables)
            signature = [tf.TensorSpec((None, 3)), tf.TensorSpec((None, 1))]
            self.step = tf.function(tape_step(self.model, self.optimizer), signature)

        @tf.function(input_signature=[])
        def state(self) -> list[Any]:
            """Return all variables; a loaded module does not have them by name."""
            variables = [*self.model.variables, *self.optimizer.variables]
            return [tf.convert_to_tensor(variable) for variable in variables]

    x, y = (tf.constant(array) for array in models.data())
    trainer = Trainer()
    for _ in range(4):
        trainer.step(x, y)
    tf.saved_model.save(trainer, str(tmp_path / "module"))
    loaded = tf.saved_model.load(str(tmp_path / "module"))
    for _ in range(4):
        trainer.step(x, y)
        loaded.step(x, y)
    models.assert_identical(loaded.state(), trainer.state())
