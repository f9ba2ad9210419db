"""The comparison of slots in bfloat16 with float32 measures what it says."""

import keras
import numpy as np
import pytest

from benchmarks import low_precision


def test_the_costs_count_the_bytes_of_the_slots(monkeypatch):
    monkeypatch.setattr(low_precision, "SHAPES", {"small": [(100, 80), (800,)]})
    rows = list(low_precision.costs(quick=True))
    held = [(float(row["bytes, float32"]), float(row["bytes, bfloat16"])) for row in rows]
    # One and three slots; the counter and the learning rate are 12 bytes of more than 100.
    np.testing.assert_allclose(held, [(4, 2), (12, 6)], atol=0.15)


def test_each_epoch_takes_every_example_once():
    order = low_precision._order(np.random.default_rng(0), count=12, batch=4, steps=7)
    assert order.shape == (7, 4)
    for epoch in (order[:3], order[3:6]):
        assert sorted(epoch.ravel()) == list(range(12))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the trainings are JAX's")
def test_float32_and_both_roundings_train_apart():
    problem = low_precision.digits()._replace(steps=20)
    options = low_precision.CONFIGURATIONS["rho 0.999"]
    final = {
        contender: low_precision.train(problem, contender, options)[1]
        for contender in low_precision.COLOURS
    }
    assert {values.shape for values in final.values()} == {(low_precision.SEEDS,)}
    assert len({tuple(values) for values in final.values()}) == 3
