"""Test that several devices make the steps that one makes on the whole batch.

The trainings run in processes of their own (see `replicas`): one with two logical CPUs, two
that work together, one with two of JAX's host devices. Their results are checked here.
"""

import json
import pathlib
import socket
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pytest

from tests.tools import models, replicas
from tests.tools.replicas import HALF, OPTIONS, STEPS

BACKEND = keras.backend.backend()

on_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="tf.distribute needs the TensorFlow backend"
)
on_jax = pytest.mark.skipif(
    BACKEND != "jax", reason="keras.distribution trains on the JAX backend alone"
)

Results = Mapping[str, Any]

# Long, because the machine may be busy; a process that hangs must not hang the tests.
TIMEOUT = 900.0


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of two logical CPUs under a `MirroredStrategy`."""
    path = tmp_path_factory.mktemp("mirrored") / "results.json"
    process = replicas.start("replicas_tensorflow", str(path))
    return replicas.results(process, path, TIMEOUT)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the workers' checkpoints."""
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, checkpoints: pathlib.Path) -> Results:
    """The results of the first of two processes under a `MultiWorkerMirroredStrategy`."""
    path = tmp_path_factory.mktemp("workers") / "results.json"
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]

    def task(index: int) -> str:
        cluster, this = {"worker": addresses}, {"type": "worker", "index": index}
        return json.dumps({"cluster": cluster, "task": this})

    chief, other = (
        replicas.start(
            "replicas_workers",
            str(path.with_suffix(f".{i}")),
            str(checkpoints),
            TF_CONFIG=task(i),
        )
        for i in range(2)
    )
    try:
        return replicas.results(chief, path.with_suffix(".0"), TIMEOUT)
    finally:
        other.kill()
        other.communicate()


@pytest.fixture(scope="module")
def host_devices(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of two of JAX's host devices under `keras.distribution`."""
    path = tmp_path_factory.mktemp("jax") / "results.json"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return replicas.results(replicas.start("replicas_jax", str(path), **flags), path, TIMEOUT)


def assert_equal_to_one_device(result: Mapping[str, Any], precision: str = "float64") -> None:
    """Fail unless each replica holds the weights, and the optimizer the state, of one device."""
    start, want = (replicas.arrays(result[name]) for name in ("start", "one"))
    for copy in result["two"]:
        models.assert_same(replicas.arrays(copy), want, start, steps=STEPS, precision=precision)
    for_one, for_two = result["states"]
    assert for_one.keys() == for_two.keys()
    for name, value in for_one.items():
        scale = np.max(np.abs(value), initial=1e-3)
        np.testing.assert_allclose(for_two[name], value, rtol=0.0, atol=1e-12 * scale)


def assert_equal_statistics(result: Mapping[str, Any]) -> None:
    """Fail unless the statistics are those of one device."""
    for_one, for_two = result["statistics"]
    assert for_one["rmsprop/step"] > 1
    assert any(name.startswith("rmsprop/table/") for name in for_one)
    assert for_two == pytest.approx(for_one, rel=1e-12, abs=1e-15)


@on_tensorflow
@pytest.mark.parametrize("name", OPTIONS)
def test_two_replicas_make_the_steps_of_one_device(mirrored: Results, name: str) -> None:
    assert_equal_to_one_device(mirrored[f"{name}/graph"])
    assert not mirrored[f"{name}/graph"]["slot_copies_differ"]


@on_tensorflow
@pytest.mark.parametrize("how", ["fit", "eager"])
def test_two_replicas_make_the_steps_of_one_device_in_fit_and_op_by_op(
    mirrored: Results, how: str
) -> None:
    assert_equal_to_one_device(mirrored[f"all/{how}"])
    assert not mirrored[f"all/{how}"]["slot_copies_differ"]


@on_tensorflow
@pytest.mark.parametrize(
    "name",
    ["diagnostics/graph", "diagnostics/fit", "diagnostics/eager", "diagnostics, lazy/graph"],
)
def test_two_replicas_have_the_statistics_of_one_device(mirrored: Results, name: str) -> None:
    assert_equal_statistics(mirrored[name])
    assert not mirrored[name]["slot_copies_differ"]


@on_tensorflow
def test_keras_cannot_accumulate_gradients_on_replicas(mirrored: Results) -> None:
    assert "merge_call" in mirrored["keras, accumulation/graph"]["error"]


@on_tensorflow
def test_keras_clips_before_the_sum_over_replicas(mirrored: Results) -> None:
    result = mirrored["keras, clipnorm/graph"]
    start, want, got = (
        np.concatenate([x.ravel() for x in replicas.arrays(arrays)])
        for arrays in (result["start"], result["one"], result["two"][0])
    )
    assert np.max(np.abs(got - want)) > 0.1 * np.max(np.abs(want - start))


@on_tensorflow
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_bad_share_of_one_replica_skips_the_step_on_all(mirrored: Results, where: str) -> None:
    result = mirrored[f"bad on the {where}/graph"]
    assert_equal_to_one_device(result)
    assert result["states"][1]["skipped_steps"] == 1
    assert result["states"][1]["iteration"] == STEPS - 1


@on_tensorflow
def test_a_loss_scale_optimizer_makes_the_same_steps(mirrored: Results) -> None:
    assert_equal_to_one_device(mirrored["loss scale/graph"])


@on_tensorflow
def test_a_bad_share_that_a_loss_scale_optimizer_overlooks_is_skipped(mirrored: Results) -> None:
    result = mirrored["bad on the last, loss scale/graph"]
    on_one, on_two = result["states"]
    # It checks only the gradients of the first replica.
    assert (on_one.pop("skipped_steps"), on_two.pop("skipped_steps")) == (0, 1)
    assert_equal_to_one_device(result)


@on_tensorflow
def test_all_replicas_use_one_rate_of_a_callable(mirrored: Results) -> None:
    assert_equal_to_one_device(mirrored["callable rate/eager"])


@on_tensorflow
def test_a_subclass_with_its_own_update_step_makes_the_same_steps(mirrored: Results) -> None:
    assert_equal_to_one_device(mirrored["subclass/graph"])


@on_tensorflow
def test_half_precision_gradients_are_summed_in_float32(mirrored: Results) -> None:
    result = mirrored["half precision/eager"]
    assert result["one"] != result["start"]
    assert result["two"] == [result["one"]] * 2


@on_tensorflow
def test_replicas_round_narrow_slots_alike(mirrored: Results) -> None:
    result = mirrored["narrow slots/eager"]
    assert result["dtypes"] == ["bfloat16", "bfloat16"]
    assert result["two"] == [result["one"]] * 2


@on_tensorflow
@pytest.mark.parametrize("name", ["all", "lazy"])
@pytest.mark.parametrize("to_two", [False, True], ids=["to_one_device", "to_two_replicas"])
def test_a_saved_training_goes_on_elsewhere(mirrored: Results, name: str, to_two: bool) -> None:
    assert_equal_to_one_device(mirrored[f"saved, {name}/{to_two}"])


@on_tensorflow
@pytest.mark.parametrize("name", ["plain", "all"])
def test_two_processes_make_the_steps_of_one_device(workers: Results, name: str) -> None:
    assert_equal_to_one_device(workers[name])


@on_tensorflow
def test_fit_in_two_processes_fails_in_keras_itself(workers: Results) -> None:
    # With Keras's own optimizer. Until this test fails, a custom loop is needed.
    assert "Attempt to convert a value (PerReplica" in workers["error of fit"]


@on_tensorflow
def test_the_death_of_a_worker_raises_an_error_that_names_it(workers: Results) -> None:
    assert workers["error of a dead worker"].startswith("UnavailableError")
    assert "/job:worker/replica:0/task:1" in workers["error of a dead worker"]


@on_tensorflow
def test_training_goes_on_from_the_last_checkpoint_after_a_worker_died(
    workers: Results, checkpoints: pathlib.Path, float64: None
) -> None:
    import tensorflow as tf

    from tests.tools.replicas_tensorflow import compiled, on_one, ours

    network = compiled(ours(**OPTIONS["all"], jit_compile=False))
    checkpoint = tf.train.Checkpoint(model=network, optimizer=network.optimizer)
    checkpoint.restore(tf.train.latest_checkpoint(checkpoints / "chief")).assert_consumed()
    on_one(network, replicas.data(), range(HALF, STEPS))

    result = workers["all"]
    start, want = (replicas.arrays(result[name]) for name in ("start", "one"))
    models.assert_same(network.get_weights(), want, start, steps=STEPS)


@on_jax
@pytest.mark.parametrize("how", ["fit", "loop"])
@pytest.mark.parametrize("distribution", ["data", "model"])
def test_two_devices_make_the_steps_of_one(
    host_devices: Results, distribution: str, how: str
) -> None:
    assert host_devices["devices"] == 2
    assert_equal_to_one_device(host_devices[f"{distribution}, all/{how}"])


@on_jax
@pytest.mark.parametrize("how", ["fit", "loop"])
@pytest.mark.parametrize("distribution", ["data", "model"])
def test_two_devices_have_the_statistics_of_one(
    host_devices: Results, distribution: str, how: str
) -> None:
    result = host_devices[f"{distribution}, diagnostics/{how}"]
    assert_equal_to_one_device(result)
    assert_equal_statistics(result)


@on_jax
@pytest.mark.parametrize("how", ["fit", "loop"])
@pytest.mark.parametrize("distribution", ["data", "model"])
def test_slots_are_sharded_like_their_weights(
    host_devices: Results, distribution: str, how: str
) -> None:
    assert host_devices[f"{distribution}, all/{how}"]["slots_sharded_differently"] == []


@on_jax
@pytest.mark.parametrize("distribution", ["data", "model"])
def test_a_bad_share_of_one_device_skips_the_step_on_all(
    host_devices: Results, distribution: str
) -> None:
    result = host_devices[f"{distribution}, bad/fit"]
    assert_equal_to_one_device(result)
    assert result["states"][1]["skipped_steps"] == 1


@on_jax
@pytest.mark.parametrize("to_two", [False, True], ids=["to_one_device", "to_two_devices"])
def test_a_training_saved_in_parts_goes_on_elsewhere(host_devices: Results, to_two: bool) -> None:
    assert_equal_to_one_device(host_devices[f"saved, all/{to_two}"])
    assert host_devices[f"saved, all/{to_two}"]["slots_sharded_differently"] == []
