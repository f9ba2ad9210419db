"""Test how the command line starts and ends, whatever the command."""

import inspect
import re
import shlex

import click
import pytest

import keras_rmsprop
from keras_rmsprop import _compare
from keras_rmsprop._command_line import program
from keras_rmsprop._command_line._program import PROGRAM
from tests.conftest import BACKEND
from tests.tools import commands

once = pytest.mark.skipif(BACKEND != "jax", reason="does not depend on the backend")


def raising(error: BaseException):
    def compare(*_: object, **__: object) -> None:
        raise error

    return compare


def test_without_arguments_it_says_what_there_is():
    assert commands.succeeds() == commands.succeeds("--help")
    for name in ("recipes", "describe", "compare", "convert"):
        assert re.search(rf"^  {name} ", commands.succeeds(), re.MULTILINE)


@pytest.mark.parametrize("name", program.commands)
def test_the_help_of_a_command_has_examples_that_it_accepts(name):
    text = inspect.cleandoc(commands.succeeds(name, "--help"))
    examples = re.findall(rf"^ *{re.escape(PROGRAM)} (.+)$", text, re.MULTILINE)
    assert examples
    options = {option for each in program.commands[name].params for option in each.opts}
    for example in examples:
        first, *rest = shlex.split(example)
        assert first == name
        assert {word for word in rest if word.startswith("-")} <= options


def test_every_option_is_explained():
    for command in (program, *program.commands.values()):
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert [each.name for each in options if not each.help] == []


def test_a_mistake_in_the_arguments_is_one_sentence_that_points_to_the_help():
    assert "'comapre'" in commands.fails("comapre")
    sentence = commands.fails("describe")
    assert "FILE" in sentence
    assert f"{PROGRAM} describe --help" in sentence
    assert "--stepps" in commands.fails("compare", "keras", "torch", "--stepps", "3")


@pytest.mark.parametrize("path", ["", ".", "..", "/", "a\0b", "\ud800"], ids=ascii)
def test_what_cannot_be_the_path_of_a_file_is_refused_in_a_sentence(tmp_path, path):
    for arguments in (
        ("describe", path),
        ("convert", path, tmp_path / "out.keras"),
        ("convert", tmp_path / "none.pt", path),
        ("compare", "keras", "torch", "--output", path),
    ):
        sentence = commands.fails(*arguments)
        named = (ascii(path), "is a directory", "is a folder without a TF1 checkpoint")
        assert any(words in sentence for words in named)
        assert "--debug" not in sentence


def test_an_unforeseen_error_is_a_sentence_and_with_debug_a_traceback(monkeypatch):
    monkeypatch.setattr(_compare, "compare", raising(RuntimeError("out of\nluck")))
    sentence = commands.fails("compare", "keras", "torch")
    assert "RuntimeError: out of luck" in sentence
    assert "--debug" in sentence
    for arguments in (("--debug", "compare"), ("compare", "--debug")):
        status, _, err = commands.run(*arguments, "keras", "torch")
        assert status == 2
        assert "Traceback (most recent call last)" in err


def test_a_value_error_that_is_not_meant_for_users_is_unforeseen(monkeypatch):
    # Raised here, not in the package.
    monkeypatch.setattr(_compare, "compare", raising(ValueError("inhomogeneous shape")))
    assert "--debug" in commands.fails("compare", "keras", "torch")


def test_what_is_not_installed_is_named_with_what_installs_it(monkeypatch):
    error = ModuleNotFoundError("No module named 'torch.optim'", name="torch.optim")
    monkeypatch.setattr(_compare, "compare", raising(error))
    sentence = commands.fails("compare", "keras", "torch")
    assert 'pip install "keras_rmsprop[torch]"' in sentence


def test_ctrl_c_ends_with_status_130_and_one_line(monkeypatch):
    monkeypatch.setattr(_compare, "compare", raising(KeyboardInterrupt()))
    assert commands.run("compare", "keras", "torch") == (130, "", "Interrupted.\n")


def test_a_process_writes_nothing_but_its_answer():
    status, out, err = commands.process("--version")
    assert (status, err) == (0, "")
    assert out.startswith(f"keras_rmsprop {keras_rmsprop.__version__}, ")
    assert BACKEND in out


@once
def test_a_process_fails_with_a_sentence(tmp_path):
    sentence = commands.sentence_of(commands.process("describe", tmp_path / "none.json"))
    assert "none.json" in sentence


# Modules that take the place of installed ones.
MISSING = 'raise ModuleNotFoundError("No module named {0}", name="{0}")'
CTRL_C = """
import signal, time
# In the background of some shells it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.raise_signal(signal.SIGINT)
time.sleep(60)
"""


@once
def test_without_click_it_says_what_to_install(tmp_path):
    (tmp_path / "click.py").write_text(MISSING.format("click"))
    done = commands.process("--version", instead=tmp_path)
    assert 'pip install "keras_rmsprop[cli]"' in commands.sentence_of(done)


@once
def test_without_the_backend_it_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text(MISSING.format("torch"))
    done = commands.process("--version", instead=tmp_path, KERAS_BACKEND="torch")
    assert 'pip install "keras_rmsprop[tensorflow]"' in commands.sentence_of(done)


@once
@pytest.mark.parametrize("module", ["jax", "click"], ids="during the import of {}".format)
def test_ctrl_c_at_the_start_ends_with_status_130_and_one_line(tmp_path, module):
    (tmp_path / f"{module}.py").write_text(CTRL_C)
    done = commands.process("--version", instead=tmp_path)
    assert done == (130, "", "Interrupted.\n")


@once
def test_ctrl_c_between_start_and_command_ends_with_status_130_and_one_line(tmp_path):
    # `main` calls it outside of every block that expects Ctrl-C.
    body = CTRL_C.replace("\n", "\n    ")
    (tmp_path / "sitecustomize.py").write_text(
        f"import logging\ndef disable(*_):{body}\nlogging.disable = disable\n"
    )
    done = commands.process("--version", instead=tmp_path)
    assert done == (130, "", "Interrupted.\n")


@once
def test_ctrl_c_after_the_answer_changes_nothing(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "atexit.register(signal.raise_signal, signal.SIGINT)\n"
    )
    done = commands.process("--version", instead=tmp_path)
    assert done == commands.process("--version")
    assert (done.status, done.err) == (0, "")
