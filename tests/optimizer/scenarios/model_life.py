"""Changes of models between two trainings: frozen, copied, cloned, grown, quantized."""

import copy
import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario
from tests.tools import models


@scenario()
def a_head_is_trained_then_the_base_is_unfrozen_and_fine_tuned(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.layers[0].trainable = False
    models.fit(network, RMSprop(0.01))
    network.layers[0].trainable = True
    return models.fit(network, RMSprop(1e-3))


@scenario()
def a_base_is_given_a_new_head(RMSprop: Any, folder: Path) -> Any:
    base = models.model()
    models.fit(base, RMSprop(0.01))
    features = keras.Model(base.inputs, base.layers[0].output)
    head = keras.layers.Dense(1, name="new_head", kernel_initializer="ones")
    network = keras.Model(features.inputs, head(features.output))
    return [models.fit(network, RMSprop(0.01)), models.go_on(base)]


# On JAX Keras's trainer refuses it, whatever the optimizer.
@scenario(backends=("tensorflow", "torch"))
def layers_are_frozen_for_good_and_the_model_compiled_anew(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01))
    network.layers[0].trainable = False
    network.compile(network.optimizer, loss="mse")
    return models.go_on(network)


@scenario()
def a_layer_is_popped_and_another_added(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01))
    network.pop()
    network.add(keras.layers.Dense(1, kernel_initializer="ones", name="other"))
    return models.fit(network, RMSprop(0.01))


@scenario()
def a_model_is_cloned_and_compiled_from_the_config(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01, momentum=0.5, centered=True))
    clone = keras.models.clone_model(network)
    clone.set_weights(network.get_weights())
    clone.compile_from_config(network.get_compile_config())
    assert clone.optimizer.momentum == 0.5
    return models.go_on(clone)


@scenario()
def a_model_is_pickled_and_trained_on(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01, momentum=0.5))
    other = pickle.loads(pickle.dumps(network))
    return [models.go_on(other), models.go_on(network)]


@scenario()
def a_compiled_model_is_copied_deep_before_and_after_training(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.compile(RMSprop(0.01, momentum=0.5), loss="mse")
    fresh = copy.deepcopy(network)
    models.go_on(network)
    trained = copy.deepcopy(network)
    return [models.go_on(fresh), models.go_on(trained), models.go_on(network)]


@scenario()
def a_model_is_loaded_without_its_optimizer_and_compiled(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01))
    network.save(folder / "model.keras")
    other = keras.models.load_model(folder / "model.keras", compile=False)
    return models.fit(other, RMSprop(0.001))


@scenario()
def lora_is_enabled_after_training(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01))
    network.layers[0].enable_lora(2, a_initializer="ones", b_initializer="ones")
    weights = models.fit(network, RMSprop(0.01))
    network.save(folder / "lora.keras")
    return [weights, models.go_on(keras.models.load_model(folder / "lora.keras"))]


@scenario()
def a_trained_model_is_quantized_to_int8(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01))
    network.quantize("int8")
    x, _ = models.data()
    return network.predict(x, verbose=0)


@scenario()
def a_model_trains_in_float8(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.quantize("float8")
    weights = models.fit(network, RMSprop(0.01))
    return [w for w in weights if w.dtype == np.float32]


@scenario()
def a_policy_of_mixed_float16_scales_the_loss(RMSprop: Any, folder: Path) -> Any:
    keras.config.set_dtype_policy("mixed_float16")
    network = models.model()
    models.fit(network, RMSprop(0.01))
    assert isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer)
    network.save(folder / "model.keras")
    other = keras.models.load_model(folder / "model.keras")
    models.go_on(other)
    return [int(other.optimizer.inner_optimizer.iterations)]


@scenario()
def a_policy_of_mixed_bfloat16(RMSprop: Any, folder: Path) -> Any:
    keras.config.set_dtype_policy("mixed_bfloat16")
    network = models.model()
    models.fit(network, RMSprop(0.01))
    return [int(network.optimizer.iterations)]


@scenario()
def a_model_with_two_outputs_and_losses(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    both = keras.Model(
        network.inputs,
        {
            "one": network.outputs[0],
            "two": keras.layers.Dense(2, kernel_initializer="ones")(network.layers[0].output),
        },
    )
    both.compile(
        RMSprop(0.01), loss={"one": "mse", "two": "mae"}, loss_weights={"one": 1.0, "two": 0.5}
    )
    x, y = models.data()
    targets = {"one": y, "two": np.concatenate([y, -y], axis=1)}
    both.fit(x, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return both.get_weights()


# On torch Keras's own loop fails on its state, whatever the optimizer.
@scenario(backends=("tensorflow", "jax"))
def a_stateful_recurrent_layer_is_reset_between_epochs(RMSprop: Any, folder: Path) -> Any:
    network = keras.Sequential(
        [
            keras.Input(batch_shape=(4, 3, 2)),
            keras.layers.LSTM(3, stateful=True, name="lstm"),
            keras.layers.Dense(1),
        ]
    )
    network.compile(RMSprop(0.01), loss="mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3, 2)), rng.normal(size=(8, 1))
    for _ in range(2):
        network.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0)
        network.layers[0].reset_states()
    return models.values(network.trainable_variables)


@scenario()
def a_search_makes_a_new_model_for_each_setting(RMSprop: Any, folder: Path) -> Any:
    results = []
    for rate, momentum in [(0.1, 0.0), (0.01, 0.0), (0.01, 0.9)]:
        keras.backend.clear_session()
        results.append(models.fit(models.model(), RMSprop(rate, momentum=momentum)))
    return results


@scenario()
def cross_validation_starts_each_fold_from_the_same_config(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    start = network.get_weights()
    config = keras.optimizers.serialize(RMSprop(0.01, momentum=0.5))
    x, y = models.data()
    scores = []
    for fold in range(3):
        network.set_weights(start)
        network.compile(keras.optimizers.deserialize(dict(config)), loss="mse")
        chosen = np.arange(len(x)) % 3 != fold
        network.fit(x[chosen], y[chosen], batch_size=8, epochs=2, shuffle=False, verbose=0)
        scores.append(network.evaluate(x[~chosen], y[~chosen], verbose=0))
    return scores


@scenario()
def weights_of_two_workers_are_averaged(RMSprop: Any, folder: Path) -> Any:
    workers = [models.model() for _ in range(2)]
    for worker, rate in zip(workers, (0.01, 0.02), strict=True):
        worker.compile(RMSprop(rate), loss="mse")
    for _ in range(2):
        trained = [models.go_on(worker, epochs=1) for worker in workers]
        mean = [(a + b) / 2.0 for a, b in zip(*trained, strict=True)]
        for worker in workers:
            worker.set_weights(mean)
    return mean


@scenario()
def a_model_is_compiled_anew_with_the_optimizer_it_had(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01, momentum=0.5))
    network.compile(network.optimizer, loss="mae", run_eagerly=True)
    return models.go_on(network)


@scenario()
def a_batch_normalized_model_trains_and_is_frozen(RMSprop: Any, folder: Path) -> Any:
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((3,)),
            # The gradients of a bias would be rounding errors only.
            keras.layers.Dense(4, use_bias=False),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(1),
        ]
    )
    models.fit(network, RMSprop(0.01))
    network.get_layer("norm").trainable = False
    return models.fit(network, RMSprop(0.01))


@scenario()
def a_model_that_is_not_built_until_fit(RMSprop: Any, folder: Path) -> Any:
    network = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
    models.fit(network, RMSprop(0.01))
    network.save(folder / "late.keras")
    return [
        models.go_on(network),
        models.go_on(keras.models.load_model(folder / "late.keras")),
    ]


@scenario()
def a_model_with_nothing_to_train(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    network.trainable = False
    return models.fit(network, RMSprop(0.01))


@scenario()
def a_model_is_exported_after_training_and_trains_on(RMSprop: Any, folder: Path) -> Any:
    network = models.model()
    models.fit(network, RMSprop(0.01))
    if keras.backend.backend() == "tensorflow":
        network.export(folder / "exported", verbose=False)
    else:
        network.save_weights(folder / "exported.weights.h5")
    return models.go_on(network)
