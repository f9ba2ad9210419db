"""Test `convert` without another framework: Keras's files, arrays, names of files, and failures."""

import json
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop._command_line import _screen
from tests.tools import commands, disk, hdf5, models
from tests.tools.commands import HALF, PATHS, RATE

OPTIONS: dict[str, Any] = {"momentum": 0.5, "centered": True}


@pytest.fixture
def arrays(tmp_path):
    """A file with the averages of optax.rmsprop, and a model for it; the arguments to convert."""
    slots = {f"0/nu/{p}": np.ones_like(w) for p, w in zip(PATHS, commands.starts(), strict=True)}
    np.savez(tmp_path / "state.npz", **slots)
    commands.save_model(tmp_path / "model.keras", keras_rmsprop.RMSprop(RATE))
    return [tmp_path / "state.npz", tmp_path / "out.keras", "--model", tmp_path / "model.keras"]


# Keras's files.


@pytest.mark.parametrize("way", ["the model itself", "another model", "weights"])
def test_a_training_with_keras_own_class_goes_on_with_ours(tmp_path, way):
    theirs = keras.optimizers.RMSprop(RATE, **OPTIONS)
    model = commands.save_model(tmp_path / "old.keras", theirs, trained=True)
    source, options = tmp_path / "old.keras", []
    if way != "the model itself":
        if way == "weights":
            source = tmp_path / "old.weights.h5"
            model.save_weights(source)
        ours = keras_rmsprop.RMSprop(RATE, **OPTIONS)
        commands.save_model(tmp_path / "model.keras", ours, model.get_weights())
        options = ["--model", tmp_path / "model.keras"]
    commands.succeeds("convert", source, tmp_path / "new.keras", *options)
    got = commands.go_on_here(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    assert type(loaded.optimizer) is keras_rmsprop.RMSprop
    commands.assert_same(got, commands.step_here(model, commands.gradients()[HALF:]))


def test_loss_and_metrics_stay_when_keras_own_class_is_replaced(tmp_path):
    commands.save_model(tmp_path / "old.keras", keras.optimizers.RMSprop(RATE), trained=True)
    commands.succeeds("convert", tmp_path / "old.keras", tmp_path / "new.keras")
    x, y = models.data()
    results = [
        keras.saving.load_model(tmp_path / name).evaluate(x, y, verbose=0, return_dict=True)
        for name in ("old.keras", "new.keras")
    ]
    assert results[0] == results[1]
    assert set(results[1]) == {"loss", "mae"}


def test_what_was_restored_started_afresh_and_dropped_is_told(tmp_path):
    theirs = keras_rmsprop.RMSprop(RATE, momentum=0.5)
    commands.save_model(tmp_path / "old.keras", theirs, trained=True)
    ours = keras_rmsprop.RMSprop(RATE, centered=True)
    commands.save_model(tmp_path / "model.keras", ours)
    options = ["--model", tmp_path / "model.keras"]
    arguments = ("convert", tmp_path / "old.keras", tmp_path / "new.keras", *options, "--inexact")
    said = commands.succeeds(*arguments)
    report = [line.split(None, 3) for line in said.splitlines()[:3]]
    assert report[0][:2] == ["restored", "6"]
    assert said.splitlines()[1].startswith("started afresh  4  ")
    assert "gradient_average" in said.splitlines()[1]
    assert report[2][:2] == ["dropped", "4"]
    assert said.splitlines()[-2:] == [
        f"{HALF} steps made, learning rate {RATE:g}",
        f"written to {tmp_path / 'new.keras'}",
    ]


def test_a_wrapped_optimizer_of_keras_is_refused_with_what_to_do(tmp_path, arrays):
    model = models.model()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()), loss="mse")
    model.save(tmp_path / "model.keras")
    words = commands.fails("convert", *arrays)
    assert "Keras's RMSprop in a LossScaleOptimizer" in words
    assert "interop.like(model.optimizer" in words


@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_a_model_with_another_optimizer_is_refused(tmp_path, arrays, optimizer):
    model = models.model()
    if optimizer is not None:
        model.compile(optimizer, loss="mse")
    model.save(tmp_path / "model.keras")
    words = commands.fails("convert", *arrays)
    assert ("no optimizer" if optimizer is None else "Adam") in words


def test_a_model_that_cannot_be_loaded_is_a_sentence(tmp_path, arrays):
    (tmp_path / "model.keras").write_bytes(b"damaged")
    assert "cannot be loaded as a Keras model" in commands.fails("convert", *arrays)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x)])
    model.compile(keras_rmsprop.RMSprop(), loss="mse")
    model.save(tmp_path / "model.keras")
    assert "cannot be loaded as a Keras model" in commands.fails("convert", *arrays)


# Arrays.


def test_arrays_of_objects_are_refused_and_run_no_code(tmp_path, arrays):
    trace = tmp_path / "trace"
    objects = np.array([commands.leaves_a_trace(trace)], dtype=object)
    np.savez(tmp_path / "state.npz", **{"0/nu/hidden/kernel": objects})
    assert "state.npz is not a file" in commands.fails("convert", *arrays)
    assert not trace.exists()
    # The file is what it is taken for.
    np.load(tmp_path / "state.npz", allow_pickle=True)["0/nu/hidden/kernel"]
    assert trace.exists()


def test_files_that_hold_no_arrays_of_numbers_are_refused(tmp_path, arrays):
    whole = (tmp_path / "state.npz").read_bytes()
    for damaged in (b"", b"nothing of NumPy's", whole[: len(whole) // 2]):
        (tmp_path / "state.npz").write_bytes(damaged)
        assert "state.npz is not a file" in commands.fails("convert", *arrays)
    with (tmp_path / "state.npz").open("wb") as file:
        np.save(file, np.ones(3))
    assert "one array" in commands.fails("convert", *arrays)
    np.savez(tmp_path / "state.npz", **{"0/nu/hidden/kernel": np.zeros(3, "V2")})
    assert "float32" in commands.fails("convert", *arrays)
    np.savez(tmp_path / "state.npz", hidden=np.ones(3))
    assert "'hidden'" in commands.fails("convert", *arrays)


def test_state_of_another_shape_is_refused_and_named(tmp_path, arrays):
    slots = {f"0/nu/{p}": np.ones_like(w) for p, w in zip(PATHS, commands.starts(), strict=True)}
    slots["0/nu/hidden/bias"] = np.ones(7, "float32")
    np.savez(tmp_path / "state.npz", **slots)
    words = commands.fails("convert", *arrays)
    assert "'hidden/bias' has shape (7,)" in words


def test_a_missing_variable_is_named_and_with_inexact_starts_afresh(tmp_path, arrays):
    slots = {
        f"0/nu/{p}": np.ones_like(w) for p, w in zip(PATHS[:3], commands.starts(), strict=False)
    }
    np.savez(tmp_path / "state.npz", **slots)
    words = commands.fails("convert", *arrays)
    assert "last/bias" in words
    assert "--inexact" in words
    said = commands.succeeds("convert", *arrays, "--inexact")
    assert "started afresh  1  " in said


# The map.


MAPS = {
    "not JSON": ("fc1.weight: hidden/kernel", "not JSON"),
    "a list": (["hidden/kernel"], "must map names"),
    "a number for a variable": ({"a": 1}, "'a'"),
    "an unknown key": ({"a": {"variable": "hidden/bias", "transforms": "none"}}, "'transforms'"),
    "no variable": ({"a": {"transform": "none"}}, "'a'"),
    "an unknown transform": ({"a": {"variable": "b", "transform": "rotate"}}, "transpose"),
    "a name twice": ('{"a": "hidden/kernel", "a": "hidden/bias"}', "'a' occurs twice"),
    "two of one variable": ({"a": "hidden/bias", "b": "hidden/bias"}, "'hidden/bias'"),
    "an unknown variable": (
        {"hidden/kernel": "hidden/kernal", **{path: path for path in PATHS[1:]}},
        "did you mean",
    ),
}


@pytest.mark.parametrize("case", MAPS)
def test_a_wrong_map_is_refused_in_a_sentence(tmp_path, arrays, case):
    content, words = MAPS[case]
    file = tmp_path / "map.json"
    if isinstance(content, str):
        file.write_text(content)
    else:
        commands.write_json(file, content)
    assert words in commands.fails("convert", *arrays, "--map", file)


def edited(path: Path, **settings: Any) -> Path:
    """Change the settings of the optimizer in a model's file."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(contents["config.json"])
    settings_there = config["compile_config"]["optimizer"]["config"]
    # With mixed precision Keras wraps the optimizer.
    inner = settings_there.get("inner_optimizer")
    (settings_there if inner is None else inner["config"]).update(settings)
    contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("rho", [10**400, "x", math.nan, [0.5]], ids=["huge", "x", "nan", "list"])
def test_a_setting_that_is_no_number_is_refused_with_its_file(tmp_path, rho):
    for name in ("old.keras", "model.keras"):
        commands.save_model(tmp_path / name, keras.optimizers.RMSprop(RATE), trained=True)
    old = edited(tmp_path / "old.keras", rho=rho)
    words = commands.fails(
        "convert", old, tmp_path / "new.keras", "--model", tmp_path / "model.keras"
    )
    assert "old.keras" in words
    assert "`rho` must be a finite number" in words


def test_a_name_that_no_file_can_hold_is_refused(tmp_path):
    commands.save_model(tmp_path / "old.keras", keras_rmsprop.RMSprop(RATE))
    old = edited(tmp_path / "old.keras", name="a\0b")
    words = commands.fails("convert", old, tmp_path / "new.keras")
    assert "old.keras" in words
    assert "NUL" in words


@pytest.mark.parametrize("family", [keras.optimizers.RMSprop, keras_rmsprop.RMSprop])
@pytest.mark.parametrize("scaled", [False, True], ids="scaled={}".format)
def test_a_function_that_a_file_names_as_learning_rate_is_not_called(tmp_path, family, scaled):
    optimizer = family(RATE)
    held = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    commands.save_model(tmp_path / "old.keras", held)
    rate = keras.saving.serialize_keras_object(commands.leave_a_mark)
    old = edited(tmp_path / "old.keras", learning_rate=rate)
    model = tmp_path / "model.keras"
    commands.save_model(model, keras_rmsprop.RMSprop(RATE))
    for target, *options in (["new.npz"], ["new.keras"]):
        words = commands.fails("convert", old, tmp_path / target, "--inexact", *options)
        assert "is, or has in it, 'leave_a_mark', which is not called" in words
        assert not (tmp_path / target).exists()
    # Where the function is only compared with the rate of the model.
    commands.run("convert", old, tmp_path / "new.keras", "--model", model)
    assert not commands.MARKS


@pytest.mark.parametrize("way", hdf5.WAYS_OUT)
def test_a_model_that_leads_to_another_file_is_refused_before_it_is_loaded(
    tmp_path, monkeypatch, way
):
    commands.save_model(tmp_path / "old.keras", keras.optimizers.RMSprop(RATE), trained=True)
    entry = hdf5.lead_out(tmp_path / "old.keras", way)
    # As a release of Keras does that reads what is in other files.
    monkeypatch.setattr(keras.saving, "load_model", lambda _: pytest.fail("It is loaded."))
    words = commands.fails("convert", tmp_path / "old.keras", tmp_path / "new.npz")
    assert f"old.keras cannot be loaded as a Keras model: its entry '{entry}' leads" in words
    assert not (tmp_path / "new.npz").exists()


@pytest.mark.parametrize("schedule", commands.SCHEDULES, ids=lambda it: type(it).__name__)
def test_a_schedule_in_a_file_is_used(tmp_path, schedule):
    optimizer = keras_rmsprop.RMSprop(schedule)
    commands.save_model(tmp_path / "old.keras", optimizer, trained=True)
    said = commands.succeeds("convert", tmp_path / "old.keras", tmp_path / "new.npz")
    assert f"learning rate {float(schedule(HALF)):.7g}" in said


def test_a_map_is_of_no_use_for_files_of_keras(tmp_path):
    commands.save_model(tmp_path / "old.keras", keras_rmsprop.RMSprop(RATE))
    file = commands.write_json(tmp_path / "map.json", {"a": "hidden/kernel"})
    arguments = ("convert", tmp_path / "old.keras", tmp_path / "new.keras", "--map", file)
    assert "--map" in commands.fails(*arguments)


# Names of files.


def test_missing_files_and_unknown_suffixes_are_named(tmp_path, arrays):
    source, target, *options = arrays
    for given, words in {
        (tmp_path / "none.npz", target): "none.npz",
        (tmp_path / "none", target): "none.index",
        (tmp_path / "state.csv", target): "state.csv",
        (source, tmp_path / "out.kears"): "out.kears",
        (source, tmp_path / "none" / "out.keras"): "none",
    }.items():
        assert words in commands.fails("convert", *given, *options)
    words = commands.fails("convert", source, target, "--model", tmp_path / "none.keras")
    assert "none.keras" in words
    words = commands.fails("convert", *arrays, "--map", tmp_path / "none.json")
    assert "none.json" in words


def test_a_folder_is_neither_a_source_nor_a_target(tmp_path, arrays, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, target, *options = arrays
    for given in (".", tmp_path):
        words = commands.fails("convert", given, target, *options)
        assert "folder without a TF1 checkpoint" in words
    for given in (".", ""):
        words = commands.fails("convert", source, given, *options)
        assert f"the path of a file is needed, received {given!r}" in words


def test_one_of_the_two_is_a_file_of_keras_and_the_model_is_needed_only_for_a_target(
    tmp_path, arrays
):
    source, target, *options = arrays
    assert "--model" in commands.fails("convert", source, target)
    assert ".keras" in commands.fails("convert", source, tmp_path / "other.npz")
    weights = tmp_path / "out.weights.h5"
    assert ".keras" in commands.fails("convert", tmp_path / "model.keras", weights)
    words = commands.fails("convert", tmp_path / "model.keras", tmp_path / "new.npz", *options)
    assert "--model" in words


def test_the_source_is_never_replaced_and_a_target_only_by_force(tmp_path, arrays):
    source, target, *_ = arrays
    target.write_bytes(b"precious")
    assert "--force" in commands.fails("convert", *arrays)
    assert target.read_bytes() == b"precious"
    commands.succeeds("convert", *arrays, "--force")
    keras.saving.load_model(target)
    model = tmp_path / "model.keras"
    before = model.read_bytes()
    for same in (model, tmp_path / "." / "model.keras"):
        assert "same file" in commands.fails("convert", model, same, "--force")
    assert model.read_bytes() == before
    assert source.exists()


def test_a_failure_while_writing_leaves_the_old_target_and_nothing_else(
    tmp_path, arrays, monkeypatch
):
    def save(_: Any, path: Any, **__: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(keras.Sequential, "save", save)
    arrays[1].write_bytes(b"precious")
    before = set(tmp_path.iterdir())
    assert "No space left on device" in commands.fails("convert", *arrays, "--force")
    assert arrays[1].read_bytes() == b"precious"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("target", ["out.keras", "out.npz"])
def test_a_full_disk_is_told_with_the_name_of_the_target(tmp_path, target):
    commands.save_model(tmp_path / "old.keras", keras_rmsprop.RMSprop(RATE), trained=True)
    (tmp_path / target).write_bytes(b"precious")
    before = set(tmp_path.iterdir())
    with disk.full():
        words = commands.fails("convert", tmp_path / "old.keras", tmp_path / target, "--force")
    assert words == f"File too large ({tmp_path / target})."
    assert (tmp_path / target).read_bytes() == b"precious"
    assert set(tmp_path.iterdir()) == before


# What is said.


def test_a_variable_s_name_does_not_act_on_the_terminal(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="a\x1b[2Jb\nc")])
    model.compile(keras_rmsprop.RMSprop(RATE), loss="mse")
    model.save(tmp_path / "old.keras")
    said = commands.succeeds("convert", tmp_path / "old.keras", tmp_path / "new.npz")
    assert all(line.isprintable() for line in said.split("\n"))
    assert r"a\x1b[2Jb\nc/kernel" in said


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    with _screen.progress() as now:
        now("Reading [bold]state.pt")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with _screen.progress() as now:
        now("Reading [bold]state.pt")
    out, err = capsys.readouterr()
    assert out == ""
    assert "Reading [bold]state.pt" in err


def test_a_table_aligns_numbers_to_the_right():
    assert _screen.table([("a", 1, "x"), ("long", 10, "")]) == "a      1  x\nlong  10"
    assert _screen.shortened(list("abcdef")) == "a, b, c, d and 2 more"


def test_a_whole_conversion_in_a_process_of_its_own(tmp_path, arrays):
    status, out, err = commands.process("convert", *arrays)
    assert (status, err) == (0, "")
    assert out == commands.succeeds("convert", *arrays, "--force")
