"""Test that a training whose process was killed ends with the uninterrupted weights.

A process of its own trains until it is killed by SIGKILL, which it cannot handle. This process
then goes on from the files on disk, with new objects, and compares the weights bit by bit with
those of a training that was not killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.models import Array

EPOCHS = 5
STEPS = 60
SEED = 20


def network() -> keras.Sequential:
    """Return a compiled model whose optimizer has every slot and counts accumulated calls."""
    model = models.model()
    optimizer = keras_rmsprop.RMSprop(
        keras.optimizers.schedules.ExponentialDecay(2.0**-6, 7, 0.5),
        momentum=0.5,
        centered=True,
        lr_in_momentum=False,
        weight_decay=0.125,
        use_ema=True,
        ema_momentum=0.75,
        gradient_accumulation_steps=3,
        skip_nonfinite=True,
    )
    model.compile(optimizer, loss="mse")
    return model


def fit(
    model: keras.Model, callbacks: list[keras.callbacks.Callback], initial_epoch: int = 0
) -> list[Array]:
    """Train to the last epoch without shuffling, and return the weights."""
    x, y = models.data()
    model.fit(
        x,
        y,
        batch_size=models.BATCH,
        initial_epoch=initial_epoch,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model.get_weights()


def loop(folder: Path, after_step: Callable[[int], None]) -> list[Array]:
    """Train with a GradientTape from the newest checkpoint on, saving every other step."""
    import tensorflow as tf

    x, y = models.data()
    model = network()
    rule = model.optimizer
    rule.build(model.trainable_variables)
    done = tf.Variable(0)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=rule, done=done)
    manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=3)
    manager.restore_or_initialize()
    while int(done) < STEPS:
        batch = (int(done) * models.BATCH + np.arange(models.BATCH)) % len(x)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x[batch]) - y[batch]) ** 2)
        weights = model.trainable_variables
        rule.apply(tape.gradient(loss, weights), weights)
        done.assign_add(1)
        if int(done) % 2 == 0:
            manager.save()
        after_step(int(done))
    return model.get_weights()


# Run in the process that is killed.


class Stop(keras.callbacks.Callback):
    """A callback that stops a training after some batches, not at the end of an epoch."""

    def __init__(self, batches: int, stop: Callable[[], Any]) -> None:
        super().__init__()
        self.left = batches
        self.stop = stop

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Count a batch."""
        self.left -= 1
        if self.left == 0:
            self.stop()


def kill_this_process() -> None:
    """End this process by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def saving_callbacks(folder: Path) -> list[keras.callbacks.Callback]:
    """Return both of Keras's callbacks that save a training."""
    return [
        keras.callbacks.BackupAndRestore(str(folder / "backup"), double_checkpoint=True),
        keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.keras")),
    ]


def fit_until_killed(folder: str, batches: str) -> None:
    """Train with both callbacks for some batches, then kill this process."""
    stop = Stop(int(batches), kill_this_process)
    fit(network(), [*saving_callbacks(Path(folder)), stop])


def loop_until_killed(folder: str) -> None:
    """Train, printing each step, until this process is killed."""
    loop(Path(folder), lambda step: print(step, flush=True))
    time.sleep(600.0)


def process(function: Callable[..., None], *arguments: Any) -> subprocess.Popen[str]:
    """Start a Python process that calls a function of this module."""
    code = f"import sys; from {__name__} import {function.__name__} as f; f(*sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_killed(child: subprocess.Popen[str]) -> None:
    """Fail unless the process ended by SIGKILL, showing why it ended otherwise."""
    _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors


# The tests.


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The files of a training killed within an epoch, and the number of complete epochs."""
    folder = tmp_path_factory.mktemp("killed")
    # At least one epoch is complete and saved, and the last is not.
    moment = np.random.default_rng(SEED).integers(models.BATCHES + 1, EPOCHS * models.BATCHES)
    with process(fit_until_killed, folder, moment) as child:
        assert_killed(child)
    return folder, (int(moment) - 1) // models.BATCHES


@pytest.fixture(scope="module")
def uninterrupted():
    """The weights of the training that is not killed."""
    return fit(network(), [])


def recording_epochs(begun: list[int]) -> keras.callbacks.Callback:
    """Return a callback that records the epochs that begin."""
    return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, *_: begun.append(epoch))


def test_backup_and_restore_ends_with_the_uninterrupted_weights(killed, uninterrupted):
    folder, epochs = killed
    begun: list[int] = []
    callbacks = [saving_callbacks(folder)[0], recording_epochs(begun)]
    models.assert_identical(fit(network(), callbacks), uninterrupted)
    assert begun == list(range(epochs, EPOCHS)), "it did not go on from the backup"


def test_model_checkpoint_ends_with_the_uninterrupted_weights(killed, uninterrupted):
    folder, epochs = killed
    assert not (folder / f"{epochs + 1}.keras").exists()
    model = keras.saving.load_model(folder / f"{epochs}.keras")
    assert int(model.optimizer.iterations) == epochs * models.BATCHES // 3
    models.assert_identical(fit(model, [], initial_epoch=epochs), uninterrupted)


def interrupt() -> None:
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


def test_the_previous_backup_is_used_if_the_last_is_truncated(tmp_path, uninterrupted):
    callbacks = saving_callbacks(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), [*callbacks, Stop(3 * models.BATCHES + 1, interrupt)])
    newest = tmp_path / "backup" / "latest.weights.h5"
    newest.write_bytes(newest.read_bytes()[:-200])

    begun: list[int] = []
    callbacks = [saving_callbacks(tmp_path)[0], recording_epochs(begun)]
    models.assert_identical(fit(network(), callbacks), uninterrupted)
    assert begun == [2, 3, 4]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a format of TensorFlow's")
def test_checkpoint_manager_ends_with_the_uninterrupted_weights(tmp_path):
    rng = np.random.default_rng(SEED)
    last = int(rng.integers(5, STEPS - 20))
    with process(loop_until_killed, tmp_path / "killed") as child:
        for line in child.stdout:
            if int(line) == last:
                break
        # A random moment of a step or a save, which take a few milliseconds each.
        time.sleep(rng.uniform(0.0, 0.05))
        child.kill()
        assert_killed(child)

    made: list[int] = []
    got = loop(tmp_path / "killed", made.append)
    assert last - 1 <= made[0] <= STEPS, "it did not go on from a checkpoint"
    models.assert_identical(got, loop(tmp_path / "uninterrupted", lambda _: None))
