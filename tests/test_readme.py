"""Test that the README is true: its examples run and print the output that it shows."""

import re
from pathlib import Path
from typing import Any

import pytest

import keras_rmsprop
from yardsticks import peers

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_example_prints_the_output_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[0], {})
    assert capsys.readouterr().out == blocks("text")[0]


def test_the_convention_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[1], {})
    (shown,) = [block for block in blocks("text") if block.startswith("Convention: ")]
    assert shown in capsys.readouterr().out


def test_the_training_from_torch_goes_over_and_back() -> None:
    if peers.unavailable("torch"):
        pytest.skip(str(peers.unavailable("torch")))
    names: dict[str, Any] = {}
    exec(blocks("python")[2], names)
    optimizer = names["optimizer"]
    assert optimizer.centered
    assert [group.learning_rate for group in optimizer.groups.values()] == [pytest.approx(10.0)]


def test_the_training_that_is_watched_is_explained_and_has_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = [block for block in blocks("python") if "OptimizerDiagnostics" in block]
    exec(example, {})
    shown = capsys.readouterr().out
    assert "32 steps" in shown
    assert "Warning:" not in shown
    assert "what the optimizer does to the weights" in Path("training.html").read_text()


def test_every_file_that_the_readme_points_to_exists() -> None:
    root = Path(__file__).parent.parent
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (root / target).exists()] == []


def test_every_convention_is_in_the_readme() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE))
    public = {
        name
        for name, value in vars(keras_rmsprop.conventions).items()
        if callable(value) and value.__module__.endswith("conventions") and name.islower()
    }
    assert {name for name in public if not name.startswith("_")} <= named
