"""Test that the files of earlier versions can be read."""

import keras
import numpy as np
import pytest

from tests.conftest import BACKEND, since_keras
from tests.state.data import write as written
from tests.tools import models
from tests.tools.states import assert_same_state


def read(name: str) -> keras.Model:
    """Return a model with the weights and the optimizer of a file that version 0.1 wrote."""
    network = written.network()
    network.compile(written.optimizer(name), loss="mse")
    network.optimizer.build(network.trainable_variables)
    network.load_weights(written.HERE / f"{name}.weights.h5")
    models.assert_identical(network.get_weights(), written.weights())
    assert network.optimizer.load_report.initialized == ()
    assert network.optimizer.load_report.dropped == ()
    return network


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_weights_written_by_version_0_1_are_read(name):
    assert_same_state(read(name).optimizer, written.state(name))


def test_lazy_weights_written_by_version_0_1_are_read():
    optimizer = read("lazy").optimizer
    want = written.state("lazy")
    if BACKEND == "tensorflow":
        assert_same_state(optimizer, want)
        return
    # Without sparse gradients the updates that rows have missed are made up on loading.
    state = optimizer.state_dict()
    for name, shape in written.SHAPES.items():
        missed = want[f"{name}/updates"] - want[f"{name}/row_updates"]
        corrections = want[f"{name}/correction"] - want[f"{name}/row_corrections"]
        decay = (0.9**missed * np.exp(corrections)).reshape(-1, *[1] * (len(shape) - 1))
        square_average = want[f"{name}/square_average"]
        np.testing.assert_allclose(
            state[f"{name}/square_average"], decay * square_average, rtol=1e-6
        )


@since_keras("3.13", "accepts the `quantization_config` of the file's layers")
def test_a_model_written_by_version_0_1_is_read_in_safe_mode():
    network = keras.saving.load_model(written.HERE / "everything.keras", safe_mode=True)
    models.assert_identical(network.get_weights(), written.weights())
    # Without the model's name, which loading removes.
    state = written.state("everything")
    assert_same_state(
        network.optimizer, {name.removeprefix("model/"): state[name] for name in state}
    )
    config = network.optimizer.get_config()
    assert config == config | written.OPTIMIZERS["everything"]
