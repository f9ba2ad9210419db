"""Test which variables a pattern of `groups` matches."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_rmsprop import RMSprop
from keras_rmsprop._variables._members import Members
from tests.conftest import BACKEND
from tests.tools.models import WithPath


class Named:
    """A stand-in for a variable, with only a path and a shape."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.shape = (2,)


PATHS = ("model/body/kernel", "model/body/bias", "model/head/kernel", "model/head/bias")


def members(patterns: Sequence[str], paths: Sequence[str] = PATHS) -> tuple[int, ...]:
    """The group numbers of variables with these paths."""
    return Members().of(patterns, [Named(path) for path in paths], None)


@pytest.mark.parametrize(
    ("patterns", "want"),
    [
        ([], (0, 0, 0, 0)),
        (["model/body/.*"], (1, 1, 0, 0)),
        ([".*/kernel", ".*/bias"], (1, 2, 1, 2)),
        ([".*/(kernel|bias)"], (1, 1, 1, 1)),
        (["model/head/bias", ".*/bias"], (0, 2, 0, 1)),
        ([".*/bias", "model/head/bias"], (0, 1, 0, 2)),
        # Without the model's name, which a loaded model drops.
        (["body/.*"], (1, 1, 0, 0)),
        (["body/.*", "head/kernel"], (1, 1, 2, 0)),
    ],
    ids=repr,
)
def test_a_pattern_matches_whole_paths_and_an_exact_path_wins(
    patterns: list[str], want: tuple[int, ...]
) -> None:
    assert members(patterns) == want


def test_a_pattern_with_the_name_of_the_model_matches_paths_without_it() -> None:
    paths = [path.removeprefix("model/") for path in PATHS]
    assert members(["model/body/.*"], paths) == (1, 1, 0, 0)
    assert members(["model/head/bias"], paths) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match=r"'modle/\.\*' of `groups` matches none"):
        members(["modle/.*"], paths)


def test_a_path_that_two_patterns_match_is_an_error_that_names_both() -> None:
    with pytest.raises(ValueError, match="'model/body/bias' is matched by several") as error:
        members(["body/.*", ".*/bias"])
    assert "'body/.*' and '.*/bias'" in str(error.value)


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("model/boddy/kernel", "model/body/kernel"), ("head", "model/head/kernel"), ("x", PATHS[0])],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_near_misses(
    pattern: str, near: str
) -> None:
    with pytest.raises(ValueError, match=f"{pattern!r} of `groups` matches none") as error:
        members([pattern])
    assert repr(near) in str(error.value)


def test_an_optimizer_whose_pattern_matches_nothing_is_not_built() -> None:
    optimizer = RMSprop(groups={"nothing": {"rho": 0.5}})
    weight = keras.Variable([1.0], name="weight")
    for _ in range(2):
        with pytest.raises(ValueError, match="matches none of the optimizer's variables"):
            optimizer.apply([keras.ops.ones(1)], [weight])
    assert not optimizer.built
    assert len(optimizer.variables) == 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="other backends' raw variables have no names")
def test_a_raw_variable_is_matched_by_its_name() -> None:
    import tensorflow as tf

    raw = [tf.Variable([1.0], name="first"), tf.Variable([1.0], name="second")]
    optimizer = RMSprop(groups={"second:0": {"learning_rate": 0.0}})
    optimizer.apply([tf.ones(1), tf.ones(1)], raw)
    assert raw[0].numpy() != 1.0
    assert raw[1].numpy() == 1.0


def nested_model() -> keras.Model:
    """A model that contains another, whose name is in the paths until it is saved."""
    inner = keras.Sequential([keras.layers.Dense(2, name="dense")], name="backbone")
    inputs = keras.Input((3,))
    return keras.Model(inputs, keras.layers.Dense(1, name="head")(inner(inputs)), name="outer")


def test_a_loaded_model_keeps_its_groups_although_its_paths_have_changed(tmp_path: Path) -> None:
    model = nested_model()
    model.compile(RMSprop(groups={"backbone/.*": {"learning_rate": 0.0, "rho": 0.5}}), "mse")
    x = np.ones((4, 3), "float32")
    model.fit(x, x[:, :1], verbose=0)
    for name in ("once", "twice"):
        model.save(tmp_path / f"{name}.keras")
        model = keras.models.load_model(tmp_path / f"{name}.keras")
        paths = [v.path for v in model.trainable_variables]
        assert "backbone/dense/kernel" not in paths
        assert model.optimizer._roster.members == (1, 1, 0, 0)
        before = [v.numpy() for v in model.trainable_variables]
        model.fit(x, x[:, :1], verbose=0)
        moved = [
            bool(np.any(v.numpy() != old))
            for v, old in zip(model.trainable_variables, before, strict=True)
        ]
        assert moved == [False, False, True, True]


def test_a_config_keeps_its_groups_for_variables_with_other_paths() -> None:
    first = [keras.Variable([1.0], name=f"old_{i}") for i in range(2)]
    optimizer = RMSprop(groups={"old_1": {"rho": 0.5}})
    optimizer.build(first)
    again = RMSprop.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    again.build([keras.Variable([1.0], name=f"new_{i}") for i in range(2)])
    assert again._roster.members == (0, 1)


@pytest.mark.parametrize(
    "entry",
    [{}, {"paths": [], "shapes": [], "patterns": 3}, {"paths": [], "shapes": [1]}],
    ids=repr,
)
def test_a_config_with_invalid_group_members_is_refused(entry: Any) -> None:
    config = RMSprop(groups={"a": {}}).get_config() | {"group_members": entry}
    with pytest.raises(ValueError, match="`group_members` of a config must hold the lists"):
        RMSprop.from_config(config)


def test_unfrozen_layers_can_be_added_with_groups_of_their_own() -> None:
    model = nested_model()
    backbone = model.get_layer("backbone")
    backbone.trainable = False
    model.compile(RMSprop(momentum=0.5, groups={"head/bias": {"weight_decay": 0.1}}), "mse")
    x = np.ones((4, 3), "float32")
    model.fit(x, x[:, :1], verbose=0)
    optimizer = model.optimizer
    optimizer.groups["head/bias"].learning_rate = 0.25
    backbone.trainable = True
    with pytest.raises(ValueError, match="There is a group 'head/bias' already"):
        optimizer.add_variables(model.trainable_variables, groups={"head/bias": {}})
    with pytest.raises(ValueError, match=r"'bckbone/\.\*' of `groups` matches none"):
        optimizer.add_variables(model.trainable_variables, groups={"bckbone/.*": {}})
    assert list(optimizer.groups) == ["head/bias"]
    own = {"learning_rate": 0.0, "momentum": 0.0}
    optimizer.add_variables(model.trainable_variables, groups={"backbone/.*": own})
    model.compile(optimizer, "mse")
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(x, x[:, :1], verbose=0)
    moved = [np.any(v.numpy() != w) for v, w in zip(model.trainable_variables, before, strict=True)]
    assert moved == [False, False, True, True]
    assert optimizer._roster.members == (2, 2, 0, 1)
    assert optimizer.groups["head/bias"].learning_rate == 0.25
    names = [v.name for v in optimizer.variables]
    assert names.count("group_learning_rates") == 1


def test_a_group_of_frozen_layers_is_loaded_and_used_once_they_train_again(
    tmp_path: Path,
) -> None:
    model = nested_model()
    model.compile(RMSprop(groups={"backbone/.*": {"learning_rate": 0.0}}), "mse")
    x = np.ones((4, 3), "float32")
    model.fit(x, x[:, :1], verbose=0)
    model.get_layer("backbone").trainable = False
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        # The state of frozen layers is not needed.
        warnings.simplefilter("ignore")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer._roster.members == (0, 0)
    loaded.get_layer("backbone").trainable = True
    loaded.optimizer.add_variables(loaded.trainable_variables)
    # On TensorFlow the loaded layers do not become trainable.
    if len(loaded.trainable_variables) == 4:
        assert loaded.optimizer._roster.members == (1, 1, 0, 0)
    again = RMSprop.from_config(loaded.optimizer.get_config())
    again.build(loaded.trainable_variables)
    assert list(again.groups) == ["backbone/.*"]


def test_a_loaded_optimizer_accepts_new_groups_of_old_variables(tmp_path: Path) -> None:
    model = nested_model()
    model.compile(RMSprop(groups={"backbone/.*": {"learning_rate": 0.0}}), "mse")
    x = np.ones((4, 3), "float32")
    model.fit(x, x[:, :1], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.optimizer.add_variables(loaded.trainable_variables, groups={"head/kernel": {"rho": 0.5}})
    assert loaded.optimizer._roster.members == (1, 1, 2, 0)
    config = model.optimizer.get_config()
    config["groups"]["head/.*"] = {"rho": 0.7}
    changed = RMSprop.from_config(config)
    changed.build(loaded.trainable_variables)
    assert changed._roster.members == (1, 1, 2, 2)


def test_variables_stay_in_their_group_when_others_are_added() -> None:
    weights = [WithPath(path) for path in ("model/head/kernel", "model/body/kernel")]
    optimizer = RMSprop(groups={"head/.*": {"learning_rate": 0.5}})
    optimizer.build([weights[0]])
    assert optimizer._roster.members == (1,)
    optimizer.add_variables([*weights, WithPath("extra/kernel"), WithPath("temperature")])
    assert optimizer._roster.members == (1, 0, 0, 0)


def test_a_variable_without_a_layer_does_not_hide_the_name_of_the_model() -> None:
    assert members(["head/.*"], [*PATHS, "temperature"]) == (0, 0, 1, 1, 0)
    assert members(["head/bias", "head/.*"], PATHS) == (0, 0, 2, 1)


def test_a_config_matches_paths_before_positions() -> None:
    first = [WithPath("a"), WithPath("b")]
    optimizer = RMSprop(groups={"a": {"learning_rate": 0.0}})
    optimizer.build(first)
    for paths, want in ((("b", "a"), (0, 1)), (("c", "a"), (0, 1)), (("c", "d"), (1, 0))):
        again = RMSprop.from_config(optimizer.get_config())
        again.build([WithPath(path) for path in paths])
        assert again._roster.members == want
