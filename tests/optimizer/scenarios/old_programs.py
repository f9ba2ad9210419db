"""Uses of an optimizer's variables in programs for earlier Keras and in its guides."""

import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.optimizer.scenarios import scenario
from tests.tools import models


def weights_and_gradients() -> tuple[list[Any], list[list[Any]]]:
    """Three variables, and four sets of gradients."""
    rng = np.random.default_rng(0)
    shapes = [(2, 3), (3,), ()]
    weights = [keras.Variable(rng.normal(size=s).astype("float32")) for s in shapes]
    gradients = [
        models.tensors(rng.normal(size=s).astype("float32") for s in shapes) for _ in range(4)
    ]
    return weights, gradients


@scenario()
def apply_gradients_with_a_zip(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(0.01)
    for batch in gradients:
        optimizer.apply_gradients(zip(batch, weights, strict=True))
    return [models.values(weights), models.values(optimizer.variables)[:2]]


@scenario()
def apply_without_variables_once_built(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(0.01)
    optimizer.build(weights)
    for batch in gradients:
        optimizer.apply(batch)
    return models.values(weights)


@scenario()
def variables_are_given_in_any_order_and_number(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(0.01, momentum=0.5)
    optimizer.build(weights)
    for order, batch in zip(([2, 0, 1], [1], [0, 2], [1, 0, 2]), gradients, strict=True):
        optimizer.apply([batch[i] for i in order], [weights[i] for i in order])
    return models.values(weights)


@scenario()
def state_is_carried_by_set_weights(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    first, second = RMSprop(0.01, momentum=0.5), RMSprop(0.01, momentum=0.5)
    first.apply(gradients[0], weights)
    second.build(weights)
    second.set_weights([np.array(v) for v in models.values(first.variables)])
    second.apply(gradients[1], weights)
    return models.values(weights)


@scenario()
def an_optimizer_is_reset_to_its_start(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(0.01, momentum=0.5)
    optimizer.build(weights)
    start = models.values(optimizer.variables)
    for batch in gradients:
        optimizer.apply(batch, weights)
    for variable, value in zip(optimizer.variables, start, strict=True):
        variable.assign(value)
    optimizer.apply(gradients[0], weights)
    return models.values(weights)


@scenario()
def the_rate_is_assigned_read_and_scaled(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(learning_rate=0.01)
    optimizer.apply(gradients[0], weights)
    optimizer.learning_rate.assign(0.02)
    optimizer.apply(gradients[1], weights)
    optimizer.learning_rate = optimizer.learning_rate * 0.5
    optimizer.apply(gradients[2], weights)
    optimizer.learning_rate = keras.ops.convert_to_tensor(0.005)
    optimizer.apply(gradients[3], weights)
    return [models.values(weights), float(keras.ops.convert_to_numpy(optimizer.learning_rate))]


@scenario()
def steps_are_counted_and_the_count_is_set(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 1, 0.5)
    optimizer = RMSprop(schedule)
    optimizer.apply(gradients[0], weights)
    optimizer.iterations.assign(0)
    optimizer.apply(gradients[1], weights)
    return [models.values(weights), int(optimizer.iterations)]


@scenario()
def a_weight_decays_unless_it_is_excluded(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[weights[1]])
    for batch in gradients:
        optimizer.apply(batch, weights)
    return models.values(weights)


@scenario()
def gradients_are_added_up_by_hand(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(0.01)
    for i in (0, 2):
        mean = [(a + b) / 2.0 for a, b in zip(gradients[i], gradients[i + 1], strict=True)]
        optimizer.apply(mean, weights)
    return models.values(weights)


@scenario()
def state_is_stored_and_loaded_by_hand(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    first, second = RMSprop(0.01, momentum=0.5), RMSprop(0.01, momentum=0.5)
    first.apply(gradients[0], weights)
    store: dict[str, Any] = {}
    first.save_own_variables(store)
    second.build(weights)
    second.load_own_variables({key: np.array(value) for key, value in store.items()})
    second.apply(gradients[1], weights)
    return models.values(weights)


@scenario()
def a_target_network_follows_the_trained_one(RMSprop: Any, folder: Path) -> Any:
    network, target = models.model(), models.model()
    network.compile(RMSprop(0.01), loss="mse")
    x, _ = models.data()
    for i in range(4):
        y = 0.9 * target.predict(x[8 * i : 8 * i + 8], verbose=0) + 1.0
        network.train_on_batch(x[8 * i : 8 * i + 8], y)
        for slow, fast in zip(target.variables, network.variables, strict=True):
            slow.assign(0.9 * slow + 0.1 * fast)
    return [network.get_weights(), target.get_weights()]


@scenario()
def two_optimizers_share_the_weights(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    first, second = RMSprop(0.01), RMSprop(0.001, momentum=0.9)
    for i, batch in enumerate(gradients):
        (first, second)[i % 2].apply(batch, weights)
    return models.values(weights)


@scenario()
def each_thread_has_an_optimizer_of_its_own(RMSprop: Any, folder: Path) -> Any:
    made = [weights_and_gradients() for _ in range(3)]

    def run(weights: Any, gradients: Any) -> None:
        optimizer = RMSprop(0.01)
        for batch in gradients * 3:
            optimizer.apply(batch, weights)

    threads = [threading.Thread(target=run, args=pair) for pair in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [models.values(weights) for weights, _ in made]


@scenario()
def one_step_in_a_thread_and_the_next_in_another(RMSprop: Any, folder: Path) -> Any:
    weights, gradients = weights_and_gradients()
    optimizer = RMSprop(0.01)
    for batch in gradients:
        thread = threading.Thread(target=optimizer.apply, args=(batch, weights))
        thread.start()
        thread.join()
    return [models.values(weights), int(optimizer.iterations)]
