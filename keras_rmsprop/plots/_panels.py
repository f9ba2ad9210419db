"""The panels of a picture of trajectories: a map or a curve, and the values over the steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_rmsprop import _drawing
from keras_rmsprop._drawing import COLOURS, MARKERS, positive
from keras_rmsprop._landscapes import Landscape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

Array = NDArray[np.float64]

_BANDS = 12
# Of the values that are shown, relative to the first one.
_SMALLEST, _LARGEST = 1e-10, 1e3
# Between the curves of one dimension, relative to the height of the highest.
_RAIL = 0.045


class Trajectory(NamedTuple):
    """Where an optimizer goes."""

    label: str
    # At the start and after each step, (steps + 1, dimensions) and (steps + 1,).
    positions: Array
    values: Array


class Trace(NamedTuple):
    """A line with a marker at its end, and all its points."""

    line: "Line2D"
    tip: "Line2D"
    x: Array
    y: Array

    def show(self, step: int) -> None:
        """Show the points from the start to a step."""
        self.line.set_data(self.x[: step + 1], self.y[: step + 1])
        self.tip.set_data(self.x[step : step + 1], self.y[step : step + 1])


class Picture(NamedTuple):
    """The figure, and what changes in it from step to step."""

    figure: "Figure"
    heading: "Text"
    traces: Sequence[Trace]
    steps: int
    title: str

    def moving(self) -> list[Any]:
        """Return what `show` changes."""
        lines = [artist for trace in self.traces for artist in (trace.line, trace.tip)]
        return [*sorted(lines, key=lambda line: line.get_zorder()), self.heading]

    def show(self, step: int) -> None:
        """Show the trajectories from the start to a step."""
        for trace in self.traces:
            trace.show(step)
        at = "" if step == self.steps else f" of {self.steps}"
        self.heading.set_text(f"{self.title}: {step}{at} steps")


def draw_map(axes: "Axes", landscape: Landscape, runs: Sequence[Trajectory]) -> list[Trace]:
    """Draw trajectories over a map of a function of two variables."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    start, limits = runs[0].positions[0], limits_of(landscape, runs)
    x, y = np.meshgrid(*(np.linspace(*limit, 240) for limit in limits))
    heights = landscape.value(np.array([x, y]))
    # Bands of equal area, so that no part of the map is without contours.
    levels = np.quantile(heights, np.linspace(0.0, 1.0, _BANDS + 1))
    colours, norm = ListedColormap(band_colours()), BoundaryNorm(levels, _BANDS)
    bands = axes.contourf(x, y, heights, levels, cmap=colours, norm=norm)
    axes.contour(x, y, heights, levels[::2], colors="#8a8a8a", linewidths=0.5)
    bar = axes.figure.colorbar(bands, ax=axes, pad=0.02)
    shown = levels[:: _BANDS // 4].tolist()
    digits = [np.format_float_positional(z, 2, fractional=False, trim="-") for z in shown]
    bar.set_ticks(shown, labels=digits)
    bar.minorticks_off()
    bar.ax.set_title("f(x, y)", fontsize=9)
    _drawing.tidy(axes, grid=False)
    axes.set(xlabel="x", ylabel="y", xlim=limits[0], ylim=limits[1], title="Trajectories")
    axes.plot(*np.transpose(landscape.minima), "*", color="k", mec="w", ms=12, zorder=5)
    axes.plot(*start, "x", color="k", mew=2.0, ms=8, zorder=5, clip_on=False)
    return [_trace(axes, i, run.label, *run.positions.T) for i, run in enumerate(runs)]


def draw_curve(axes: "Axes", landscape: Landscape, runs: Sequence[Trajectory]) -> list[Trace]:
    """Draw trajectories along the curve of a function of one variable, each on its own copy."""
    ((low, high),) = limits_of(landscape, runs)
    start = runs[0].positions[0]
    x = np.geomspace(low, high, 500)
    curve = landscape.value(x[None])
    height = float(np.max(curve))
    axes.plot(x, curve, color="k", lw=1.2, zorder=1.5)
    axes.plot(*landscape.minima[0], landscape.value(np.array(landscape.minima[0])), "*k", ms=12)
    axes.plot(*start, landscape.value(start), "xk", mew=2.0, ms=8)
    _drawing.tidy(axes)
    axes.set(
        title="Trajectories",
        xlabel="x",
        ylabel="f(x), shifted up for each optimizer",
        xscale="log",
        xlim=(low, 1.1 * high),
        ylim=(0.0, (1.0 + (len(runs) + 1) * _RAIL) * height),
    )
    traces = []
    for i, run in enumerate(runs):
        lift = (i + 1) * _RAIL * height
        axes.plot(x, curve + lift, color="#cccccc", lw=0.6, zorder=1.2)
        trace = _trace(axes, i, run.label, run.positions[:, 0], run.values + lift)
        # Dots at equal times show the speed.
        trace.line.set(marker="o", markersize=3.5, markevery=max(len(run.values) // 40, 1), lw=0.8)
        traces.append(trace)
    return traces


def draw_values(axes: "Axes", landscape: Landscape, runs: Sequence[Trajectory]) -> list[Trace]:
    """Draw how far the values are above the minimum, over the steps."""
    lowest = landscape.lowest
    first = float(runs[0].values[0]) - lowest
    steps = np.arange(len(runs[0].values), dtype=np.float64)
    _drawing.tidy(axes)
    axes.set(
        title="Values",
        xlabel="step",
        ylabel="f - its minimum",
        yscale="log",
        xlim=(0.0, 1.03 * steps[-1]),
    )
    above = [positive(run.values - lowest) for run in runs]
    traces = [
        _trace(axes, i, run.label, steps, y)
        for i, (run, y) in enumerate(zip(runs, above, strict=True))
    ]
    bottom, top = axes.get_ylim()
    if first > 0.0:
        # A passage through the minimum, or a run that diverges, would fill the panel.
        axes.set_ylim(max(bottom, _SMALLEST * first), min(top, _LARGEST * first))
    return traces


def _trace(axes: "Axes", i: int, label: str, x: Array, y: Array) -> Trace:
    style = _drawing.line_style(i)
    style["linewidth"] = max(2.6 - 0.25 * i, 1.5)
    (line,) = axes.plot(x, y, label=label, zorder=3, **style)
    (tip,) = axes.plot(
        x[-1:],
        y[-1:],
        marker=MARKERS[i % len(MARKERS)],
        color=COLOURS[i % len(COLOURS)],
        markeredgecolor="white",
        markersize=8,
        linestyle="none",
        zorder=4,
    )
    return Trace(line, tip, x, y)


def band_colours() -> Array:
    """Return the colours of a map, pale, and lightest where trajectories end."""
    from matplotlib import colormaps

    colours = colormaps["cividis_r"](np.linspace(0.0, 1.0, _BANDS))[:, :3]
    return np.asarray(0.35 * colours + 0.65)


def limits_of(landscape: Landscape, runs: Sequence[Trajectory]) -> list[tuple[float, float]]:
    """Return what is shown of each dimension: the window, and the start."""
    start = runs[0].positions[0].tolist()
    return [
        (min(low, at), max(high, at))
        for (low, high), at in zip(landscape.window, start, strict=True)
    ]


def name_of(run: Trajectory, landscape: Landscape, runs: Sequence[Trajectory]) -> str:
    """Return the label of a trajectory, which says so if it ends outside of the picture."""
    limits = np.array(limits_of(landscape, runs))
    end = run.positions[-1]
    inside = bool(np.all((limits[:, 0] <= end) & (end <= limits[:, 1])))
    return run.label if inside else f"{run.label}, leaves the picture"


def typeset(formula: str) -> str:
    """Return the formula of a program as one of a text.

    >>> typeset("10 * (y - x**2)**2")
    '10 (y - x²)²'
    """
    for program, text in (("**2", "²"), ("**3", "³"), (" * ", " "), ("*", " "), ("pi", "π")):
        formula = formula.replace(program, text)
    return formula
