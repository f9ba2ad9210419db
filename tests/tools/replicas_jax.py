"""Train on two host devices and write the results to a file, for `test_replicas`.

XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m tests.tools.replicas_jax <file>
"""

import contextlib
import json
import pathlib
import sys
from typing import Any

import jax
import keras

from tests.tools import replicas
from tests.tools.replicas import BATCH, HALF, OPTIONS, STEPS, Data


def distributions() -> dict[str, Any]:
    """Return the ways to distribute a training over the devices."""
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((1, len(devices)), ["batch", "model"], devices)
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*table/embeddings"] = (None, "model")
    layouts[".*hidden/kernel"] = (None, "model")
    layouts[".*hidden/bias"] = ("model",)
    return {
        "data": keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False),
        "model": keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch"),
    }


def compiled(**options: Any) -> keras.Model:
    """Make a model with a built optimizer of this package."""
    network = replicas.model()
    network.compile(replicas.optimizer(**options), loss="mse")
    network.optimizer.build(network.trainable_variables)
    return network


def spread(batch: Any) -> Any:
    """Distribute a batch over the devices of the current distribution."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return batch
    layout = distribution.get_data_layout(batch.shape)
    return keras.distribution.distribute_tensor(keras.ops.convert_to_tensor(batch), layout)


def by_loop(network: keras.Model, data: Data, steps: range = range(STEPS)) -> None:
    """Train in a custom loop."""
    for t in steps:
        ids, targets = map(spread, data.batch(t))

        def loss(weights: list[jax.Array], ids: Any = ids, targets: Any = targets) -> jax.Array:
            outputs, _ = network.stateless_call(weights, [], ids)
            return keras.ops.sum(keras.ops.square(outputs - targets)) / BATCH

        network.optimizer.apply(jax.grad(loss)([v.value for v in network.trainable_variables]))


def by_fit(network: keras.Model, data: Data) -> None:
    """Train with `fit`."""
    network.fit(*data, batch_size=BATCH, shuffle=False, verbose=0)


def weights(network: keras.Model) -> list[Any]:
    """Return the weights."""
    return replicas.lists([jax.device_get(v.value) for v in network.trainable_variables])


def state(network: keras.Model) -> dict[str, Any]:
    """Return the optimizer's state by name."""
    return replicas.state_by_name(network.optimizer, network.name)


def slots_sharded_differently(network: keras.Model) -> list[str]:
    """Return the paths of slots that are not sharded like their weights."""
    return [
        slot.path
        for weight, *slots in network.optimizer._roster.parameters
        for slot in slots
        if slot is not None
        and not slot.value.sharding.is_equivalent_to(weight.value.sharding, len(weight.shape))
    ]


def trained(distribution: Any, how: str, bad: int | None, **options: Any) -> dict[str, Any]:
    """Train on one device and on two; return the weights and states of both."""
    data = replicas.data(bad)
    # Both in the same way, because the loss in `fit` is rounded to float32 on JAX.
    train = by_fit if how == "fit" else by_loop
    one = compiled(**options)
    begin = weights(one)
    train(one, data)
    with distribution.scope():
        two = compiled(**options)
        train(two, data)
    return compared(begin, one, two)


def compared(begin: Any, one: Any, two: Any) -> dict[str, Any]:
    """Return what the tests compare of two models with the same start."""
    return {
        "start": begin,
        "one": weights(one),
        "two": [weights(two)],
        "states": [state(one), state(two)],
        "statistics": [replicas.statistics(network) for network in (one, two)],
        "slots_sharded_differently": slots_sharded_differently(two),
    }


def carried_over(distribution: Any, path: pathlib.Path, to_two: bool) -> dict[str, Any]:
    """Train, save half-way, load on another number of devices and go on."""
    data = replicas.data()
    whole = compiled(**OPTIONS["all"])
    begin = weights(whole)
    by_loop(whole, data)
    one_device = contextlib.nullcontext()
    first_place, second_place = one_device, distribution.scope()
    if not to_two:
        first_place, second_place = second_place, first_place
    with first_place:
        first = compiled(**OPTIONS["all"])
        by_loop(first, data, range(HALF))
        first.save(path)
    with second_place:
        second = keras.saving.load_model(path)
        by_loop(second, data, range(HALF, STEPS))
    return compared(begin, whole, second)


def main(path: pathlib.Path) -> None:
    """Run all trainings."""
    keras.config.set_floatx("float64")
    found: dict[str, Any] = {"devices": len(keras.distribution.list_devices())}
    for name, distribution in distributions().items():
        found[f"{name}, all/fit"] = trained(distribution, "fit", None, **OPTIONS["all"])
        found[f"{name}, all/loop"] = trained(distribution, "loop", None, **OPTIONS["all"])
        for how in ("fit", "loop"):
            watched = trained(distribution, how, None, **OPTIONS["diagnostics"])
            found[f"{name}, diagnostics/{how}"] = watched
        found[f"{name}, bad/fit"] = trained(distribution, "fit", BATCH - 1, skip_nonfinite=True)
    in_parts = distributions()["model"]
    for to_two in (False, True):
        found[f"saved, all/{to_two}"] = carried_over(
            in_parts, path.with_name(f"{to_two}.keras"), to_two
        )
    path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
