"""Test that ordinary programs run as they do with Keras's own class."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from tests.conftest import BACKEND
from tests.optimizer import scenarios

TABLE = scenarios.load_all()
HERE = [name for name, scenario in TABLE.items() if BACKEND in scenario.backends]


def outcome(name: str, optimizer: Any, folder: Path) -> Any:
    """Run a scenario, ignoring warnings that it does not check itself."""
    folder.mkdir()
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TABLE[name].run(optimizer, folder)


def assert_agree(got: Any, want: Any, where: str) -> None:
    """Fail unless two results hold the same numbers."""
    if isinstance(want, Mapping):
        assert got.keys() == want.keys(), where
        for key in want:
            assert_agree(got[key], want[key], f"{where}[{key!r}]")
    elif isinstance(want, list | tuple):
        assert len(got) == len(want), where
        for i, (mine, theirs) in enumerate(zip(got, want, strict=True)):
            assert_agree(mine, theirs, f"{where}[{i}]")
    elif want is None or isinstance(want, str):
        assert got == want, where
    else:
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6, err_msg=where)


@pytest.mark.parametrize("name", HERE)
def test_runs_as_with_keras(name, tmp_path):
    reason = TABLE[name].keras_fails
    if reason is None:
        want = outcome(name, keras.optimizers.RMSprop, tmp_path / "keras")
        got = outcome(name, keras_rmsprop.RMSprop, tmp_path / "ours")
        assert_agree(got, want, name)
    else:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever Keras fails with
            outcome(name, keras.optimizers.RMSprop, tmp_path / "keras")
        outcome(name, keras_rmsprop.RMSprop, tmp_path / "ours")
