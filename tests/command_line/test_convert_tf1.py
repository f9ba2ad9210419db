"""Test `convert` with checkpoints that `tf.compat.v1.train.Saver` writes and restores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_rmsprop import conventions
from tests.tools import commands, disk
from tests.tools.commands import HALF, PATHS, RATE
from yardsticks import peers

if peers.unavailable("tf1"):
    pytest.skip(str(peers.unavailable("tf1")), allow_module_level=True)

import tensorflow as tf

CASES: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.5, "epsilon": 2.0**-10},
    "centered": {"momentum": 0.5, "centered": True, "epsilon": 2.0**-10, "decay": 0.75},
}


class There:
    """A program of TF1: a graph with variables of Keras's names, and a session."""

    def __init__(self, names: Sequence[str] = PATHS, **arguments: Any) -> None:
        v1, starts = tf.compat.v1, commands.starts()
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.variables = [
                v1.get_variable(name, initializer=weight)
                for name, weight in zip(names, starts, strict=True)
            ]
            self.gradients = [v1.placeholder(v.dtype, v.shape) for v in self.variables]
            step = v1.train.get_or_create_global_step()
            optimizer = v1.train.RMSPropOptimizer(RATE, **arguments)
            pairs = zip(self.gradients, self.variables, strict=True)
            self.train = optimizer.apply_gradients(pairs, global_step=step)
            self.saver = v1.train.Saver()
            self.session = v1.Session()
            self.session.run(v1.global_variables_initializer())

    def step(self, first: int, last: int) -> list[Any]:
        """Make steps, and return the weights."""
        for step in commands.gradients()[first:last]:
            self.session.run(self.train, dict(zip(self.gradients, step, strict=True)))
        return [np.array(weight) for weight in self.session.run(self.variables)]

    def save(self, path: Path) -> str:
        """Save a checkpoint, and return its prefix."""
        with self.graph.as_default():
            return str(self.saver.save(self.session, str(path), global_step=HALF))

    def restore(self, prefix: Path) -> None:
        """Restore a checkpoint."""
        with self.graph.as_default():
            self.saver.restore(self.session, str(prefix))


def after_three_steps(folder: Path, there: There, optimizer: Any) -> tuple[str, list[Any]]:
    """Save a checkpoint, and a model with its weights; return the prefix and the options."""
    weights = there.step(0, HALF)
    prefix = there.save(folder / "model.ckpt")
    commands.save_model(folder / "model.keras", optimizer, weights)
    return prefix, ["--model", folder / "model.keras"]


@pytest.mark.parametrize("case", CASES)
def test_three_steps_there_and_three_here(tmp_path, case):
    there = There(**CASES[case])
    optimizer = conventions.tf1(RATE, **CASES[case])
    prefix, options = after_three_steps(tmp_path, there, optimizer)
    commands.succeeds("convert", prefix, tmp_path / "out.keras", *options)
    got = commands.go_on_here(tmp_path / "out.keras")
    commands.assert_same(got, there.step(HALF, 2 * HALF))


@pytest.mark.parametrize("case", CASES)
def test_three_steps_here_and_three_there(tmp_path, case):
    optimizer = conventions.tf1(RATE, **CASES[case])
    commands.save_model(tmp_path / "model.keras", optimizer, trained=True)
    prefix = tmp_path / "back.ckpt-3"
    said = commands.succeeds("convert", tmp_path / "model.keras", prefix)
    assert "hidden/kernel" in said
    there = There(**CASES[case])
    there.restore(prefix)
    commands.assert_same(there.step(HALF, 2 * HALF), There(**CASES[case]).step(0, 2 * HALF))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.keras", "back.ckpt-3.index", "back.ckpt-3.data-00000-of-00001"}


def test_names_of_variables_and_of_the_optimizer_may_be_others(tmp_path):
    entries: Mapping[str, str] = {f"tower/{path.replace('/', '_')}": path for path in PATHS}
    map_file = commands.write_json(tmp_path / "map.json", entries)
    there = There(list(entries), name="Optimize", momentum=0.5)
    optimizer = conventions.tf1(RATE, momentum=0.5)
    prefix, options = after_three_steps(tmp_path, there, optimizer)
    options += ["--map", map_file]
    words = commands.fails("convert", prefix, tmp_path / "out.keras", *options)
    assert "--name" in words
    options += ["--name", "Optimize"]
    commands.succeeds("convert", prefix, tmp_path / "out.keras", *options)
    want = there.step(HALF, 2 * HALF)
    commands.assert_same(commands.go_on_here(tmp_path / "out.keras"), want)
    # And back, by the same names.
    back = tmp_path / "back.ckpt"
    commands.succeeds("convert", tmp_path / "out.keras", back, *options[2:])
    again = There(list(entries), name="Optimize", momentum=0.5)
    again.restore(back)
    commands.assert_same(again.step(HALF, 2 * HALF), want)


def test_the_index_of_a_checkpoint_names_it_too(tmp_path):
    prefix, options = after_three_steps(tmp_path, There(), conventions.tf1(RATE))
    commands.succeeds("convert", f"{prefix}.index", tmp_path / "out.keras", *options)


def test_a_folder_is_its_latest_checkpoint(tmp_path, monkeypatch):
    there = There()
    (tmp_path / "run").mkdir()
    commands.save_model(tmp_path / "model.keras", conventions.tf1(RATE), there.step(0, HALF))
    there.save(tmp_path / "run" / "model.ckpt")
    options = ["--model", tmp_path / "model.keras"]
    commands.succeeds("convert", tmp_path / "run", tmp_path / "out.keras", *options)
    got = commands.go_on_here(tmp_path / "out.keras")
    commands.assert_same(got, there.step(HALF, 2 * HALF))
    monkeypatch.chdir(tmp_path / "run")
    commands.succeeds("convert", ".", tmp_path / "out.keras", *options, "--force")


def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path):
    prefix, options = after_three_steps(tmp_path, There(), conventions.tf1(RATE))
    Path(f"{prefix}.index").write_bytes(b"damaged")
    assert prefix in commands.fails("convert", prefix, tmp_path / "out.keras", *options)
    assert not (tmp_path / "out.keras").exists()


def test_a_checkpoint_in_the_way_is_replaced_only_by_force(tmp_path):
    commands.save_model(tmp_path / "model.keras", conventions.tf1(RATE), trained=True)
    arguments = ("convert", tmp_path / "model.keras", tmp_path / "back.ckpt")
    commands.succeeds(*arguments)
    assert "--force" in commands.fails(*arguments)
    commands.succeeds(*arguments, "--force")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


def test_a_checkpoint_that_cannot_be_replaced_stays_as_it_is(tmp_path, monkeypatch):
    commands.save_model(tmp_path / "old.keras", conventions.tf1(RATE))
    commands.save_model(tmp_path / "new.keras", conventions.tf1(RATE), trained=True)
    commands.succeeds("convert", tmp_path / "old.keras", tmp_path / "back.ckpt")
    before = files_in(tmp_path)
    replace = Path.replace

    def fails(path: Path, target: Path) -> Path:
        if path.suffix == ".index" and Path(target).parent == tmp_path and is_first.pop():
            raise PermissionError(13, "as planned", str(target))
        return replace(path, target)

    is_first = [False, True]
    monkeypatch.setattr(Path, "replace", fails)
    words = commands.fails("convert", tmp_path / "new.keras", tmp_path / "back.ckpt", "--force")
    assert "as planned" in words
    assert files_in(tmp_path) == before


def test_a_full_disk_is_told_with_the_name_of_the_target_and_the_old_files_stay(tmp_path):
    commands.save_model(tmp_path / "old.keras", conventions.tf1(RATE), trained=True)
    arguments = ("convert", tmp_path / "old.keras", tmp_path / "model.ckpt-1", "--force")
    commands.succeeds(*arguments)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with disk.full():
        words = commands.fails(*arguments)
    assert words == f"File too large ({tmp_path / 'model.ckpt-1'})."
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
