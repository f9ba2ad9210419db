"""Test which programs steps on TensorFlow need if some of the gradients are missing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.twins import Training

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf

from tests.tools.steps_tensorflow import compiled_steps


def gradients_of(training: Training, present: Sequence[bool], dtype: str = "float64") -> list[Any]:
    """A gradient for each variable that has one, None for the others."""
    rng = np.random.default_rng(int.from_bytes(bytes(present)) + 3)
    return [
        tf.constant(rng.normal(size=v.shape), dtype) if is_there else None
        for v, is_there in zip(training.variables, present, strict=True)
    ]


SETS = [(True, False), (True, True), (False, True), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"centered": True, "momentum": 0.5},
        {"global_clipnorm": 0.5},
        {"clipnorm": 0.5, "weight_decay": 0.1},
        {"use_ema": True, "l2": 0.1},
        {"skip_nonfinite": True},
        {"gradient_accumulation_steps": 2},
        {"learning_rate": 0.1, "bias_correction": True},
    ],
    ids=str,
)
def test_all_sets_of_missing_gradients_share_one_program(options, float64, monkeypatch):
    compiled, op_by_op = (Training({**options, "jit_compile": mode}) for mode in (True, False))
    for present in SETS:
        for training in (compiled, op_by_op):
            training.apply(gradients_of(training, present))
        for mine, theirs in zip(compiled.state(), op_by_op.state(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    # One for the full set, and one for any other.
    assert len(compiled_steps(compiled.optimizer)) == 2


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("bfloat16", "float64")])
@pytest.mark.parametrize("given", [None, "float32", "float64"])
def test_the_dtypes_of_missing_gradients_need_no_further_programs(dtypes, given):
    training = Training({"jit_compile": True}, dtypes)
    for present in SETS:
        gradients = gradients_of(training, present, "float64")
        training.apply(
            [
                None if g is None else tf.cast(g, given or v.dtype)
                for g, v in zip(gradients, training.variables, strict=True)
            ]
        )
    assert len(compiled_steps(training.optimizer)) <= (2 if given is None else 3)


def test_the_program_depends_only_on_the_set_of_gradients():
    # A run that begins with another set gives the same bits.
    runs = []
    for first in SETS[:2]:
        training = Training({"jit_compile": True, "global_clipnorm": 0.5}, ("float32", "float32"))
        training.optimizer.build(training.variables)
        start = training.state()
        training.apply(gradients_of(training, first, "float32"))
        for variable, value in zip(
            [*training.variables, *training.optimizer.variables], start, strict=True
        ):
            variable.assign(value)
        for present in SETS:
            training.apply(gradients_of(training, present, "float32"))
        runs.append(training.state())
    models.assert_identical(*runs)
