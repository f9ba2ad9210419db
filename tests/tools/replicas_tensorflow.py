"""Train on two logical CPUs and write the results to a file, for `test_replicas`.

python -m tests.tools.replicas_tensorflow <file>
"""

import itertools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_rmsprop
from tests.tools import replicas
from tests.tools.replicas import BATCH, HALF, OPTIONS, STEPS, Data

Optimizer = keras.optimizers.Optimizer
Make = Callable[[], Optimizer]


class Subclass(keras_rmsprop.RMSprop):
    """A subclass that overrides `update_step`."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Halve the gradient."""
        super().update_step(0.5 * gradient, variable, learning_rate)


def ours(**options: Any) -> Make:
    """Return a function that makes this package's optimizer."""
    return lambda: replicas.optimizer(**options)


def keras_own(**options: Any) -> Make:
    """Return a function that makes Keras's optimizer."""
    return lambda: replicas.optimizer(keras.optimizers.RMSprop, **options)


def scaled(inner: Make) -> Make:
    """Return a function that wraps an optimizer in Keras's `LossScaleOptimizer`."""
    return lambda: keras.optimizers.LossScaleOptimizer(
        inner(), initial_scale=8.0, dynamic_growth_steps=3
    )


def with_falling_rate() -> Optimizer:
    """Make an optimizer whose callable returns a new rate at each call."""
    calls = itertools.count(1)
    return replicas.optimizer(learning_rate=lambda: 0.1 / next(calls))


def compiled(make: Make) -> keras.Model:
    """Make a model with a built optimizer."""
    network = replicas.model()
    network.compile(make(), loss="mse")
    network.optimizer.build(network.trainable_variables)
    return network


def learn(network: keras.Model, ids: tf.Tensor, targets: tf.Tensor) -> None:
    """Make a step; in a replica, with its share of the batch."""
    with tf.GradientTape() as tape:
        loss = network.optimizer.scale_loss(replicas.loss_sum(network, ids, targets))
    gradients = tape.gradient(loss, network.trainable_variables)
    network.optimizer.apply(gradients, network.trainable_variables)


def on_one(network: keras.Model, data: Data, steps: range = range(STEPS)) -> None:
    """Train on whole batches, op by op."""
    for t in steps:
        ids, targets = data.batch(t)
        learn(network, tf.constant(ids), tf.constant(targets))


def on_two(
    strategy: tf.distribute.Strategy,
    network: keras.Model,
    data: Data,
    steps: range = range(STEPS),
    in_graph: bool = True,
) -> None:
    """Train in a custom loop, with each batch divided among the replicas."""
    count = strategy.num_replicas_in_sync

    def step(*shares: Any) -> None:
        strategy.run(lambda ids, targets: learn(network, ids, targets), args=shares)

    if in_graph:
        step = tf.function(step)
    for t in steps:
        ids, targets = (x.reshape(count, BATCH // count, -1) for x in data.batch(t))

        def share(values: Any) -> Any:
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.constant(values[context.replica_id_in_sync_group])
            )

        step(share(ids), share(targets))


def by_fit(network: keras.Model, data: Data) -> None:
    """Train with `fit`."""
    network.fit(*data, batch_size=BATCH, shuffle=False, verbose=0)


def copies(network: keras.Model) -> list[Any]:
    """Return the weights of each replica."""
    held = [v.value.values for v in network.trainable_variables]
    return [replicas.lists([copy.numpy() for copy in each]) for each in zip(*held, strict=True)]


def slot_copies_differ(network: keras.Model) -> bool:
    """Return whether any of the optimizer's variables differs between replicas."""
    held = [v.value.values for v in network.optimizer.variables if hasattr(v.value, "values")]
    return any((first.numpy() != other.numpy()).any() for first, *rest in held for other in rest)


def state(network: keras.Model) -> dict[str, Any]:
    """Return the state of this package's optimizer by name."""
    optimizer = getattr(network.optimizer, "inner_optimizer", network.optimizer)
    if not isinstance(optimizer, keras_rmsprop.RMSprop):
        return {}
    return replicas.state_by_name(optimizer, network.name)


def trained(
    strategy: tf.distribute.Strategy, make: Make, how: str, bad: int | None = None
) -> dict[str, Any]:
    """Train on one device and on two; return the weights of both, or the error on two."""
    data = replicas.data(bad)
    one = compiled(make)
    begin = replicas.lists(one.get_weights())
    on_one(one, data)
    with strategy.scope():
        two = compiled(make)
    try:
        if how == "fit":
            one.optimizer.finalize_variable_values(one.trainable_variables)
            by_fit(two, data)
        else:
            on_two(strategy, two, data, in_graph=how == "graph")
    except (RuntimeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "start": begin,
        "one": replicas.lists(one.get_weights()),
        "two": copies(two),
        "slot_copies_differ": slot_copies_differ(two),
        "states": [state(one), state(two)],
        "statistics": [replicas.statistics(network) for network in (one, two)],
    }


def carried_over(
    strategy: tf.distribute.Strategy, folder: pathlib.Path, to_two: bool, **options: Any
) -> dict[str, Any]:
    """Train, save half-way, load on another number of replicas and go on."""
    data = replicas.data()
    whole = compiled(ours(**options))
    begin = replicas.lists(whole.get_weights())
    on_one(whole, data)
    path = folder / f"to_two_{to_two}_{'_'.join(options)}.keras"
    before, after = range(HALF), range(HALF, STEPS)
    if to_two:
        first = compiled(ours(**options))
        on_one(first, data, before)
        first.save(path)
        with strategy.scope():
            second = keras.saving.load_model(path)
        on_two(strategy, second, data, after)
        ends = copies(second)
    else:
        with strategy.scope():
            first = compiled(ours(**options))
        on_two(strategy, first, data, before)
        first.save(path)
        second = keras.saving.load_model(path)
        on_one(second, data, after)
        ends = [replicas.lists(second.get_weights())]
    return {
        "start": begin,
        "one": replicas.lists(whole.get_weights()),
        "two": ends,
        "states": [state(whole), state(second)],
    }


def half_precision(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Give each replica a float16 gradient, whose sum overflows float16."""

    def weight() -> keras.Variable:
        return keras.Variable([1.0], dtype="float16", name="weight")

    one, make = weight(), ours(epsilon=0.0)
    make().apply([tf.constant([80000.0], "float32")], [one])
    with strategy.scope():
        two, optimizer = weight(), make()
        optimizer.build([two])
    strategy.run(lambda: optimizer.apply([tf.constant([40000.0], "float16")], [two]))
    return {
        "start": [[1.0]],
        "one": replicas.lists([one.numpy()]),
        "two": [replicas.lists([copy.numpy()]) for copy in two.value.values],
    }


def narrow_slots(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Make steps with slots in bfloat16; return the slots of one device and of each replica."""

    def weight() -> keras.Variable:
        return keras.Variable(np.ones(100), dtype="float32", name="weight")

    gradients = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32)
    one, make = weight(), ours(state_dtype="bfloat16", momentum=0.9, jit_compile=False)
    alone = make()
    for gradient in gradients:
        alone.apply([tf.constant(gradient)], [one])
    with strategy.scope():
        two, optimizer = weight(), make()
        optimizer.build([two])
    for gradient in gradients:
        # Two halves, whose sum is exact, as tensors of their own.
        half = gradient / 2
        strategy.run(lambda half=half: optimizer.apply([tf.constant(half)], [two]))

    def slots(owner: Any) -> list[tf.Variable]:
        (parameter,) = owner._roster.parameters
        return [parameter.square_average.value, parameter.momentum.value]

    copies = zip(*(v.values for v in slots(optimizer)), strict=True)
    return {
        "dtypes": [v.dtype.name for v in slots(optimizer)],
        "one": [tf.cast(v, tf.float32).numpy().tolist() for v in slots(alone)],
        "two": [[tf.cast(v, tf.float32).numpy().tolist() for v in each] for each in copies],
    }


def main(path: pathlib.Path) -> None:
    """Run all trainings."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    keras.config.set_floatx("float64")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    # Two replicas run op by op anyway.
    everything = ours(**OPTIONS["all"], jit_compile=False)
    watched = ours(**OPTIONS["diagnostics"], jit_compile=False)
    skips = ours(skip_nonfinite=True, jit_compile=False)
    trainings: dict[str, tuple[Make, str, int | None]] = {
        **{
            f"{name}/graph": (ours(**options, jit_compile=False), "graph", None)
            for name, options in OPTIONS.items()
        },
        "all/fit": (everything, "fit", None),
        "all/eager": (everything, "eager", None),
        "diagnostics/fit": (watched, "fit", None),
        "diagnostics/eager": (watched, "eager", None),
        "subclass/graph": (lambda: replicas.optimizer(Subclass), "graph", None),
        "callable rate/eager": (with_falling_rate, "eager", None),
        "loss scale/graph": (scaled(ours(jit_compile=False)), "graph", None),
        "bad on the first/graph": (skips, "graph", 0),
        "bad on the last/graph": (skips, "graph", BATCH - 1),
        "bad on the last, loss scale/graph": (scaled(skips), "graph", BATCH - 1),
        "keras, accumulation/graph": (keras_own(gradient_accumulation_steps=2), "graph", None),
        "keras, clipnorm/graph": (keras_own(**OPTIONS["clipnorm"]), "graph", None),
    }
    found = {
        name: trained(strategy, make, how, bad) for name, (make, how, bad) in trainings.items()
    }
    for to_two in (False, True):
        for name in ("all", "lazy"):
            found[f"saved, {name}/{to_two}"] = carried_over(
                strategy, path.parent, to_two, **OPTIONS[name], jit_compile=False
            )
    found["half precision/eager"] = half_precision(strategy)
    found["narrow slots/eager"] = narrow_slots(strategy)
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
