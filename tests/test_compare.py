"""Test the comparison of conventions on test functions."""

import math
import re
import sys
from pathlib import Path
from typing import Any

import keras
import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest

from keras_rmsprop import RMSprop, _compare, conventions
from keras_rmsprop._compare import as_text, compare, follow, save_plot
from keras_rmsprop._landscapes import LANDSCAPES
from keras_rmsprop._settings._conventions import CONVENTIONS
from yardsticks.agreement import rmsprop

STEPS = 40


def test_keras_and_tf1_part_at_the_first_step_as_computed_by_hand() -> None:
    comparison = compare(["keras", "tf1"], "quadratic", learning_rate=0.01, steps=3)
    (parting,) = comparison.partings
    # The gradient at (1, 1) is (1, 100), and the averages of squares start from 0 and 1.
    keras_at = [1.0 - 0.01 / math.sqrt(0.1 + 1e-7), 1.0 - 1.0 / math.sqrt(1000.0 + 1e-7)]
    tf1_at = [
        1.0 - 0.01 / math.sqrt(0.9 + 0.1 + 1e-10),
        1.0 - 1.0 / math.sqrt(0.9 + 1000.0 + 1e-10),
    ]
    assert parting.step == 1
    assert parting.positions is not None
    np.testing.assert_allclose(parting.positions, [keras_at, tf1_at], rtol=1e-14)
    travelled = math.hypot(*(1.0 - x for x in keras_at))
    apart = math.hypot(*np.subtract(keras_at, tf1_at))
    assert parting.distances[0] == pytest.approx(apart / travelled, rel=1e-12)
    assert parting.distances[0] == pytest.approx(0.4835, rel=1e-3)
    difference = travelled - math.hypot(*(1.0 - x for x in tf1_at))
    assert parting.step_difference == pytest.approx(difference, rel=1e-12)
    assert parting.step_difference_at == 1


@pytest.mark.parametrize("function", LANDSCAPES)
def test_conventions_that_are_the_same_never_part(function: str) -> None:
    comparison = compare(["keras", "optax"], function, steps=STEPS, same=True, momentum=0.5)
    (parting,) = comparison.partings
    assert parting.step is parting.positions is None
    assert parting.step_difference == 0.0
    assert not parting.distances.any()
    assert "never" in as_text(comparison)
    first, other = comparison.runs
    assert np.array_equal(first.positions, other.positions)
    assert len(np.unique(first.losses)) > STEPS / 2


def test_with_the_same_numbers_only_the_structure_differs() -> None:
    names = ["keras", "torch", "tf1", "hinton"]
    by_default = compare(names, steps=STEPS)
    same = compare(names, steps=STEPS, same=True, rho=0.95)
    assert [run.call for run in same.runs] == [
        "conventions.keras(learning_rate=0.01, rho=0.95, momentum=0.0, epsilon=1e-07)",
        "conventions.torch(lr=0.01, alpha=0.95, momentum=0.0, eps=1e-07)",
        "conventions.tf1(learning_rate=0.01, decay=0.95, momentum=0.0, epsilon=1e-07)",
        "conventions.hinton(learning_rate=0.01, rho=0.95)",
    ]
    # Hinton has no epsilon, and no momentum, which is off.
    assert [run.left_out for run in same.runs] == [(), (), (), ("epsilon=1e-07",)]
    assert by_default.runs[1].call == "conventions.torch(lr=0.01)"
    # torch's alpha of 0.99 makes its first steps longer.
    assert [p.step for p in by_default.partings[:1]] == [1]
    # An epsilon of 1e-7 matters in neither place with gradients of this size.
    assert [p.step for p in same.partings] == [None, 1, None]


def test_the_place_of_the_learning_rate_matters_once_the_rate_changes() -> None:
    def halved(step: int) -> float:
        return 0.01 if step < 20 else 0.005

    options: dict[str, Any] = {"steps": STEPS, "same": True, "momentum": 0.9, "epsilon": 1e-12}
    constant = compare(["keras", "torch"], learning_rate=0.01, **options)
    changing = compare(["keras", "torch"], learning_rate=halved, **options)
    assert constant.partings[0].step is None
    step = changing.partings[0].step
    assert step is not None
    assert step > 20
    assert changing.runs[0].call.startswith("conventions.keras(learning_rate=schedule, ")
    assert "learning rate by a schedule" in as_text(changing)


def test_a_schedule_of_keras_gives_the_rates() -> None:
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.5, 0.125])
    (run, _) = compare(["keras", "tf1"], "xlogx", learning_rate=schedule, steps=8).runs
    other = compare(
        ["keras", "tf1"], "xlogx", learning_rate=lambda step: 0.5 if step <= 4 else 0.125, steps=8
    ).runs[0]
    np.testing.assert_array_equal(run.positions, other.positions)


def test_the_published_points_of_x_over_log_x_are_reached() -> None:
    comparison = compare(["keras", "torch"], "xlogx", steps=301)
    found = [run.positions[[1, 101, 201, 301], 0].tolist() for run in comparison.runs]
    published = [
        [363.0513, 330.9281, 300.8935, 270.8544],
        [361.0000, 302.5840, 268.0156, 236.2579],
    ]
    np.testing.assert_allclose(found, published, rtol=0.0, atol=2e-4)


# The reference, or the optimizer itself.


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_reference_makes_the_steps_of_the_optimizer(
    float64: None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = CONVENTIONS[name].arguments["learning_rate"].name
    landscape = LANDSCAPES["rosenbrock"]

    def path() -> Any:
        optimizer = getattr(conventions, name)(**{rate: 0.5})
        optimizer.jit_compile = False
        return follow(optimizer, landscape, 0.01, 10)

    by_reference = path()
    monkeypatch.setattr(_compare, "_reference_of", lambda *_: None)
    np.testing.assert_allclose(path(), by_reference, rtol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [{"skip_nonfinite": True}, {"transform": "centralize"}, {"groups": {"x": {"rho": 0.5}}}],
    ids=str,
)
def test_the_optimizer_makes_the_steps_that_the_reference_cannot(
    float64: None, arguments: dict[str, Any]
) -> None:
    start = np.array([1.0])
    assert _compare._reference_of(rmsprop(**arguments), start) is None
    path = follow(rmsprop(jit_compile=False, **arguments), LANDSCAPES["quadratic"], 0.01, 5)
    plain = follow(rmsprop(), LANDSCAPES["quadratic"], 0.01, 5)
    assert path.shape == plain.shape == (6, 2)
    # A vector has nothing to centralize, and nothing was skipped.
    assert np.allclose(path, plain, rtol=1e-12) == ("groups" not in arguments)


def test_a_subclass_makes_its_own_steps() -> None:
    class Mine(RMSprop):
        pass

    assert _compare._reference_of(Mine(), np.array([1.0])) is None


# What is printed and drawn.


def test_the_table_says_where_they_part() -> None:
    comparison = compare(["keras", "tf1", "optax"], steps=3, same=True)
    lines = as_text(comparison).splitlines()
    last = [f"{run.losses[-1]:.6g}" for run in comparison.runs]
    assert lines[0] == (
        "quadratic: (x**2 + 100 * y**2) / 2 from (1, 1), 3 steps, learning rate 0.01"
    )
    assert [re.split(" {2,}", line.strip()) for line in lines[1:5]] == [
        ["convention", "last loss", "parts at step", "at", "keras at", "steps differ by"],
        ["keras", last[0]],
        ["tf1", last[1], "1", "(0.99, 0.968391)", "(0.968377, 0.968377)", "0.0116 at step 1"],
        ["optax", last[2], "never", "nothing"],
    ]
    assert lines[5:] == [
        "",
        "    conventions.keras(learning_rate=0.01, rho=0.9, momentum=0.0, epsilon=1e-07)",
        "    conventions.tf1(learning_rate=0.01, decay=0.9, momentum=0.0, epsilon=1e-07)",
        "    conventions.optax(learning_rate=0.01, decay=0.9, momentum=0.0, eps=1e-07)",
        "",
        "They part where they are farther from each other than 0.01 times the distance that keras "
        "has travelled.",
    ]


def test_what_a_convention_cannot_have_is_said() -> None:
    text = as_text(compare(["keras", "hinton"], steps=3, same=True, momentum=0.5))
    assert (
        "conventions.hinton(learning_rate=0.01, rho=0.9), without momentum=0.5, epsilon=1e-07"
        in text
    )


def test_runs_that_leave_the_domain_together_never_part() -> None:
    comparison = compare(["keras", "optax"], "xlogx", steps=200, same=True, momentum=0.9)
    assert np.isnan(comparison.runs[0].positions[-1])
    assert comparison.partings[0].step is None
    assert comparison.partings[0].step_difference == 0.0


def test_a_run_that_leaves_the_domain_parts_there() -> None:
    comparison = compare(["torch", "tf1"], "xlogx", learning_rate=37.0, steps=6)
    first, other = comparison.runs
    assert np.isnan(first.positions[-1])
    assert np.isfinite(other.positions[-1])
    assert comparison.partings[0].step == 1
    assert np.isinf(comparison.partings[0].distances[-1])
    assert as_text(comparison)


def test_the_picture_shows_losses_and_distances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    savefig = matplotlib.figure.Figure.savefig

    def kept(figure: Any, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", kept)
    comparison = compare(["keras", "optax", "tf1"], steps=STEPS, same=True)
    save_plot(comparison, tmp_path / "picture.png")
    assert matplotlib.image.imread(tmp_path / "picture.png").shape[1] > 1000
    losses, distances = drawn[0].axes
    labels = [text.get_text() for text in losses.get_legend().get_texts()]
    assert labels == ["keras", "optax", "tf1"]
    labels = [text.get_text() for text in distances.get_legend().get_texts()]
    assert labels == ["optax: never parts", "tf1: parts at step 1"]
    np.testing.assert_array_equal(losses.lines[0].get_ydata(), comparison.runs[0].losses)
    circles = [line for line in distances.lines if line.get_marker() == "o"]
    assert [(c.get_xdata()[0], c.get_ydata()[0]) for c in circles] == [
        (1, comparison.partings[1].distances[0])
    ]


def test_equal_runs_can_be_drawn(tmp_path: Path) -> None:
    save_plot(compare(["keras", "optax"], steps=3, same=True), tmp_path / "equal.svg")
    assert (tmp_path / "equal.svg").read_text().count("<path") > 10


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        save_plot(compare(["keras", "tf1"], steps=1), tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["keras", "sgd"], {}, "no convention 'sgd'; there are keras, torch, optax"),
        (["keras"], {}, "two or more different conventions, received keras"),
        (["tf1", "tf1"], {}, "two or more different conventions, received tf1, tf1"),
        (["keras", "tf1"], {"function": "bowl"}, "no function 'bowl'; there are quadratic, "),
        (["keras", "tf1"], {"steps": 0}, "`steps` must be an integer from 1 to .* steps=0"),
        (["keras", "tf1"], {"steps": 2.5}, "`steps` must be an integer from 1 to .* steps=2.5"),
        (["keras", "tf1"], {"steps": 10**20}, "1000000, because every step .* steps=1000000000"),
        (["keras", "tf1"], {"tolerance": float("nan")}, "`tolerance` must be .* tolerance=nan"),
        (
            ["keras", "tf1"],
            {"learning_rate": -1.0},
            "`learning_rate` must be .* received learning_rate=-1",
        ),
        (["keras", "tf1"], {"rho": 1.5}, "`rho` must be .* received rho=1.5"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(
    names: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(names, **options)
