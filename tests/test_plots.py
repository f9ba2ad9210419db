"""Test what the pictures contain."""

import itertools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from keras_rmsprop import RMSprop, plots
from keras_rmsprop._diagnostics._report import Report, Statistics
from keras_rmsprop._landscapes import LANDSCAPES
from keras_rmsprop.reference import Reference

# What each function of the module is called with, for what all have in common.
CALLS: dict[str, Any] = {
    "learning_rates": lambda _: plots.learning_rates(history({"w": [1e-2, 1e-3]})),
    "update_ratios": lambda _: plots.update_ratios(history({"w": [1e-2, 1e-3]})),
    "trajectories": lambda _: plots.trajectories("beale", steps=2),
    "animate": lambda path: plots.animate(path / "beale.gif", "beale", steps=2, frames=2),
    "accumulators": lambda _: plots.accumulators(),
}


def history(
    values: Mapping[str, list[float | None]], steps: list[int] | None = None
) -> list[Report]:
    """Reports in which a variable's rate is its ratio; None if the report lacks the variable."""
    count = len(next(iter(values.values())))
    return [
        report(
            step,
            {path: (step, row[i]) for path, row in values.items() if row[i] is not None},  # type: ignore[misc]
        )
        for i, step in enumerate(steps or range(1, count + 1))
    ]


def report(step: int, values: Mapping[str, tuple[int, float]], reason: str | None = None) -> Report:
    """A report of a step; of each variable the step of its numbers, and the number."""
    variables = {
        path: Statistics(step=own, mean_rate=value, update_norm=value, weight_norm=1.0)
        for path, (own, value) in values.items()
    }
    return Report(
        name="rmsprop",
        iterations=step,
        every=1,
        skipped_steps=None,
        clip=None,
        variables=variables,
        total=Statistics(step=step),
        settings={},
        histograms={},
        reason=reason,
    )


def pixels_of(path: Path) -> list[Any]:
    """The frames of an image, (height, width, 3)."""
    with Image.open(path) as image:
        return [
            np.asarray(frame.convert("RGB"), np.int64) for frame in ImageSequence.Iterator(image)
        ]


def texts_of(figure: Figure) -> str:
    """All words that are not labels of axes."""
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return " ".join(texts + [text.get_text() for text in figure.texts])


def cells_of(figure: Figure) -> np.ma.MaskedArray:
    (mesh,) = figure.axes[0].collections
    return mesh.get_array()


def lines_of(axes: Any) -> dict[str, Any]:
    """The lines of a panel by their labels."""
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


# What all have in common.


@pytest.mark.parametrize("name", plots.__all__)
def test_pyplot_and_the_settings_of_matplotlib_are_left_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    before = dict(mpl.rcParams)
    figure = CALLS[name](tmp_path)
    if figure is not None:
        figure.savefig(tmp_path / "picture.png")
        assert pixels_of(tmp_path / "picture.png")[0].shape[1] >= 900
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", plots.__all__)
def test_without_matplotlib_the_error_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install .*keras_rmsprop\[plots\]"):
        CALLS[name](tmp_path)


# Effective learning rates.


def test_the_heat_map_has_a_row_for_each_variable_and_a_column_for_each_step() -> None:
    rates = {"model/a/kernel": [1e-3, 1e-2, 1e-1], "model/b/bias": [2.0, 1.0, 0.5]}
    figure = plots.learning_rates(history(rates, [1, 11, 31]))
    axes, bar = figure.axes
    np.testing.assert_array_equal(cells_of(figure), list(rates.values()))
    assert not np.ma.is_masked(cells_of(figure))
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a/kernel", "b/bias"]
    # The first variable is at the top.
    assert axes.get_ylim() == (1.5, -0.5)
    (mesh,) = axes.collections
    np.testing.assert_array_equal(mesh.get_coordinates()[0, :, 0], [-4.0, 6.0, 21.0, 41.0])
    assert axes.get_xlabel() == "step"
    assert axes.get_ylabel() == "variable"
    assert "per unit of gradient" in bar.get_ylabel()
    # The colour is the logarithm of the rate.
    np.testing.assert_allclose(mesh.norm([1e-3, 2.0, math.sqrt(2e-3)]), [0.0, 1.0, 0.5])
    assert "Grey" not in texts_of(figure)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, None], ids=str)
def test_what_is_no_rate_is_grey_and_said_to_be(value: float | None) -> None:
    figure = plots.learning_rates(history({"a": [1.0, 2.0], "b": [1.0, value]}))
    assert cells_of(figure).mask.tolist() == [[False, False], [False, True]]
    assert "Grey" in texts_of(figure)
    (mesh,) = figure.axes[0].collections
    bad = mesh.get_cmap().get_bad()
    assert np.ptp(bad[:3]) == 0.0
    # No other colour of the map is close to it.
    assert np.abs(mesh.get_cmap()(np.linspace(0, 1, 256)) - bad).max(axis=1).min() > 0.2


def test_the_numbers_of_an_earlier_step_are_not_drawn_again() -> None:
    # b has no gradient in steps 2 and 3, and keeps its numbers of step 1; in step 9, between two
    # reports, it has one.
    reports = [
        report(1, {"a": (1, 1.0), "b": (1, 5.0)}),
        report(3, {"a": (3, 2.0), "b": (1, 5.0)}),
        report(10, {"a": (10, 3.0), "b": (9, 6.0)}),
    ]
    cells = cells_of(plots.learning_rates(reports))
    np.testing.assert_array_equal(cells.filled(np.nan), [[1.0, 2.0, 3.0], [5.0, np.nan, 6.0]])


def test_reports_without_a_new_sample_are_left_out() -> None:
    reports = [
        report(0, {"a": (0, math.nan)}),
        *history({"a": [1.0, 2.0]}, [1, 51]),
        report(51, {"a": (51, 2.0)}),
    ]
    np.testing.assert_array_equal(cells_of(plots.learning_rates(reports)), [[1.0, 2.0]])


def test_hundreds_of_names_are_thinned_and_do_not_overlap() -> None:
    paths = [
        f"backbone/transformer_layer_{i}/multi_head_attention/{part}/{name}"
        for i in range(20)
        for part in ("query", "key", "value", "attention_output")
        for name in ("kernel", "bias", "a_factor_that_has_a_very_long_name_for_some_reason")
    ]
    figure = plots.learning_rates(history({path: [1e-3, 1e-2] for path in paths}))
    axes = figure.axes[0]
    assert cells_of(figure).shape == (240, 2)
    assert figure.get_size_inches()[1] <= 11.0
    figure.draw_without_rendering()
    labels = axes.get_yticklabels()
    extents = [label.get_window_extent() for label in labels]
    assert len(labels) > 40
    for upper, lower in itertools.pairwise(extents):
        assert lower.y1 <= upper.y0
    assert min(extent.x0 for extent in extents) >= 0.0
    assert len(labels) < 240
    assert axes.get_ylabel() == f"variable (one of {math.ceil(240 / len(labels))} is named)"
    # The names leave room for the panel.
    assert axes.get_window_extent().width > 0.4 * figure.bbox.width


@pytest.mark.parametrize("draw", [plots.learning_rates, plots.update_ratios])
def test_with_nothing_to_draw_the_picture_says_why(draw: Any, tmp_path: Path) -> None:
    nothing = {"a": [math.nan, 0.0], "b": [math.inf, None]}
    reason = "The optimizer measures nothing."
    for reports, words in (
        ([], "the history is empty"),
        (history(nothing), "no step was sampled in which"),
        ([report(0, {}, reason)], "Nothing to draw: The optimizer measures nothing."),
    ):
        figure = draw(reports)
        assert words in texts_of(figure)
        assert figure.axes[0].get_xlabel() == "step"
        figure.savefig(tmp_path / "nothing.png")


@pytest.mark.parametrize("draw", [plots.learning_rates, plots.update_ratios])
def test_one_sample_of_one_variable_is_drawn(draw: Any, tmp_path: Path) -> None:
    figure = draw(history({"model/a/kernel": [1e-3]}, [7]))
    figure.savefig(tmp_path / "one.png")
    low, high = figure.axes[0].get_xlim()
    shown = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert shown == [7.0]
    assert "Nothing" not in texts_of(figure)


def test_long_paths_are_shortened_and_stay_different() -> None:
    from keras_rmsprop.plots._layers import _labels

    middle = "/".join(["a_long_name_in_the_middle"] * 3)
    assert _labels(["model/a/kernel", "model/b/kernel"]) == ["a/kernel", "b/kernel"]
    assert _labels(["model/kernel"]) == ["model/kernel"]
    assert _labels([f"first/{middle}/query/kernel", "second/bias"]) == [
        "first/…/query/kernel",
        "second/bias",
    ]
    same_ends = [f"first/{folder * 20}/bias" for folder in ("ab", "cd")]
    assert _labels([*same_ends, "second/bias"]) == [*same_ends, "second/bias"]
    (_, one) = _labels(["x", "y" * 100])
    assert len(one) == 36


# Update-to-weight ratios.


def test_the_ratios_are_drawn_with_the_guide() -> None:
    ratios = {"model/a": [1e-4, 2e-4, 3e-4], "model/b": [1e-2, 2e-2, 3e-2]}
    figure = plots.update_ratios(history(ratios, [1, 11, 21]))
    (axes,) = figure.axes
    lines = lines_of(axes)
    # In the order in which they end.
    assert list(lines) == ["b", "a", "guide: 1e-3"]
    np.testing.assert_array_equal(lines["a"].get_xdata(), [1, 11, 21])
    np.testing.assert_array_equal(lines["a"].get_ydata(), ratios["model/a"])
    assert set(lines["guide: 1e-3"].get_ydata()) == {1e-3}
    assert len({to_hex(line.get_color()) for line in lines.values()}) == 3
    assert lines["a"].get_linestyle() != lines["b"].get_linestyle()
    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == (1e-5, 1e-1)
    assert axes.get_xlabel() == "step"
    assert axes.get_ylabel() == "||update|| / ||weight|| (no unit)"


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, None], ids=str)
def test_what_is_no_ratio_is_a_gap_and_a_point_between_two_gaps_a_dot(value: float | None) -> None:
    row = [1e-3, 2e-3, value, 3e-3, value, 4e-3, 5e-3]
    (axes,) = plots.update_ratios(history({"a": row, "b": [1e-2] * 7})).axes
    line = lines_of(axes)["a"]
    assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [2, 4]
    (dots,) = (line for line in axes.lines if line.get_marker() == "o")
    assert (dots.get_xdata().tolist(), dots.get_ydata().tolist()) == ([4], [3e-3])
    assert dots.get_color() == line.get_color()


def test_a_variable_whose_weights_are_0_has_no_ratio() -> None:
    statistics = Statistics(step=1, update_norm=1.0, weight_norm=0.0)
    reports = [report(1, {})._replace(variables={"a": statistics})]
    assert "Nothing to draw" in texts_of(plots.update_ratios(reports))


def test_of_many_variables_those_that_end_farthest_from_the_guide_are_named() -> None:
    ends = {f"v{i}": 1e-3 * 1.1**i for i in range(-50, 50)}
    reports = history({path: [1e-3 / end * 1e-3, end] for path, end in ends.items()})
    (axes,) = plots.update_ratios(reports, named=3).axes
    assert list(lines_of(axes)) == ["v49", "v-49", "v-50", "the other 97", "guide: 1e-3"]
    colours = [to_hex(line.get_color()) for line in axes.lines]
    assert colours.count("#bbbbbb") == 97
    assert "3 of 100" in axes.get_legend().get_title().get_text()


def test_no_variable_to_name_is_refused() -> None:
    with pytest.raises(ValueError, match="`named` must be an integer >= 1, received named=0"):
        plots.update_ratios([], named=0)


# Trajectories.

SETTINGS: dict[str, dict[str, Any]] = {
    "RMSprop, keras": {},
    "RMSprop, torch": {"rho": 0.99, "epsilon": 1e-8, "epsilon_inside_sqrt": False},
    "RMSprop, tf1": {"epsilon": 1e-10, "initial_square_average": 1.0},
    "RMSprop, centered": {"centered": True},
}
DEFAULTS = [*SETTINGS, "Adagrad", "SGD"]


def by_reference(function: str, label: str, steps: int) -> Any:
    """The path of the reference, with the rate and settings of a label."""
    landscape = LANDSCAPES[function]
    name, _, rate = label.rstrip(")").partition(" (lr ")
    reference = Reference([landscape.start], **SETTINGS[name])
    path = [reference.weights[0]]
    for step in range(steps):
        reference.apply([landscape.gradient(path[-1], step)], float(rate))
        path.append(reference.weights[0])
    return np.array(path)


@pytest.mark.parametrize("function", LANDSCAPES)
@pytest.mark.usefixtures("float64")
def test_the_trajectories_are_those_of_the_reference(function: str) -> None:
    landscape, steps = LANDSCAPES[function], 12
    ground, values, *_ = plots.trajectories(function, steps=steps).axes
    lines = lines_of(ground)
    assert [label.partition(" (")[0] for label in lines] == DEFAULTS
    lifts = [0.0]
    for label, line in lines.items():
        x, y = np.asarray(line.get_data(), np.float64)
        above = np.asarray(lines_of(values)[label].get_ydata(), np.float64)
        path = np.transpose([x, y][: len(landscape.start)])
        if label.partition(" (")[0] in SETTINGS:
            np.testing.assert_allclose(path, by_reference(function, label, steps), rtol=1e-11)
        np.testing.assert_array_equal(path[0], landscape.start)
        heights = landscape.value(path.T)
        np.testing.assert_allclose(above, heights - landscape.lowest, rtol=1e-12)
        if len(landscape.start) == 1:
            # Along copies of the curve, each above the other.
            lift = y - heights
            np.testing.assert_allclose(lift, lift[0])
            assert lift[0] > lifts[-1] + 1.0
            lifts.append(lift[0])


@pytest.mark.parametrize("function", LANDSCAPES)
def test_the_map_shows_start_and_minima_and_has_labels(function: str) -> None:
    landscape = LANDSCAPES[function]
    ground, values, *_ = plots.trajectories(function, {"SGD": keras.optimizers.SGD(0.0)}).axes
    points = {
        marker: np.transpose(
            [line.get_data() for line in ground.lines if line.get_marker() == marker]
        )
        for marker in "*x"
    }
    dimensions = len(landscape.start)
    stars = points["*"].squeeze(axis=-1)[:, :dimensions]
    np.testing.assert_array_equal(stars, landscape.minima)
    np.testing.assert_array_equal(points["x"].ravel()[:dimensions], landscape.start)
    (left, right), (bottom, top) = ground.get_xlim(), ground.get_ylim()
    for at in [*landscape.minima, landscape.start]:
        y = at[1] if dimensions == 2 else landscape.value(np.array(at))
        assert left <= at[0] <= right
        assert bottom <= y <= top
    assert ground.get_xlabel() == "x"
    assert ground.get_ylabel() == (
        "y" if dimensions == 2 else "f(x), shifted up for each optimizer"
    )
    assert values.get_xlabel() == "step"
    assert values.get_ylabel() == "f - its minimum"
    assert values.get_yscale() == "log"


def test_optimizers_are_copied_and_named_in_the_legend() -> None:
    weight = keras.Variable([1.0, 2.0])
    mine, adam = RMSprop(0.1), keras.optimizers.Adam(0.1)
    adam.build([weight])
    given = {"mine": mine, "Adam": adam}
    first, again = (plots.trajectories("beale", given, steps=5) for _ in range(2))
    assert not mine.built
    assert int(adam.iterations) == 0
    assert [text.get_text() for text in first.legends[0].get_texts()] == ["mine", "Adam"]
    for label in given:
        paths = [np.array(lines_of(figure.axes[0])[label].get_data()) for figure in (first, again)]
        np.testing.assert_array_equal(*paths)
        assert np.all(paths[0][:, 0] != paths[0][:, -1])


def test_start_and_steps_are_as_given() -> None:
    figure = plots.trajectories("rosenbrock", {"a": RMSprop(0.1)}, start=(-4.0, 7.0), steps=3)
    ground, values, *_ = figure.axes
    line = lines_of(ground)["a"]
    assert len(line.get_xdata()) == 4
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (-4.0, 7.0)
    assert ground.get_xlim()[0] == -4.0
    assert ground.get_ylim()[1] == 7.0
    assert len(lines_of(values)["a"].get_xdata()) == 4
    assert "3 steps" in texts_of(figure)


def test_a_trajectory_that_leaves_the_picture_is_said_to() -> None:
    given = {"far": keras.optimizers.SGD(0.1), "near": keras.optimizers.SGD(0.01)}
    figure = plots.trajectories("quadratic", given, steps=400)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["far, leaves the picture", "near"]
    ground, values, *_ = figure.axes
    assert ground.get_xlim() == LANDSCAPES["quadratic"].window[0]
    # Values that explode leave room for the others.
    assert values.get_ylim()[1] < 1e6


def test_a_trajectory_that_leaves_the_domain_ends_there(tmp_path: Path) -> None:
    figure = plots.trajectories("xlogx", {"far": RMSprop(100.0)}, steps=9)
    assert "leaves the picture" in figure.legends[0].get_texts()[0].get_text()
    assert np.isnan(lines_of(figure.axes[0])["far"].get_ydata()[-1])
    figure.savefig(tmp_path / "left.png")


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        ("bowl", {}, ValueError, "no function 'bowl'; there are quadratic, "),
        ("beale", {"steps": 0}, ValueError, "`steps` must be an integer >= 1, received steps=0"),
        ("beale", {"start": (1.0,)}, ValueError, r"`start` must have the shape \(2,\), received"),
        ("beale", {"start": (math.nan, 1.0)}, ValueError, "`start` must be in the domain of beale"),
        ("xlogx", {"start": (0.5,)}, ValueError, "in the domain of xlogx, received start=.0.5"),
        ("beale", {"optimizers": {}}, ValueError, "`optimizers` must name one optimizer at least"),
        ("beale", {"optimizers": {"a": "sgd"}}, TypeError, "received 'sgd' for 'a'"),
    ],
    ids=str,
)
def test_what_has_no_trajectory_is_refused(
    function: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plots.trajectories(function, **options)


# Animations.


def test_the_animation_has_its_frames_and_shows_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "beale.gif"
    plots.animate(path, "beale", {"a": RMSprop(0.1)}, steps=60, frames=5, seconds=1.0)
    assert path.stat().st_size < 1e5
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.info["loop"] == 0
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert durations == [200, 200, 200, 200, 2200]
    # The colour of the first trajectory.
    blue = [int(np.sum(np.all(frame == [0, 0x72, 0xB2], axis=-1))) for frame in pixels_of(path)]
    assert np.all(np.diff(blue) > 0)
    assert blue[-1] > blue[0] + 300


def test_the_last_frame_is_the_picture_of_the_trajectories(tmp_path: Path) -> None:
    given = {"a": RMSprop(0.1), "b": keras.optimizers.SGD(0.01)}
    plots.animate(tmp_path / "film.gif", "beale", given, steps=20, frames=3)
    plots.trajectories("beale", given, steps=20).savefig(tmp_path / "still.png", dpi=100)
    last, (still,) = pixels_of(tmp_path / "film.gif")[-1], pixels_of(tmp_path / "still.png")
    assert last.shape == still.shape
    # But for the smoothing of lines, which has few colours in the file.
    assert np.mean(np.abs(last - still).max(axis=-1) > 40.0) < 0.005


def test_there_are_no_more_frames_than_steps(tmp_path: Path) -> None:
    plots.animate(tmp_path / "few.gif", "himmelblau", {"a": RMSprop(0.1)}, steps=2, frames=40)
    assert len(pixels_of(tmp_path / "few.gif")) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 1}, "`frames` must be an integer >= 2, received frames=1"),
        ({"seconds": 0.0}, "`seconds` must be a finite number > 0, received seconds=0.0"),
        ({"seconds": math.nan}, "`seconds` must be .* received seconds=nan"),
    ],
    ids=str,
)
def test_what_is_no_animation_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        plots.animate(tmp_path / "none.gif", "beale", **options)
    assert not list(tmp_path.iterdir())


# Accumulators.


def test_the_accumulators_and_steps_are_those_of_the_rules() -> None:
    gradients = [2.0, -1.0, 0.5, 0.25]
    options = {"learning_rate": 0.1, "rho": 0.5, "epsilon": 1e-2}
    above, beneath = plots.accumulators(gradients, **options).axes
    squares, sums, averages = (np.asarray(line.get_ydata()) for line in above.lines)
    np.testing.assert_allclose(squares, [4.0, 1.0, 0.25, 0.0625])
    np.testing.assert_allclose(sums, [4.0, 5.0, 5.25, 5.3125])
    np.testing.assert_allclose(averages, [2.0, 1.5, 0.875, 0.46875])
    reference = Reference([0.0], rho=0.5, epsilon=1e-2)
    at = [0.0]
    for gradient in gradients:
        reference.apply([gradient], 0.1)
        at.append(float(reference.weights[0]))
    adagrad, rmsprop_, rate = (np.asarray(line.get_ydata()) for line in beneath.lines)
    np.testing.assert_allclose(rmsprop_, np.abs(np.diff(at)), rtol=1e-12)
    np.testing.assert_allclose(adagrad, 0.1 * np.abs(gradients) / np.sqrt(sums + 1e-2))
    assert set(rate) == {0.1}
    np.testing.assert_array_equal(above.lines[1].get_xdata(), [1, 2, 3, 4])
    assert above.get_ylabel() == "accumulator (gradient²)"
    assert beneath.get_ylabel() == "length of the step (unit of the weight)"
    assert beneath.get_xlabel() == "step"
    assert above.get_yscale() == beneath.get_yscale() == "log"


def test_by_default_adagrad_stalls_and_rmsprop_recovers() -> None:
    above, beneath = plots.accumulators().axes
    _, sums, averages = (np.asarray(line.get_ydata()) for line in above.lines)
    adagrad, rmsprop_, _ = (np.asarray(line.get_ydata()) for line in beneath.lines)
    assert np.all(np.diff(sums) > 0.0)
    assert averages[-1] < 0.01 * averages[49]
    assert np.median(rmsprop_[-20:]) == pytest.approx(0.01, rel=0.3)
    assert np.median(adagrad[-20:]) < 0.01 * np.median(rmsprop_[-20:])


def test_gradients_of_0_are_gaps(tmp_path: Path) -> None:
    figure = plots.accumulators([0.0, 1.0, 0.0], epsilon=0.0)
    figure.savefig(tmp_path / "zeros.png")
    above, beneath = figure.axes
    for line in (*above.lines, *beneath.lines[:2]):
        assert np.isnan(line.get_ydata()[0])
        assert np.isfinite(line.get_ydata()[1])


@pytest.mark.parametrize("gradients", [[], [[1.0]], 1.0], ids=str)
def test_gradients_that_are_no_sequence_of_numbers_are_refused(gradients: Any) -> None:
    with pytest.raises(ValueError, match="`gradients` must be one number for each step"):
        plots.accumulators(gradients)
