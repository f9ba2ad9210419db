"""Test that steps on torch go on in a new process."""

import pathlib

import pytest

from tests.conftest import BACKEND
from tests.tools import models, twins

if BACKEND != "torch":
    pytest.skip(f"tests torch, not {BACKEND}", allow_module_level=True)


NEW_PROCESS = """
import sys
import keras, numpy as np
import keras_rmsprop
from tests.tools import twins
folder = sys.argv[1]
network = keras.models.load_model(folder + "/model.keras")
state = twins.go_on(network, range(4, 8))
np.savez(folder + "/results.npz", **{f"resumed_{i}": x for i, x in enumerate(state)})
"""


def test_a_run_resumed_in_a_new_process_is_bit_identical_to_an_uninterrupted_one(
    tmp_path: pathlib.Path,
):
    network = twins.a_model()
    twins.go_on(network, range(4))
    network.save(tmp_path / "model.keras")
    uninterrupted = twins.go_on(twins.a_model(), range(8))
    after = twins.run_in_new_process(NEW_PROCESS, tmp_path)
    models.assert_identical(
        [after[f"resumed_{i}"] for i in range(len(uninterrupted))], uninterrupted
    )
