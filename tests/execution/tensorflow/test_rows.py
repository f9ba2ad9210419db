"""Test that the rows of a gradient are summed in a compiled step on TensorFlow."""

from typing import Any

import pytest

from tests.conftest import BACKEND
from tests.tools import twins
from tests.tools.twins import Situation, Training

if BACKEND != "tensorflow":
    pytest.skip(f"tests TensorFlow, not {BACKEND}", allow_module_level=True)

import tensorflow as tf

from tests.tools.steps_tensorflow import trajectories


def sparse_from_now_on(training: Training) -> None:
    """Give the matrix's gradient as rows, one of them twice."""

    def feed(gradients: list[Any]) -> None:
        ids = tf.constant([1, 0, 1])
        rows = tf.IndexedSlices(tf.gather(gradients[1], ids), ids, tf.constant([2, 3]))
        training.apply([gradients[0], rows])

    training.feed = feed


def test_gradients_that_become_rows_are_summed_in_a_compiled_step(float64):
    compiled, op_by_op = trajectories(Situation(lambda: {"clipnorm": 1.0}, sparse_from_now_on))
    twins.assert_same_trajectory(compiled, op_by_op)
