"""Do the examples run, and do the published digits come out of the package?"""

import importlib
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.conftest import BACKEND

EXAMPLES = Path(__file__).parents[1] / "examples"

# For each script the claims that even a quick run prints, and its pictures.
CLAIMS = {
    "x_over_log_x": (["Keras: the package gives", "torch: the package gives"], ["x_over_log_x"]),
    "six_points": (["the package takes the reference's first 200 steps"], ["six_points"]),
    "diamonds": (
        ["model.fit: both optimizers hold", "GradientTape: both optimizers hold"],
        ["diamonds"],
    ),
    "spiral": (
        ["RMSprop lowers the loss", "RMSprop's does not"],
        ["spiral", "spiral_accumulators"],
    ),
    "step_by_step": (["plain: the package takes", "with L2: the package"], ["step_by_step"]),
    "quadratics": (["100x² + y²: the package takes the reference's"], ["quadratics"]),
    "linear_layer": (["keras_rmsprop gives the published losses"], ["linear_layer"]),
    "embeddings": (
        [
            "lazy=True, on Zipf's law: the weights of the dense rule",
            "Keras, without repeats: the weights of the dense rule",
            "Keras, on Zipf's law: other weights",
        ],
        ["embeddings"],
    ),
    "centered_and_momentum": (
        ["all forms take Keras's steps", "keras_rmsprop stays finite"],
        ["centered_and_momentum"],
    ),
}


NEEDS_TENSORFLOW = {
    "embeddings": pytest.mark.skipif(
        BACKEND != "tensorflow", reason="only TensorFlow has the sparse gradients of embeddings"
    )
}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """Import an example by its name, as a script of its folder finds its neighbours."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_every_script_has_its_claims_listed_here() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    assert scripts == set(CLAIMS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=NEEDS_TENSORFLOW.get(name, ()))
        for name in CLAIMS
        if name != "diamonds"
    ],
)
def test_a_quick_run_makes_its_claims_and_its_pictures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As `python examples/<name>.py --quick` does, but in this process: importing the frameworks
    # takes longer than most of the examples.
    monkeypatch.syspath_prepend(EXAMPLES)
    script = str(EXAMPLES / f"{name}.py")
    monkeypatch.setattr(sys, "argv", [script, "--quick", "--output", str(tmp_path / "pictures")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    check_run(name, capsys.readouterr().out, end.value.code, tmp_path / "pictures")


@pytest.mark.skipif(BACKEND != "tensorflow", reason="diamonds.py compares with tf.keras")
def test_diamonds_runs_from_any_folder_without_its_data_and_says_so(tmp_path: Path) -> None:
    # An empty cache folder and no way out.
    nowhere = {"SEABORN_DATA": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "diamonds.py", "--quick", "--output", tmp_path / "pictures"],
        cwd=tmp_path,
        env=os.environ | nowhere | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "SYNTHETIC" in done.stdout, done.stderr
    check_run("diamonds", done.stdout, done.returncode, tmp_path / "pictures")


def check_run(name: str, printed: str, status: object, output: Path) -> None:
    claims, pictures = CLAIMS[name]
    assert status == 0, printed
    assert "FAILED" not in printed
    for claim in claims:
        assert f"ok      {claim}" in printed
    assert {path.stem for path in output.iterdir()} == set(pictures)
    for path in output.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_a_claim_that_does_not_hold_is_named_and_fails_the_script(example, tmp_path, capsys):
    common: ModuleType = example("_common")
    report = common.Report(tmp_path)
    report.check_close("two is three", 2.0, 3.0, 0.5)
    report.check_close("NaN is two", np.nan, 2.0, 0.5)
    report.check_close("two is two", 2.0, 2.0, 0.5)
    assert report.failures == ["two is three", "NaN is two"]
    assert capsys.readouterr().out.count("FAILED") == 2


@pytest.mark.parametrize("convention", ["Keras", "torch"])
def test_x_over_log_x_gives_the_published_digits(example, convention: str) -> None:
    module = example("x_over_log_x")
    steps = range(14 * module.EVERY + 1)
    got = module.published_points(module.walk_down(convention, steps))
    np.testing.assert_allclose(got, module.PUBLISHED[convention], rtol=0, atol=module.TOLERANCE)


@pytest.mark.usefixtures("float64")
def test_six_points_takes_the_first_steps_of_the_reference(example) -> None:
    module = example("six_points")
    steps = range(module.SETTLED)
    got, want = module.fit(steps), module.fit_by_reference(steps)
    assert example("_common").path_error(got, want) <= module.SETTLED_TOLERANCE


@pytest.mark.usefixtures("float64")
def test_six_points_ends_at_a_known_end(example) -> None:
    module = example("six_points")
    end = module.fit(range(module.STEPS))[-1]
    assert module.distance_to_known_end(end) <= module.TOLERANCE


def test_the_reference_ends_six_points_at_the_published_rmse(example) -> None:
    module = example("six_points")
    end = module.fit_by_reference(range(module.STEPS))[-1]
    np.testing.assert_allclose(end, module.PUBLISHED, rtol=0, atol=6e-9)
    assert module.rmse(end) == pytest.approx(module.PUBLISHED_RMSE, abs=1e-9)


@pytest.mark.parametrize("source", ["losses_by_package", "losses_by_reference"])
def test_linear_layer_gives_the_published_losses(example, source: str) -> None:
    module = example("linear_layer")
    losses = getattr(module, source)()
    np.testing.assert_allclose(losses, module.PUBLISHED, rtol=0, atol=module.TOLERANCE)


@pytest.mark.usefixtures("float64")
def test_quadratics_take_the_steps_of_the_reference(example) -> None:
    module = example("quadratics")
    for problem in (module.BOWL, module.VALLEY, module.PARABOLA):
        got, _ = module.descend_by_package(problem)
        error = example("_common").path_error(got, module.descend_by_reference_of(problem))
        assert error <= module.TOLERANCE, problem.title


@pytest.mark.skipif(BACKEND != "tensorflow", reason="diamonds.py compares with tf.keras")
def test_synthetic_diamonds_look_like_diamonds(example) -> None:
    carat, price = example("diamonds").synthesise(53_940)
    assert len(carat) == len(price) == 53_940
    assert np.corrcoef(carat, price)[0, 1] == pytest.approx(0.92, abs=0.02)
    assert price.min() >= 326
    assert price.max() <= 18_823
    assert np.median(carat) == pytest.approx(0.7, abs=0.15)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="diamonds.py compares with tf.keras")
@pytest.mark.skipif(
    "SEABORN_DATA" not in os.environ, reason="SEABORN_DATA, the folder of diamonds.csv, is not set"
)
def test_real_diamonds_give_the_published_line(example) -> None:
    module = example("diamonds")
    diamonds = module.load_diamonds()
    assert diamonds.real
    carat = module.Scale.of(diamonds.train_carat)
    price = module.Scale.of(diamonds.train_price)
    x, y = carat.standardise(diamonds.train_carat), price.standardise(diamonds.train_price)
    path = module.train_by_tape(
        module.OPTIMIZERS["keras_rmsprop"](), x, y, module.EPOCHS, lambda: None
    )
    test_x = carat.standardise(diamonds.test_carat)
    test_y = price.standardise(diamonds.test_price)
    low, high = module.RMSE_WINDOW
    assert low <= module.rmse(path[-1], test_x, test_y) * price.deviation <= high
    np.testing.assert_allclose(path[-1], module.PUBLISHED_LINE, atol=module.LINE_TOLERANCE)
