"""Test `compare`: what the comparison says, and its picture."""

import sys

import pytest

from keras_rmsprop import _compare
from tests.tools import commands

PNG = b"\x89PNG\r\n"


def test_it_prints_the_comparison_and_saves_its_picture(tmp_path):
    picture = tmp_path / "parts.png"
    arguments = ("keras", "torch", "tf1", "--function", "rosenbrock", "--steps", "20")
    printed = commands.succeeds(
        "compare", *arguments, "--learning-rate", "0.5", "--same", "--output", picture
    )
    expected = _compare.compare(
        ["keras", "torch", "tf1"], "rosenbrock", steps=20, learning_rate=0.5, same=True
    )
    assert printed == f"{_compare.as_text(expected)}\n\nPicture: {picture}\n"
    assert picture.read_bytes().startswith(PNG)


def test_by_default_function_and_frameworks_decide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = commands.succeeds("compare", "torch", "optax")
    assert printed.startswith(_compare.as_text(_compare.compare(["torch", "optax"])))
    (picture,) = tmp_path.iterdir()
    assert picture.name in printed


REFUSED = {
    "an unknown convention": (["keras", "tensorflow"], "'tensorflow'"),
    "one convention": (["keras"], "two or more"),
    "an unknown function": (["keras", "torch", "--function", "cubic"], "'cubic'"),
    "no steps": (["keras", "torch", "--steps", "0"], "0"),
    "steps without end": (["keras", "torch", "--steps", "9" * 20], "because every step"),
    "no name of a picture": (["keras", "torch", "--output", ""], "'--output'"),
    "a negative rate": (["keras", "torch", "--learning-rate", "-1"], "-1"),
    "a rate that is no number": (["keras", "torch", "--learning-rate", "nan"], "nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_to_be_compared_is_refused_in_a_sentence(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    arguments, words = REFUSED[case]
    assert words in commands.fails("compare", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["parts.xyz", "none/parts.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_the_run(tmp_path, monkeypatch, name):
    monkeypatch.setattr(_compare, "compare", None)
    words = {"none/parts.png": f"no folder {tmp_path / 'none'}"}.get(name, "must end in one of")
    assert words in commands.fails("compare", "keras", "torch", "--output", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_drawing_is_a_sentence_after_the_table(tmp_path, monkeypatch):
    def save_plot(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_compare, "save_plot", save_plot)
    status, out, err = commands.run("compare", "keras", "torch", "--output", tmp_path / "x.png")
    assert status == 2
    assert out.startswith("quadratic")
    assert err == "Error: No space left on device.\n"


@pytest.mark.parametrize("rate", ["1e150", "1e300"])
def test_what_is_finite_of_runs_that_diverge_is_drawn(tmp_path, rate):
    picture = tmp_path / "parts.png"
    arguments = ("keras", "torch", "--learning-rate", rate, "--output", picture)
    commands.succeeds("compare", *arguments)
    assert picture.read_bytes().startswith(PNG)


def test_a_picture_without_a_suffix_is_a_png_and_is_named_so(tmp_path):
    printed = commands.succeeds("compare", "keras", "torch", "--output", tmp_path / "parts")
    assert printed.endswith(f"Picture: {tmp_path / 'parts.png'}\n")
    assert (tmp_path / "parts.png").read_bytes().startswith(PNG)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, _, err = commands.run("compare", "keras", "torch", "--output", tmp_path / "parts.png")
    assert "pip install" in err
    assert "matplotlib" in err
