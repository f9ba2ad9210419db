"""Callbacks that read or change the optimizer or its model."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario
from tests.tools import models


def history(network: keras.Model, callbacks: list[Any], **options: Any) -> dict[str, Any]:
    """Fit a compiled network with these callbacks, and return its losses and weights."""
    x, y = models.data()
    arguments = {"batch_size": models.BATCH, "epochs": 4, "shuffle": False, "verbose": 0}
    fitted = network.fit(x, y, callbacks=callbacks, **{**arguments, **options})
    return {"logs": fitted.history, "weights": network.get_weights()}


def compiled(optimizer: Any, **options: Any) -> keras.Model:
    """The usual small network, compiled."""
    network = models.model()
    network.compile(optimizer, loss="mse", **options)
    return network


@scenario()
def training_stops_early_and_goes_back_to_the_best_weights(RMSprop: Any, folder: Path) -> Any:
    stop = keras.callbacks.EarlyStopping(
        monitor="val_loss", patience=1, restore_best_weights=True, min_delta=10.0
    )
    network = compiled(RMSprop(0.5))
    first = history(network, [stop], epochs=6, validation_data=models.data())
    assert len(first["logs"]["loss"]) < 6
    return [first, history(network, [])]


@scenario()
def the_rate_falls_on_a_plateau(RMSprop: Any, folder: Path) -> Any:
    network = compiled(RMSprop(0.01))
    fall = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0)
    result = history(network, [fall])
    return [result, float(network.optimizer.learning_rate)]


@scenario()
def a_scheduler_sets_the_rate_at_each_epoch(RMSprop: Any, folder: Path) -> Any:
    scheduler = keras.callbacks.LearningRateScheduler(lambda _, rate: rate * 0.5)
    return history(compiled(RMSprop(0.02)), [scheduler])


@scenario()
def a_callback_warms_the_rate_up_at_each_batch(RMSprop: Any, folder: Path) -> Any:
    class WarmUp(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            rate = 0.001 * (1 + int(self.model.optimizer.iterations))
            self.model.optimizer.learning_rate.assign(rate)

    return history(compiled(RMSprop(0.0)), [WarmUp()])


@scenario()
def a_rate_finder_runs_and_restores_the_weights(RMSprop: Any, folder: Path) -> Any:
    class Finder(keras.callbacks.Callback):
        def on_train_begin(self, _logs: Any = None) -> None:
            self.start = self.model.get_weights()
            self.model.optimizer.learning_rate = 1e-5

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            optimizer = self.model.optimizer
            optimizer.learning_rate = float(optimizer.learning_rate) * 2.0

        def on_train_end(self, _logs: Any = None) -> None:
            self.model.set_weights(self.start)

    network = compiled(RMSprop())
    found = history(network, [Finder()], epochs=2)
    network.optimizer.learning_rate = 0.01
    return [found, history(network, [])]


@scenario()
def a_loss_that_is_nan_ends_training(RMSprop: Any, folder: Path) -> Any:
    network = compiled(RMSprop(0.01))
    x, y = models.data()
    y[models.BATCH] = np.nan
    network.fit(
        x,
        y,
        batch_size=models.BATCH,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    assert network.stop_training
    return [np.isnan(network.get_weights()[0]).all().item(), int(network.optimizer.iterations)]


class StoppedError(Exception):
    """An error that stops a training in the middle."""


class StopAt(keras.callbacks.Callback):
    """A callback that raises at the beginning of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch: int, _logs: Any = None) -> None:
        """Raise in the chosen epoch."""
        if epoch == self.epoch:
            raise StoppedError


@scenario()
def a_stopped_training_resumes_from_its_backup(RMSprop: Any, folder: Path) -> Any:
    try:
        network = compiled(RMSprop(0.01, momentum=0.5))
        backup = keras.callbacks.BackupAndRestore(folder / "backup")
        history(network, [backup, StopAt(2)])
    except StoppedError:
        pass
    network = compiled(RMSprop(0.01, momentum=0.5))
    resumed = history(network, [keras.callbacks.BackupAndRestore(folder / "backup")])
    whole = history(compiled(RMSprop(0.01, momentum=0.5)), [])
    assert len(resumed["logs"]["loss"]) == 2
    for got, want in zip(resumed["weights"], whole["weights"], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return resumed


@scenario()
def the_best_model_is_kept_and_loaded(RMSprop: Any, folder: Path) -> Any:
    network = compiled(RMSprop(0.01))
    keep = keras.callbacks.ModelCheckpoint(
        folder / "best.keras", monitor="loss", save_best_only=True
    )
    first = history(network, [keep])
    network = keras.models.load_model(folder / "best.keras")
    return [first, history(network, [])]


@scenario()
def averaged_weights_are_swapped_in_for_validation(RMSprop: Any, folder: Path) -> Any:
    network = compiled(RMSprop(0.01, use_ema=True, ema_momentum=0.5))
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    keep = keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True)
    return history(network, [swap, keep], validation_data=models.data(), epochs=3)


@scenario()
def a_callback_predicts_evaluates_and_saves_during_an_epoch(RMSprop: Any, folder: Path) -> Any:
    seen: list[Any] = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                x, y = models.data()
                seen.append(self.model.predict(x, verbose=0))
                seen.append(self.model.evaluate(x, y, verbose=0))
                self.model.save(folder / "amid.keras")

    result = history(compiled(RMSprop(0.01)), [Look()], epochs=2)
    amid = keras.models.load_model(folder / "amid.keras")
    return [seen, result, models.go_on(amid)]


@scenario()
def weights_are_set_in_a_callback(RMSprop: Any, folder: Path) -> Any:
    class Shrink(keras.callbacks.Callback):
        def on_epoch_end(self, _epoch: int, _logs: Any = None) -> None:
            self.model.set_weights([0.5 * w for w in self.model.get_weights()])

    return history(compiled(RMSprop(0.01)), [Shrink()])
