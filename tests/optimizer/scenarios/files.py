"""Models, weights and optimizers that are saved and loaded while a program runs."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario
from tests.tools import models


def _fitted(RMSprop: Any, **options: Any) -> keras.Model:
    model = models.model()
    models.fit(model, RMSprop(0.01, **options), epochs=1)
    return model


@scenario()
def weights_are_loaded_for_fine_tuning_with_a_schedule_of_its_own(
    RMSprop: Any, folder: Path
) -> Any:
    _fitted(RMSprop).save_weights(folder / "all.weights.h5")
    model = models.model()
    rate = keras.optimizers.schedules.CosineDecay(0.001, 6)
    model.compile(RMSprop(rate), loss="mse")
    model.load_weights(folder / "all.weights.h5")
    models.go_on(model)
    assert int(model.optimizer.iterations) == 2 * models.BATCHES
    return model.get_weights()


@scenario()
def a_rate_is_assigned_after_weights_were_loaded(RMSprop: Any, folder: Path) -> Any:
    _fitted(RMSprop).save_weights(folder / "all.weights.h5")
    model = models.model()
    model.compile(RMSprop(0.01), loss="mse")
    model.load_weights(folder / "all.weights.h5")
    model.optimizer.learning_rate = 0.002
    models.go_on(model)
    np.testing.assert_allclose(float(model.optimizer.learning_rate), 0.002, rtol=1e-6)
    return model.get_weights()


@scenario()
def a_training_goes_on_from_its_backup(RMSprop: Any, folder: Path) -> Any:
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, _logs: Any = None) -> None:
            if epoch == 1:
                raise RuntimeError("the machine is gone")

    def train(callbacks: Any) -> keras.Model:
        model = models.model()
        backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
        models.fit(model, RMSprop(0.01), epochs=3, callbacks=[backup, *callbacks])
        return model

    try:
        train([Stop()])
    except RuntimeError:
        model = train([])
    assert int(model.optimizer.iterations) == 3 * models.BATCHES
    return model.get_weights()


@scenario()
def each_epoch_is_kept_as_weights_and_as_a_model(RMSprop: Any, folder: Path) -> Any:
    model = models.model()
    kept = [
        keras.callbacks.ModelCheckpoint(folder / "{epoch}.weights.h5", save_weights_only=True),
        keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
    ]
    models.fit(model, RMSprop(0.01, momentum=0.5), callbacks=kept)
    whole = keras.saving.load_model(folder / "1.keras")
    weights = models.model()
    weights.compile(RMSprop(0.01, momentum=0.5), loss="mse")
    weights.optimizer.build(weights.trainable_variables)
    weights.load_weights(folder / "1.weights.h5")
    results = [models.go_on(each, epochs=1) for each in (whole, weights)]
    models.assert_identical(*results)
    return results[0]


@scenario()
def a_model_is_opened_without_its_optimizer_and_compiled_anew(RMSprop: Any, folder: Path) -> Any:
    _fitted(RMSprop).save(folder / "model.keras")
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    return models.fit(model, RMSprop(0.001))


@scenario()
def weights_are_kept_in_shards(RMSprop: Any, folder: Path) -> Any:
    model = _fitted(RMSprop)
    model.save_weights(folder / "all.weights.json", max_shard_size=1e-6)
    other = models.model()
    other.compile(RMSprop(0.01), loss="mse")
    other.optimizer.build(other.trainable_variables)
    other.load_weights(folder / "all.weights.json")
    assert int(other.optimizer.iterations) == models.BATCHES
    return models.go_on(other)


@scenario()
def a_callback_loads_weights_when_training_begins(RMSprop: Any, folder: Path) -> Any:
    path = folder / "all.weights.h5"
    _fitted(RMSprop).save_weights(path)

    class Load(keras.callbacks.Callback):
        def on_train_begin(self, _logs: Any = None) -> None:
            self.model.load_weights(path)

    model = models.model()
    models.fit(model, RMSprop(0.01), callbacks=[Load()])
    return models.go_on(model)


@scenario()
def a_model_with_a_compile_of_its_own_is_saved_and_opened(RMSprop: Any, folder: Path) -> Any:
    @keras.saving.register_keras_serializable(package=f"scenario_{RMSprop.__module__}")
    class Trainer(keras.Model):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(1)

        def build(self, shape: Any) -> None:
            self.dense.build(shape)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def compile(self, optimizer: Any, loss: Any = "mse", **kwargs: Any) -> None:
            super().compile(optimizer, loss=loss, **kwargs)

    x, y = models.data()
    model = Trainer()
    model.compile(RMSprop(0.01))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    model.save(folder / "model.keras")
    opened = keras.saving.load_model(folder / "model.keras")
    opened.compile(RMSprop(0.01))
    opened.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return None


@scenario()
def a_model_is_cloned_and_the_clone_compiled_by_the_config(RMSprop: Any, folder: Path) -> Any:
    model = _fitted(RMSprop, weight_decay=0.01)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return models.fit(clone, RMSprop.from_config(model.optimizer.get_config()))


@scenario()
def a_training_that_diverged_is_saved_and_opened(RMSprop: Any, folder: Path) -> Any:
    model = _fitted(RMSprop)
    model.optimizer.variables[-1].assign(np.full(1, np.nan, "float32"))
    model.save(folder / "model.keras")
    opened = keras.saving.load_model(folder / "model.keras")
    return [np.isnan(keras.ops.convert_to_numpy(v.value)) for v in opened.optimizer.variables]


@scenario()
def an_average_of_the_weights_goes_through_a_file(RMSprop: Any, folder: Path) -> Any:
    model = models.model()
    options = {"use_ema": True, "ema_momentum": 0.5}
    models.fit(model, RMSprop(0.01, **options), epochs=1)
    model.save(folder / "model.keras")
    opened = keras.saving.load_model(folder / "model.keras")
    assert int(opened.optimizer.iterations) == models.BATCHES
    return opened.get_weights()


@scenario()
def a_model_is_kept_in_the_legacy_format(RMSprop: Any, folder: Path) -> Any:
    model = _fitted(RMSprop, momentum=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(folder / "model.h5")
        opened = keras.saving.load_model(folder / "model.h5", custom_objects={"mse": "mse"})
    # On JAX and torch Keras opens it with an optimizer that cannot be trained.
    return [*opened.get_weights(), int(opened.optimizer.iterations)]
