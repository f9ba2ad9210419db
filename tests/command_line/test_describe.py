"""Test `describe`: the forms in which an optimizer's config is written, and what is refused."""

import json
import zipfile
from typing import Any

import keras
import pytest

import keras_rmsprop
from keras_rmsprop import conventions
from keras_rmsprop.recipes import AtLeast, StaircaseDecay
from tests.conftest import BACKEND
from tests.tools import commands


def described(optimizer: keras_rmsprop.RMSprop, **options: Any) -> str:
    """What `describe` prints of an optimizer itself, with a newline."""
    lines: list[str] = []
    optimizer.describe(lines.append, **options)
    return f"{lines[0]}\n"


def make_optimizer() -> keras_rmsprop.RMSprop:
    rate = keras.optimizers.schedules.ExponentialDecay(0.25, 10, 0.5)
    groups = {"hidden/.*": {"learning_rate": 0.5}}
    return keras_rmsprop.RMSprop(
        rate, momentum=0.5, nesterov=True, transform="centralize", groups=groups, name="mine"
    )


FORMS = {
    "get_config": lambda optimizer: optimizer.get_config(),
    "serialize_keras_object": keras.saving.serialize_keras_object,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_config_is_described_as_the_optimizer_itself(tmp_path, form):
    file = commands.write_json(tmp_path / "config.json", FORMS[form](make_optimizer()))
    assert commands.succeeds("describe", file) == described(make_optimizer())


@pytest.mark.parametrize("layout", ["text", "markdown", "latex"])
def test_the_format_is_that_of_describe(tmp_path, layout):
    optimizer = conventions.torch(lr=0.25, momentum=0.5)
    file = commands.write_json(tmp_path / "config.json", optimizer.get_config())
    printed = commands.succeeds("describe", file, "--format", layout)
    assert printed == described(optimizer, format=layout)


@pytest.mark.parametrize("form", FORMS)
def test_keras_own_config_is_described_as_ours_of_the_same_settings(tmp_path, form):
    theirs = keras.optimizers.RMSprop(0.25, rho=0.75, momentum=0.5, centered=True, name="one")
    file = commands.write_json(tmp_path / "config.json", FORMS[form](theirs))
    ours = keras_rmsprop.RMSprop(0.25, rho=0.75, momentum=0.5, centered=True, name="one")
    assert commands.succeeds("describe", file) == described(ours)


@pytest.mark.parametrize("optimizer", ["ours", "keras"])
def test_a_model_is_described_by_the_optimizer_it_was_compiled_with(tmp_path, optimizer):
    classes = {"ours": keras_rmsprop.RMSprop, "keras": keras.optimizers.RMSprop}
    file = tmp_path / "model.keras"
    commands.save_model(file, classes[optimizer](0.25, rho=0.75))
    printed = commands.succeeds("describe", file)
    assert "0.75 * s" in printed
    assert "lr = 0.25" in printed


def test_the_optimizer_inside_loss_scaling_is_described(tmp_path):
    inner = keras_rmsprop.RMSprop(0.25)
    wrapped = keras.saving.serialize_keras_object(keras.optimizers.LossScaleOptimizer(inner))
    file = commands.write_json(tmp_path / "config.json", wrapped)
    assert commands.succeeds("describe", file) == described(inner)


def test_neither_weights_nor_code_in_a_model_are_needed(tmp_path):
    # A layer that nobody has registered, and no weights at all.
    file = tmp_path / "model.keras"
    optimizer = keras_rmsprop.RMSprop(0.25)
    config = {
        "module": "their.package",
        "class_name": "Network",
        "compile_config": {"optimizer": keras.saving.serialize_keras_object(optimizer)},
    }
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
    assert commands.succeeds("describe", file) == described(optimizer)


SERIALIZED = keras.saving.serialize_keras_object
REFUSED = {
    "another optimizer's config": (keras.optimizers.SGD(0.25).get_config(), "no config of an RMSp"),
    "a similar one's config": (keras.optimizers.Adadelta(0.25).get_config(), "no config of an RMS"),
    "another optimizer": (SERIALIZED(keras.optimizers.Adam(0.25)), "Adam"),
    "a list": ([1, 2], "no config of an RMSprop"),
    "a number out of range": ({**keras_rmsprop.RMSprop().get_config(), "rho": 1.5}, "rho=1.5"),
    "an unknown argument": ({**keras_rmsprop.RMSprop().get_config(), "rh": 0.5}, "rh"),
    "exclusions that are a number": (
        {**keras_rmsprop.RMSprop().get_config(), "exclude_from_weight_decay": 5},
        "config.json cannot be made: `exclude_from_weight_decay` of a config must hold",
    ),
    "exclusions without paths": (
        {**keras_rmsprop.RMSprop().get_config(), "exclude_from_weight_decay": {"variables": [1]}},
        "must name paths, received 1",
    ),
    "a class of some module": (
        {
            **keras_rmsprop.RMSprop().get_config(),
            "learning_rate": {"module": "os", "class_name": "system", "config": {"command": "x"}},
        },
        "'system' of the module 'os'",
    ),
    "a class of Keras that is no schedule": (
        {
            **keras_rmsprop.RMSprop().get_config(),
            "learning_rate": SERIALIZED(keras.layers.Dense(1)),
        },
        "'Dense' of the module 'keras.layers', which is not called",
    ),
    "a class in a schedule": (
        {
            **keras_rmsprop.RMSprop().get_config(),
            "learning_rate": {
                **SERIALIZED(AtLeast(StaircaseDecay(0.5, 0.5, 1), 0.25)),
                "config": {"schedule": SERIALIZED(keras.layers.Dense(1)), "minimum": 0.25},
            },
        },
        "'Dense' of the module 'keras.layers', which is not called",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused_in_a_sentence(tmp_path, case):
    config, words = REFUSED[case]
    file = commands.write_json(tmp_path / "config.json", config)
    assert words in commands.fails("describe", file)


@pytest.mark.parametrize("schedule", commands.SCHEDULES, ids=lambda it: type(it).__name__)
def test_a_schedule_in_a_config_is_described(tmp_path, schedule):
    optimizer = keras_rmsprop.RMSprop(schedule)
    file = commands.write_json(tmp_path / "config.json", optimizer.get_config())
    assert commands.succeeds("describe", file) == described(optimizer)


def test_a_function_that_a_config_names_is_not_called(tmp_path):
    config = keras_rmsprop.RMSprop(commands.leave_a_mark).get_config()
    file = commands.write_json(tmp_path / "config.json", config)
    assert "'tests>leave_a_mark' of the module 'builtins'" in commands.fails("describe", file)
    assert not commands.MARKS


# Clears a terminal, begins a line, and reverses what follows.
ACTING = "a\x1b[2Jb\nc\u202ed"


@pytest.mark.parametrize("layout", ["text", "markdown", "latex"])
def test_a_name_in_a_file_does_not_act_on_the_terminal(tmp_path, layout):
    config = {**keras_rmsprop.RMSprop(groups={"w": {"rho": 0.5}}).get_config(), "name": ACTING}
    file = commands.write_json(tmp_path / "config.json", config)
    said = commands.succeeds("describe", file, "--format", layout)
    assert all(line.isprintable() for line in said.split("\n"))
    if layout == "text":
        assert said.startswith(r"a\x1b[2Jb\nc\u202ed: RMSprop" + "\n")


def test_a_name_with_half_a_character_is_described_or_refused(tmp_path):
    config = {**keras_rmsprop.RMSprop().get_config(), "name": "a\ud800"}
    file = commands.write_json(tmp_path / "config.json", config)
    if BACKEND == "tensorflow":
        # Its variables cannot have such a name.
        assert "config.json cannot be made: 'utf-8' codec" in commands.fails("describe", file)
    else:
        assert commands.succeeds("describe", file).startswith(r"a\ud800: RMSprop")


def test_a_failure_that_quotes_a_file_does_not_act_on_the_terminal(tmp_path):
    # Keras refuses the "/", and quotes the name as it is.
    config = {**keras_rmsprop.RMSprop().get_config(), "name": f"/{ACTING}"}
    words = commands.fails("describe", commands.write_json(tmp_path / "config.json", config))
    assert r"name=/a\x1b[2Jb" in words
    assert words.isprintable()


def test_damaged_files_are_refused_in_a_sentence(tmp_path):
    for name in ("config.json", "model.keras"):
        (tmp_path / name).write_bytes(b"\x00\xff damaged")
        assert name in commands.fails("describe", tmp_path / name)
    assert "none.json" in commands.fails("describe", tmp_path / "none.json")


def test_a_model_without_an_optimizer_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    assert "without an optimizer" in commands.fails("describe", tmp_path / "model.keras")
