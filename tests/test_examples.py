"""Test that the examples run and reproduce the published digits."""

import ast
import importlib
import os
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import keras
import matplotlib as mpl
import numpy as np
import pytest

import keras_rmsprop
from keras_rmsprop import conventions
from tests.conftest import BACKEND
from tests.tools.environment import as_of_a_user

EXAMPLES = Path(__file__).parents[1] / "examples"

# For each script the claims that even a quick run prints, and its pictures.
CLAIMS = {
    "x_over_log_x": (["Keras: the package gives", "torch: the package gives"], ["x_over_log_x"]),
    "six_points": (["the package takes the reference's first 200 steps"], ["six_points"]),
    "diamonds": (
        [
            "model.fit: both optimizers hold",
            "GradientTape: both optimizers hold",
            "least squares gives the published test RMSE",
        ],
        ["diamonds"],
    ),
    "spiral": (
        [
            "Two turns, SGD: loss as published",
            "Two turns, Adagrad: loss as published",
            "Two turns, RMSprop: loss as published",
            "RMSprop lowers the loss",
            "200 noisy gradients, accumulator: Adagrad as published",
            "200 noisy gradients, accumulator: RMSprop as published",
            "200 noisy gradients, effective rate: Adagrad as published",
            "200 noisy gradients, effective rate: RMSprop as published",
            "RMSprop's does not",
        ],
        ["spiral", "spiral_accumulators", "spiral_two_turns"],
    ),
    "step_by_step": (
        [
            "Five steps: s as published",
            "Five steps: weight as published",
            "Large and small gradients: s as published",
            "Large and small gradients: weight as published",
            "Without L2: weight as published",
            "L2 of 0.01: weight as published",
            "Beta 0.9: weight as published",
            "Beta 0.5: weight as published",
            "plain: the package takes",
            "with L2: the package",
        ],
        ["step_by_step"],
    ),
    "quadratics": (
        [
            "x² + y²: x: RMSprop as published",
            "100x² + y²: its value: RMSprop as published",
            "100x² + y²: its value: SGD as published",
            "x²: x: RMSprop as published",
            "x²: x: Adagrad as published",
            "100x² + y²: the package takes the reference's",
        ],
        ["quadratics"],
    ),
    "port_from_torch": (
        ["carried over, Keras ends at torch's weights", "the losses are torch's"],
        ["port_from_torch"],
    ),
    "port_from_tf1": (
        [
            "carried over, Keras ends at TF1's weights",
            "carried back from Keras's checkpoint, TF1 ends at them too",
            "the losses are TF1's",
        ],
        ["port_from_tf1"],
    ),
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
    "trajectories": (
        [
            "quadratic: RMSprop takes the reference's first 40 steps",
            "rosenbrock: RMSprop takes the reference's first 40 steps",
            "beale: RMSprop takes the reference's first 40 steps",
            "rastrigin: RMSprop takes the reference's first 40 steps",
            "himmelblau: RMSprop takes the reference's first 40 steps",
            "xlogx: RMSprop takes the reference's first 40 steps",
            "Adagrad's sum only grows, RMSprop's average comes down again",
            "at the end RMSprop's steps are more than 100 times as long as Adagrad's",
        ],
        [
            "trajectories_quadratic",
            "trajectories_rosenbrock",
            "trajectories_beale",
            "trajectories_rastrigin",
            "trajectories_himmelblau",
            "trajectories_xlogx",
            "animation_beale",
            "animation_rastrigin",
            "accumulators",
        ],
    ),
    "tour": (
        [
            "at the end RMSprop takes the longer steps",
            "Keras: x as published",
            "torch: x as published",
            "x²: x: RMSprop as published",
            "the end is a known one",
            "torch's first step is three times Keras's",
            "Keras: NaN",
            "keras_rmsprop: finite",
            "unless it is skipped",
            "float16 averages are off by a tenth or more",
            "the backbone's kernel takes a tenth of the step",
            "Keras ends at torch's weights",
            "this loss ends higher",
            "no warning",
            "too large updates are among them",
        ],
        [
            "tour_accumulators",
            "x_over_log_x",
            "tour_quadratics",
            "six_points",
            "tour_trajectories",
            "tour_learning_rates",
            "tour_update_ratios",
            "tour_update_ratios_sick",
        ],
    ),
    "characters": (
        ["the loss falls", "no warning is raised", "the page gives the evidence of each finding"],
        ["characters_none"],
    ),
    "a2c_cartpole": (
        [
            "all optimizers get the same first gradient",
            "tf1's first step is the learning rate times the clipped gradient",
            "torch's first step is more than 100 times as long as tf1's",
        ],
        ["a2c_cartpole"],
    ),
}


NEEDS_A_BACKEND = {
    "embeddings": pytest.mark.skipif(
        BACKEND != "tensorflow", reason="only TensorFlow has the sparse gradients of embeddings"
    ),
    "a2c_cartpole": pytest.mark.skipif(BACKEND != "jax", reason="a2c_cartpole.py is for JAX"),
    "port_from_tf1": pytest.mark.skipif(
        BACKEND != "tensorflow", reason="TF1 is not imported beside another backend"
    ),
    "port_from_torch": pytest.mark.skipif(
        BACKEND != "tensorflow", reason="port_from_torch.py goes to Keras on TensorFlow"
    ),
}


@pytest.fixture(autouse=True)
def restored_matplotlib_settings():
    """Restore matplotlib's settings, which a script may change."""
    with mpl.rc_context():
        yield


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """A function that imports an example by name, with its folder on the path."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


def test_every_script_has_its_claims_listed_here() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("[!_]*.py")}
    assert scripts == set(CLAIMS)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=NEEDS_A_BACKEND.get(name, ()))
        for name in CLAIMS
        if name != "diamonds"
    ],
)
def test_a_quick_run_prints_its_claims_and_writes_its_pictures(
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


NEEDS_TF_KERAS = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="diamonds.py compares with tf.keras"
)


@NEEDS_TF_KERAS
def test_diamonds_runs_from_any_folder_without_a_network_and_with_empty_stderr(
    tmp_path: Path,
) -> None:
    # As for a new user: no data folder, no network, and TensorFlow's default logging.
    environment = as_of_a_user("SEABORN_DATA")
    no_network = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "diamonds.py", "--quick", "--output", tmp_path / "pictures"],
        cwd=tmp_path,
        env=environment | no_network | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stderr == ""
    assert "data: diamonds.csv of plotnine" in done.stdout
    assert "53,940 rows" in done.stdout
    check_run("diamonds", done.stdout, done.returncode, tmp_path / "pictures")


def check_run(name: str, printed: str, status: object, output: Path) -> None:
    claims, pictures = CLAIMS[name]
    assert status == 0, printed
    assert "FAILED" not in printed
    for claim in claims:
        assert f"ok      {claim}" in printed
    files = [path for path in output.iterdir() if path.is_file()]
    assert {path.stem for path in files} == set(pictures)
    for path in files:
        assert path.read_bytes().startswith({".png": b"\x89PNG\r\n", ".gif": b"GIF8"}[path.suffix])


def test_a_claim_that_does_not_hold_is_named_and_fails_the_script(example, tmp_path, capsys):
    common: ModuleType = example("_common")
    report = common.Report(tmp_path)
    report.check_close("two is three", 2.0, 3.0, 0.5)
    report.check_close("NaN is two", np.nan, 2.0, 0.5)
    report.check_close("two is two", 2.0, 2.0, 0.5)
    assert report.failures == ["two is three", "NaN is two"]
    assert capsys.readouterr().out.count("FAILED") == 2


def test_a_figure_that_is_not_the_published_one_is_named_and_fails_the_script(
    example, tmp_path, capsys
):
    report = example("_common").Report(tmp_path)
    figures = {"right": ([1.0, 2e-9], [1.0, 2e-9]), "small": ([1.0, 3e-9], [1.0, 2e-9])}
    report.compare("Ours", "step", [1, 2], figures | {"none": ([1.0, np.nan], [1.0, 2.0])}, 1e-12)
    assert report.failures == ["Ours: small as published", "Ours: none as published"]
    printed = capsys.readouterr().out
    assert "3e-09" in printed
    assert "ok      Ours: right as published" in printed


def test_native_stderr_is_held_back_and_shown_if_the_import_fails(example, capfd) -> None:
    quiet = example("_quiet")
    with quiet.native_stderr_held_back():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""
    os.write(2, b"words")
    assert capfd.readouterr().err == "words"

    @quiet.native_stderr_held_back()
    def fail() -> None:
        os.write(2, b"the reason")
        raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert capfd.readouterr().err == "the reason"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_no_example_imports_a_framework_before_stderr_is_held_back(path: Path) -> None:
    names = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    for i, name in enumerate(names):
        if name.partition(".")[0] in {"keras", "tensorflow", "torch", "jax", "keras_rmsprop"}:
            assert {"_quiet", "_common"} & set(names[:i]), name


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
def test_six_points_ends_at_a_known_point(example) -> None:
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


def quadratics_errors(module: ModuleType) -> dict[tuple[str, str], float]:
    """The relative error of each published series."""
    relative_error = importlib.import_module("_common").relative_error
    return {
        (title, name): relative_error(figures, module.PUBLISHED[title][1][name])
        for title, named in module.run_all().figures().items()
        for name, figures in named.items()
    }


@pytest.mark.usefixtures("float64")
def test_quadratics_give_the_published_figures(example) -> None:
    errors = quadratics_errors(example("quadratics"))
    assert len(errors) == 5
    assert max(errors.values()) <= 1e-12


# Other rules, from which the published figures must differ.
WRONG = {
    "epsilon inside the root": {"epsilon_inside_sqrt": True},
    "no epsilon": {"epsilon": 0.0},
    "rho 0.99": {"rho": 0.99},
}


@pytest.fixture
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `conventions.torch` return an optimizer of another rule."""
    right = conventions.torch

    def torch(*args: object, **kwargs: object) -> keras_rmsprop.RMSprop:
        config = right(*args, **kwargs).get_config()
        return keras_rmsprop.RMSprop.from_config(config | WRONG[request.param])

    monkeypatch.setattr(conventions, "torch", torch)


@pytest.mark.parametrize("wrong", WRONG, indirect=True)
@pytest.mark.usefixtures("float64", "wrong")
def test_quadratics_tell_another_rule_from_the_published_one(example) -> None:
    errors = quadratics_errors(example("quadratics"))
    mine = [error for (_, name), error in errors.items() if name == "RMSprop"]
    assert min(mine) > 10 * example("quadratics").PUBLISHED_TOLERANCE


@pytest.mark.usefixtures("float64")
def test_quadratics_tell_keras_adagrad_from_the_published_one(example) -> None:
    module = example("quadratics")
    iterations, published = module.PUBLISHED["x²: x"]
    problem = module.PARABOLA
    adagrad = keras.optimizers.Adagrad(module.ADAGRAD_RATE)
    path = module.descend(adagrad, problem.gradient, problem.start, range(problem.steps))
    error = example("_common").relative_error(path[1:, 0][list(iterations)], published["Adagrad"])
    assert error > 10 * module.PUBLISHED_TOLERANCE


def step_by_step_errors(module: ModuleType) -> dict[str, tuple[float, float]]:
    """For each case the relative errors of the averages and of the weights."""
    relative_error = importlib.import_module("_common").relative_error
    errors = {}
    for name, case in module.cases.CASES.items():
        trace = module.trace_case(case)
        errors[name] = (
            relative_error(trace.square_average, case.square_averages),
            relative_error(trace.weight[1:], case.weights),
        )
    return errors


@pytest.mark.usefixtures("float64")
def test_step_by_step_gives_the_published_figures(example) -> None:
    errors = step_by_step_errors(example("step_by_step"))
    assert len(errors) == 6
    assert np.max(list(errors.values())) <= 1e-12


@pytest.mark.parametrize("wrong", WRONG, indirect=True)
@pytest.mark.usefixtures("float64", "wrong")
def test_step_by_step_tells_another_rule_from_the_published_one(example) -> None:
    module = example("step_by_step")
    for name, (_, weights) in step_by_step_errors(module).items():
        assert weights > 10 * module.PUBLISHED_TOLERANCE, name


@pytest.mark.usefixtures("float64")
def test_step_by_step_tells_a_decoupled_decay_from_the_published_one(example, monkeypatch) -> None:
    def decoupled(lr: float, alpha: float, eps: float, weight_decay: float):
        return keras_rmsprop.RMSprop(
            lr, alpha, epsilon=eps, epsilon_inside_sqrt=False, weight_decay=weight_decay
        )

    monkeypatch.setattr(conventions, "torch", decoupled)
    module = example("step_by_step")
    wrong = {
        name
        for name, errors in step_by_step_errors(module).items()
        if max(errors) > module.PUBLISHED_TOLERANCE
    }
    assert wrong == {"L2 of 0.01"}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "RMSprop"])
def test_two_turns_give_the_published_losses_and_accuracy(example, name: str) -> None:
    module = example("_two_turns")
    got = module.train(module.optimizers()[name], range(module.EPOCHS))
    want = module.PUBLISHED_LOSSES[name]
    tolerance = example("spiral").LOSS_TOLERANCE
    np.testing.assert_allclose(got.loss[list(module.SHOWN)], want, rtol=tolerance, atol=0)
    assert got.final_accuracy() == pytest.approx(module.PUBLISHED_ACCURACY[name], abs=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("Adagrad", lambda: keras.optimizers.Adagrad(0.1)),
        ("RMSprop", lambda: keras_rmsprop.RMSprop(0.001)),
        ("RMSprop", lambda: conventions.torch(0.001, alpha=0.9, eps=1e-8)),
        ("RMSprop", lambda: keras_rmsprop.RMSprop(0.001, rho=0.99, epsilon=1e-8)),
    ],
    ids=["Keras's Adagrad", "Keras's epsilon", "epsilon outside the root", "rho 0.99"],
)
def test_two_turns_tell_another_rule_from_the_published_one(example, name, optimizer) -> None:
    module = example("_two_turns")
    loss = module.train(optimizer(), range(100)).loss[list(module.SHOWN[:4])]
    error = example("_common").relative_error(loss, module.PUBLISHED_LOSSES[name][:4])
    assert error > 1e-5


def test_two_turns_are_the_published_points(example) -> None:
    points, arms = example("_two_turns").spirals()
    first = [
        [1.0043741554237429, 0.39904827057031256],
        [0.3532962806078561, 0.6089373616633114],
        [0.026578429579115298, 0.9655384745649713],
    ]
    np.testing.assert_allclose(points[:3], first, rtol=1e-14)
    np.testing.assert_array_equal(arms[:5], [0, 0, 1, 0, 0])


@pytest.mark.usefixtures("float64")
def test_the_accumulators_are_the_published_ones(example) -> None:
    module = example("spiral")
    for name, ours in module.accumulators().items():
        for got, want in (
            (ours.accumulator, module.PUBLISHED_ACCUMULATORS[name]),
            (ours.rate, module.PUBLISHED_RATES[name]),
        ):
            np.testing.assert_allclose(got[list(module.SHOWN)], want, rtol=1e-12, atol=0)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "change",
    [{"epsilon": 0.0}, {"epsilon_inside_sqrt": False}, {"rho": 0.99}],
    ids=["no epsilon", "epsilon outside the root", "rho 0.99"],
)
def test_the_accumulators_tell_another_rule_from_the_published_one(
    example, monkeypatch, change
) -> None:
    module = example("spiral")
    right = module.RMSprop
    monkeypatch.setattr(
        module, "RMSprop", lambda rate, **options: right(rate, **{**options, **change})
    )
    rates = module.accumulators()["RMSprop"].rate[list(module.SHOWN)]
    error = example("_common").relative_error(rates, module.PUBLISHED_RATES["RMSprop"])
    assert error > 10 * module.ACCUMULATOR_TOLERANCE


@NEEDS_TF_KERAS
def test_the_folder_of_seaborn_data_takes_precedence_over_plotnine(
    example, tmp_path, monkeypatch
) -> None:
    module = example("diamonds")
    monkeypatch.setenv("SEABORN_DATA", str(tmp_path))
    path, source = module.find_csv()
    assert "plotnine" in source
    assert path.is_file()
    (tmp_path / "diamonds.csv").touch()
    assert module.find_csv() == (tmp_path / "diamonds.csv", "diamonds.csv in SEABORN_DATA")


@NEEDS_TF_KERAS
def test_without_diamonds_the_error_names_what_to_install(example, monkeypatch) -> None:
    module = example("diamonds")

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.delenv("SEABORN_DATA", raising=False)
    monkeypatch.setattr(module.metadata, "distribution", missing)
    with pytest.raises(SystemExit, match="pip install plotnine"):
        module.find_csv()


@NEEDS_TF_KERAS
def test_other_diamonds_are_refused(example, tmp_path) -> None:
    (tmp_path / "diamonds.csv").write_text("carat,price\n0.23,326\n0.21,326\n")
    with pytest.raises(SystemExit, match="2 diamonds, not the 53,940"):
        example("diamonds").read_csv(tmp_path / "diamonds.csv")


@NEEDS_TF_KERAS
def test_diamonds_give_the_published_line(example) -> None:
    module = example("diamonds")
    diamonds = module.load_diamonds()
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
    least_squares = module.rmse(np.polyfit(x, y, 1), test_x, test_y) * price.deviation
    assert least_squares == pytest.approx(module.LEAST_SQUARES_RMSE, abs=0.01)
