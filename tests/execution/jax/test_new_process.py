"""Test that steps on JAX go on in a new process, and run wherever their variables are."""

import pathlib
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_rmsprop
from tests.conftest import BACKEND
from tests.tools import models, twins

if BACKEND != "jax":
    pytest.skip(f"tests JAX, not {BACKEND}", allow_module_level=True)


NEW_PROCESS = """
import logging, sys
import jax, keras, numpy as np
import keras_rmsprop
from keras_rmsprop._execution.jax._programs import compiled_step
from tests.tools import twins
folder = sys.argv[1]
results = {}

class Records(logging.Handler):
    messages = []
    def emit(self, record):
        # On a busy machine a compilation may take long enough to be logged, at INFO.
        if record.levelno == logging.DEBUG:
            self.messages.append(record.getMessage())
records = Records()
records.messages = []
logging.getLogger("keras_rmsprop").addHandler(records)
logging.getLogger("keras_rmsprop").setLevel(logging.DEBUG)

# A run that is resumed here.
network = keras.models.load_model(folder + "/model.keras")
state = twins.go_on(network, range(4, 8))
results |= {f"resumed_{i}": x for i, x in enumerate(state)}
results["resumed_compiled"] = compiled_step._cache_size()

# Weights on two devices.
here, there = jax.devices()
places = {"here": (here, here), "there": (there, there), "apart": (here, there)}
for name, devices in places.items():
    records.messages = []
    variables = [keras.Variable([1.0, 2.0]) for _ in devices]
    for variable, device in zip(variables, devices):
        variable.assign(jax.device_put(variable.value, device))
    optimizer = keras_rmsprop.RMSprop(0.1)
    for _ in range(4):
        gradients = [jax.device_put(np.float32([0.5, -0.5]), device) for device in devices]
        optimizer.apply(gradients, variables)
    assert all(v.value.devices() == {d} for v, d in zip(variables, devices))
    results[name] = [np.array(v.value) for v in variables]
    results[name + " log"] = records.messages
optimizer.jit_compile = True
try:
    optimizer.apply(gradients, variables)
except ValueError as error:
    results["insisted"] = str(error)
np.savez(folder + "/results.npz", **results)
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], dict[str, Any]]:
    """The state of an uninterrupted run, and the results of a process that resumes it."""
    folder: pathlib.Path = tmp_path_factory.mktemp("process")
    network = twins.a_model()
    twins.go_on(network, range(4))
    network.save(folder / "model.keras")
    uninterrupted = twins.go_on(twins.a_model(), range(8))
    flags = "--xla_force_host_platform_device_count=2"
    return uninterrupted, twins.run_in_new_process(NEW_PROCESS, folder, XLA_FLAGS=flags)


def test_a_run_resumed_in_a_new_process_is_bit_identical_to_an_uninterrupted_one(processes):
    uninterrupted, after = processes
    assert after["resumed_compiled"] == 1
    models.assert_identical(
        [after[f"resumed_{i}"] for i in range(len(uninterrupted))], uninterrupted
    )


@pytest.mark.parametrize(("where", "told"), [("here", 0), ("there", 0), ("apart", 1)])
def test_a_step_runs_wherever_its_variables_are(processes, where, told):
    optimizer = keras_rmsprop.RMSprop(0.1, jit_compile=False)
    variable = keras.Variable([1.0, 2.0])
    for _ in range(4):
        optimizer.apply([ops.convert_to_tensor([0.5, -0.5])], [variable])
    _, after = processes
    for got in after[where]:
        np.testing.assert_allclose(got, variable.numpy(), rtol=1e-6)
    assert len(after[where + " log"]) == told


def test_jit_compile_true_raises_if_the_variables_are_on_different_devices(processes):
    _, after = processes
    assert "incompatible devices" in str(after["insisted"])
