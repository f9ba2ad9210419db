"""Test that steps on TensorFlow go on in a new process, and run wherever their variables are."""

import functools
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf

NEW_PROCESS = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras_rmsprop
from keras_rmsprop._execution.tensorflow import _engine
_engine.NESTED_ELEMENTS = 0
from tests.tools import twins
from tests.tools.steps_tensorflow import compiled_steps
folder = sys.argv[1]
results = {}

def number_compiled(optimizer):
    return len(compiled_steps(optimizer))

# A run that is resumed here.
network = keras.models.load_model(folder + "/model.keras")
state = twins.go_on(network, range(4, 8))
results |= {f"resumed_{i}": x for i, x in enumerate(state)}
results["resumed_compiled"] = number_compiled(network.optimizer)

# An exported function, which does not need the package.
module = tf.saved_model.load(folder + "/module")
for t in range(4):
    module.step(tf.fill([2, 3], 0.5 + t))
results["exported"] = module.weight

# Variables, calls and gradients on two devices.
def placed(first, second, optimizer, call, function):
    with tf.device(first):
        a = keras.Variable([1.0, 2.0])
    with tf.device(second):
        b = keras.Variable([1.0, 2.0])
        gradient = tf.constant([0.5, -0.5])
    with tf.device(optimizer):
        rmsprop = keras_rmsprop.RMSprop(0.1)
        rmsprop.build([a, b])
    def step():
        with tf.device(call):
            rmsprop.apply([gradient, 2.0 * gradient], [a, b])
    step = tf.function(step, autograph=False) if function else step
    for _ in range(3):
        step()
    return [number_compiled(rmsprop), *a.numpy(), *b.numpy()]

for name, devices in {
    "weights apart": ("CPU:0", "CPU:1", None, None),
    "all elsewhere": ("CPU:1", "CPU:1", "CPU:1", None),
    "called from elsewhere": ("CPU:0", "CPU:0", "CPU:0", "CPU:1"),
    "counter apart": ("CPU:1", "CPU:1", "CPU:0", None),
    "all here": ("CPU:0", "CPU:0", None, None),
}.items():
    results[name] = placed(*devices, False)
    results[name + " in a function"] = placed(*devices, True)

# Variables of a strategy, used outside it.
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    weight = keras.Variable([1.0, 2.0])
    rmsprop = keras_rmsprop.RMSprop(0.1)
    rmsprop.build([weight])
for _ in range(3):
    rmsprop.apply([tf.constant([0.5, -0.5])], [weight])
results["mirrored"] = [copy.numpy() for copy in weight.value.values]
np.savez(folder + "/results.npz", **results)
"""


class Exported(tf.Module):
    """A module with a training function, for export."""

    def __init__(self) -> None:
        self.weight = tf.Variable(tf.ones((2, 3)))
        self.optimizer = keras_rmsprop.RMSprop(0.1, momentum=0.5, jit_compile=True)
        self.optimizer.build([self.weight])

    @tf.function(input_signature=[tf.TensorSpec((2, 3), tf.float32)], autograph=False)
    def step(self, gradient: tf.Tensor) -> None:
        """Make a step."""
        self.optimizer.apply([gradient], [self.weight])


class Before:
    """The files from which a new process goes on, and the results without one."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.uninterrupted = twins.go_on(twins.a_model(), range(8))
        network = twins.a_model()
        twins.go_on(network, range(4))
        network.save(folder / "model.keras")
        module = Exported()
        tf.saved_model.save(module, str(folder / "module"))
        for t in range(4):
            module.step(tf.fill([2, 3], 0.5 + t))
        self.exported = module.weight.numpy()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Before, dict[str, Any]]:
    """This process's results and those of a new one that goes on from here."""
    folder = tmp_path_factory.mktemp("process")
    before = Before(folder)
    return before, twins.run_in_new_process(NEW_PROCESS, folder)


def test_a_run_resumed_in_a_new_process_is_bit_identical_to_an_uninterrupted_one(processes):
    before, after = processes
    assert after["resumed_compiled"] == 1
    resumed = [after[f"resumed_{i}"] for i in range(len(before.uninterrupted))]
    models.assert_identical(resumed, before.uninterrupted)


def test_an_exported_training_function_runs_in_a_new_process(processes):
    before, after = processes
    np.testing.assert_array_equal(after["exported"], before.exported)


@functools.cache
def on_one_device() -> np.ndarray:
    """The weights that the new process should have on any devices."""
    optimizer = keras_rmsprop.RMSprop(0.1, jit_compile=False)
    variables = [keras.Variable([1.0, 2.0]) for _ in range(2)]
    for _ in range(3):
        optimizer.apply([tf.constant([0.5, -0.5]), tf.constant([1.0, -1.0])], variables)
    return np.concatenate(models.values(variables))


@pytest.mark.parametrize("where", ["", " in a function"], ids=["eager", "in a function"])
@pytest.mark.parametrize(
    ("placement", "compiles"),
    {
        "all here": True,
        "weights apart": False,
        "all elsewhere": True,
        "called from elsewhere": True,
        "counter apart": False,
    }.items(),
)
def test_a_step_runs_wherever_its_variables_are(processes, placement, compiles, where):
    _, after = processes
    compiled, *weights = after[placement + where]
    assert compiled == compiles
    np.testing.assert_allclose(weights, on_one_device(), rtol=1e-6)


def test_variables_of_a_strategy_stay_equal_outside_it(processes):
    _, after = processes
    for copy in after["mirrored"]:
        np.testing.assert_allclose(copy, on_one_device()[:2], rtol=1e-6)
