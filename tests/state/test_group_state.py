"""Test saving the state of groups, and loading it into the same and into other groups."""

import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from keras_rmsprop import RMSprop
from keras_rmsprop.reference import Reference

GROUPS = {"model/first/.*": {"learning_rate": 0.5, "rho": 0.7, "momentum": 0.0}}
RATES = "groups/model/first/.*/learning_rate"


def trained(groups: Any = GROUPS, steps: int = 4, **arguments: Any) -> keras.Model:
    """A model that has been trained for some steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, name="first"),
            keras.layers.Dense(1, name="second"),
        ],
        name="model",
    )
    model.compile(RMSprop(0.01, groups=groups, momentum=0.5, **arguments), "mse")
    if steps:
        fit(model, steps)
    else:
        model.optimizer.build(model.trainable_variables)
    return model


def fit(model: keras.Model, steps: int = 4) -> None:
    """Train for some steps with the same data each time."""
    x = np.random.default_rng(0).normal(size=(steps, 3)).astype("float32")
    model.fit(x, x[:, :1], batch_size=1, shuffle=False, verbose=0)


def values(model: keras.Model) -> list[np.ndarray]:
    """The values of the weights and of all of the optimizer's variables."""
    variables = [*model.trainable_variables, *model.optimizer.variables]
    return [np.asarray(ops.convert_to_numpy(v)) for v in variables]


def test_a_training_with_groups_resumes_bit_for_bit(tmp_path: Path) -> None:
    model = trained()
    model.optimizer.groups["model/first/.*"].learning_rate = 0.125
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    resumed = trained(steps=0)
    resumed.load_weights(tmp_path / "model.weights.h5")
    for each in (model, loaded, resumed):
        assert each.optimizer.groups["model/first/.*"].learning_rate == 0.125
        fit(each)
    for each in (loaded, resumed):
        assert all(map(np.array_equal, values(model), values(each)))
    assert not loaded.optimizer.load_report.initialized
    assert RATES in loaded.optimizer.load_report.restored


def test_state_loads_across_a_change_of_groups(tmp_path: Path) -> None:
    model = trained()
    model.save_weights(tmp_path / "model.weights.h5")
    others = {"model/second/.*": {"learning_rate": 0.25, "momentum": 0.0}}
    changed = trained(others, steps=0)
    with pytest.warns(UserWarning, match="loaded in part"):
        changed.load_weights(tmp_path / "model.weights.h5")
    report = changed.optimizer.load_report
    assert set(report.initialized) == {
        "groups/model/second/.*/learning_rate",
        "model/first/kernel/momentum",
        "model/first/bias/momentum",
    }
    assert set(report.dropped) == {
        RATES,
        "model/second/kernel/momentum",
        "model/second/bias/momentum",
    }
    assert changed.optimizer.groups["model/second/.*"].learning_rate == 0.25
    for mine, theirs in zip(
        changed.optimizer._roster.parameters, model.optimizer._roster.parameters, strict=True
    ):
        np.testing.assert_array_equal(mine.square_average.numpy(), theirs.square_average.numpy())


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["into none", "into some"])
def test_state_loads_into_and_out_of_groups(groups: Any, tmp_path: Path) -> None:
    model = trained(None if groups else GROUPS)
    model.save_weights(tmp_path / "model.weights.h5")
    other = trained(groups, steps=0)
    with pytest.warns(UserWarning, match="loaded in part"):
        other.load_weights(tmp_path / "model.weights.h5")
    assert int(other.optimizer.iterations) == 4
    fit(other)


def test_the_state_dict_has_the_learning_rate_factors_of_groups() -> None:
    model = trained()
    state = model.optimizer.state_dict()
    assert float(state[RATES]) == 0.5
    assert "model/first/kernel/momentum" not in state
    assert "model/second/kernel/momentum" in state
    state[RATES] = np.asarray(0.75)
    model.optimizer.load_state_dict(state)
    assert model.optimizer.groups["model/first/.*"].learning_rate == 0.75
    del state[RATES]
    with pytest.raises(ValueError, match="The state does not match the optimizer"):
        model.optimizer.load_state_dict(state)
    with pytest.warns(UserWarning, match="these start afresh: groups/model/first"):
        model.optimizer.load_state_dict(state, strict=False)
    assert model.optimizer.groups["model/first/.*"].learning_rate == 0.75


def test_a_buffer_of_steps_becomes_one_of_directions_by_the_rate_of_its_group(
    tmp_path: Path,
) -> None:
    groups = {"model/first/.*": {"learning_rate": 0.5}}
    model = trained(groups)
    model.save_weights(tmp_path / "model.weights.h5")
    other = trained(None, steps=0, lr_in_momentum=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other.load_weights(tmp_path / "model.weights.h5")
    for i, factor in enumerate((0.5, 0.5, 1.0, 1.0)):
        steps = model.optimizer._roster.parameters[i].momentum.numpy()
        directions = other.optimizer._roster.parameters[i].momentum.numpy()
        np.testing.assert_allclose(directions * 0.01 * factor, steps, rtol=1e-6)


def test_an_optimizer_with_groups_loads_a_file_of_keras(tmp_path: Path) -> None:
    model = trained(None)
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.RMSprop(0.01, momentum=0.5), "mse")
    fit(model)
    model.save_weights(tmp_path / "model.weights.h5")
    other = trained({"model/first/.*": {"rho": 0.5, "learning_rate": 0.5}}, steps=0)
    with pytest.warns(UserWarning, match="loaded in part"):
        other.load_weights(tmp_path / "model.weights.h5")
    assert other.optimizer.load_report.initialized == (RATES,)
    theirs = [np.asarray(ops.convert_to_numpy(v)) for v in model.optimizer._velocities]
    ours = [p.square_average.numpy() for p in other.optimizer._roster.parameters]
    assert all(map(np.array_equal, ours, theirs))


def test_a_number_assigned_to_a_group_acts_at_the_next_step(rng: np.random.Generator) -> None:
    starts = [rng.normal(size=3), rng.normal(size=2)]
    weights = [keras.Variable(s, dtype="float32", name=f"w{i}") for i, s in enumerate(starts)]
    optimizer = RMSprop(0.01, groups={"w1": {"momentum": 0.5}}, epsilon=1e-3)
    own: dict[str, Any] = {"momentum": 0.5}
    reference = Reference(starts, groups=[None, own], epsilon=1e-3)
    reference.groups[1] = own
    for name, value in {
        "learning_rate": 0.5,
        "rho": 0.5,
        "epsilon": 0.1,
        "l2": 0.1,
        "weight_decay": 0.2,
        "momentum": 0.25,
        "maximize": True,
    }.items():
        for _ in range(2):
            gradients = [rng.normal(size=s.shape) for s in starts]
            optimizer.apply(
                [ops.convert_to_tensor(g.astype("float32")) for g in gradients], weights
            )
            reference.apply(gradients, 0.01)
        setattr(optimizer.groups["w1"], name, value)
        own[name] = value
    for weight, start, want in zip(weights, starts, reference.weights, strict=True):
        travelled = np.abs(want - start).max()
        off = np.abs(ops.convert_to_numpy(weight) - want).max()
        assert off <= 2e-5 * travelled + 14 * np.spacing(np.float32(np.abs(start).max()))


def test_a_group_without_a_buffer_cannot_get_momentum_after_the_build() -> None:
    model = trained()
    group = model.optimizer.groups["model/first/.*"]
    with pytest.raises(ValueError, match="the momentum buffer is created by `build`"):
        group.momentum = 0.5
    assert group.momentum == 0.0
    # Variables of no group have a buffer.
    model.optimizer.momentum = 0.25
    with pytest.raises(ValueError, match="`lazy` cannot change once the optimizer is built"):
        group.lazy = True
