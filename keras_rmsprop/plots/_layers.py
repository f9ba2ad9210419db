"""Pictures of a training, one line or row for each variable."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_rmsprop import _drawing
from keras_rmsprop._drawing import GREY, positive

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_rmsprop._diagnostics._report import Report

Array = NDArray[np.float64]

# A usual size of an update, relative to its weights.
GUIDE = 1e-3

# Of the labels of variables, in characters. The longer ones are for labels that would be equal.
_LENGTHS = (36, 44, 52, 60)
# Inches for a row of the heat map, and for the label of one; the tallest figure.
_ROW, _LABEL, _TALLEST = 0.24, 0.14, 11.0
_GAP = "#c4c4c4"


class _Table(NamedTuple):
    """A statistic of each variable at each sampled step."""

    paths: tuple[str, ...]
    steps: Array
    # (paths, steps), > 0 and finite; NaN where there is no such number.
    values: Array


def learning_rates(history: "Sequence[Report]") -> "Figure":
    """Draw the effective learning rate of each variable over the steps, as a heat map.

    The colour of a cell is the geometric mean of lr / r over the variable's elements, on a
    logarithmic scale, where r is the root that the gradient is divided by. It says how far a weight
    moves per unit of its gradient. A cell is grey if there is no such number: the variable had no
    gradient since the column before, or the mean is 0, infinite or NaN. If there are too many
    variables to name, every second, third, ... is named; long paths are shortened in the middle.

    Args:
        history: reports of `optimizer.diagnostics()`, in the order of their steps. Those that have
            no later sample than the one before are left out.

    Returns: a new figure. If there is nothing to draw, it says so.
    Raises: ImportError if matplotlib is not installed.

    Example:
    >>> from keras_rmsprop import plots
    >>> plots.learning_rates([]).axes[0].get_xlabel()
    'step'
    """
    table = _table(history, "mean_rate")
    rows = len(table.paths)
    height = min(max(_ROW * rows + 1.4, 3.6), _TALLEST)
    figure = _drawing.new_figure(10.0, height)
    axes = figure.subplots()
    _drawing.tidy(axes, grid=False)
    axes.set_title("Effective learning rates", loc="left")
    axes.set_xlabel("step")
    every = max(math.ceil(rows * _LABEL / (height - 1.2)), 1)
    axes.set_ylabel("variable" if every == 1 else f"variable (one of {every} is named)")
    if np.isnan(table.values).all():
        _say_that_nothing_is_there(axes, history, "rate")
        return figure

    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    low, high = float(np.nanmin(table.values)), float(np.nanmax(table.values))
    if high < 10.0 * low:
        # A colour bar with one power of ten at least.
        low, high = low / math.sqrt(10.0), high * math.sqrt(10.0)
    image = axes.pcolormesh(
        _edges(table.steps),
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(table.values),
        cmap=colormaps["viridis"].with_extremes(bad=_GAP),
        norm=LogNorm(low, high),
        rasterized=True,
    )
    _whole_steps(axes)
    axes.invert_yaxis()
    axes.set_facecolor(_GAP)
    axes.set_yticks(range(0, rows, every), _labels(table.paths)[::every], fontsize=8)
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=(height - 1.0) / 0.16)
    bar.set_label("lr / r, geometric mean\n(change of weight per unit of gradient)", fontsize=9)
    if np.isnan(table.values).any():
        figure.supxlabel(
            "Grey: no gradient since the column before, or a rate that is 0, infinite or NaN.",
            fontsize=8,
            color=GREY,
        )
    return figure


def update_ratios(history: "Sequence[Report]", *, named: int = 8) -> "Figure":
    """Draw the size of each variable's updates, relative to its weights, over the steps.

    The ratio is ||update|| / ||weight||, of which 1e-3 is a usual value, drawn as a guide: well
    above it a variable is driven to and fro, well below it hardly moves. Lines have gaps, and
    single points are dots, where there is no ratio > 0: the variable had no gradient since the
    sample before, its weights are all 0, or a norm is infinite or NaN.

    Args:
        history: reports of `optimizer.diagnostics()`, in the order of their steps. Those that have
            no later sample than the one before are left out.
        named: how many variables have a colour and a name, those whose last ratio is farthest from
            the guide; >= 1. The others are thin grey lines.

    Returns: a new figure. If there is nothing to draw, it says so.

    Raises:
        ValueError: if `named` is less than 1.
        ImportError: if matplotlib is not installed.

    Example:
    >>> from keras_rmsprop import plots
    >>> plots.update_ratios([]).axes[0].get_ylabel()
    '||update|| / ||weight|| (no unit)'
    """
    if not named >= 1:
        raise ValueError(f"`named` must be an integer >= 1, received named={named!r}.")
    table = _table(history, "update_ratio")
    figure = _drawing.new_figure(10.0, 4.6)
    axes = figure.subplots()
    _drawing.tidy(axes)
    axes.set_title("Sizes of the updates, relative to the weights", loc="left")
    axes.set(xlabel="step", ylabel="||update|| / ||weight|| (no unit)")
    drawn = np.flatnonzero(~np.isnan(table.values).all(axis=1))
    if not drawn.size:
        _say_that_nothing_is_there(axes, history, "ratio")
        return figure

    axes.set_yscale("log")
    axes.set_ylim(_whole_decades(table.values))
    _whole_steps(axes)
    last = {row: table.values[row][~np.isnan(table.values[row])][-1] for row in drawn}
    far = sorted(drawn, key=lambda row: -abs(math.log10(last[row] / GUIDE)))[:named]
    labels = _labels(table.paths)
    # In the order in which the lines end, from the top.
    for i, row in enumerate(sorted(far, key=lambda row: -last[row])):
        style = _drawing.line_style(i) | {"linewidth": 1.6}
        _line(axes, table.steps, table.values[row], label=labels[row], **style)
    others = [row for row in drawn if row not in far]
    for i, row in enumerate(others):
        label = f"the other {len(others)}" if i == 0 else "_"
        thin = {"color": "#bbbbbb", "linewidth": 0.6, "zorder": 1.5}
        _line(axes, table.steps, table.values[row], label=label, **thin)
    axes.axhline(GUIDE, ls="--", color=GREY, lw=1.2, label="guide: 1e-3", zorder=1.8)
    title = f"Farthest from the guide at the end,\n{len(far)} of {len(drawn)}" if others else None
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        fontsize=8,
        frameon=False,
        title=title,
        title_fontsize=8,
        alignment="left",
    )
    return figure


def _whole_decades(ratios: Array) -> tuple[float, float]:
    """Return limits, powers of ten, that hold the ratios and the guide."""
    low, high = min(np.nanmin(ratios), GUIDE) / 1.2, max(np.nanmax(ratios), GUIDE) * 1.2
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))


def _table(history: "Sequence[Report]", name: str) -> _Table:
    columns: list[tuple[int, Mapping[str, float]]] = []
    before = 0
    for report in history:
        step = report.total.step
        if step <= before:
            continue
        # A variable without a gradient since then still has the numbers of an earlier step.
        fresh = {path: s for path, s in report.variables.items() if s.step > before}
        columns.append((step, {path: getattr(s, name) for path, s in fresh.items()}))
        before = step
    paths = tuple(dict.fromkeys(path for report in history for path in report.variables))
    values = [[column.get(path, math.nan) for _, column in columns] for path in paths]
    steps = np.array([step for step, _ in columns], np.float64)
    return _Table(paths, steps, positive(np.reshape(values, (len(paths), len(columns)))))


def _say_that_nothing_is_there(axes: "Axes", history: "Sequence[Report]", what: str) -> None:
    reasons = [report.reason for report in history if report.reason is not None]
    why = f"no step was sampled in which a variable has a {what} that is finite and greater than 0"
    if not history:
        why = "the history is empty"
    axes.set(xticks=[], yticks=[])
    axes.text(
        0.5,
        0.5,
        f"Nothing to draw: {reasons[-1] if reasons else why}.".replace("..", "."),
        transform=axes.transAxes,
        ha="center",
        va="center",
        wrap=True,
    )


def _whole_steps(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    locator = MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1)
    axes.xaxis.set_major_locator(locator)


def _edges(steps: Array) -> Array:
    """Return the edges of cells around the steps, halfway between them."""
    between = (steps[1:] + steps[:-1]) / 2.0
    if not between.size:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    return np.concatenate([[2.0 * steps[0] - between[0]], between, [2.0 * steps[-1] - between[-1]]])


def _line(axes: "Axes", steps: Array, values: Array, **style: Any) -> None:
    """Draw a line with gaps, and dots where there is one point between two of them."""
    axes.plot(steps, values, **style)
    padded = np.concatenate([[np.nan], values, [np.nan]])
    alone = np.isnan(padded[:-2]) & np.isnan(padded[2:]) & ~np.isnan(values)
    if alone.any():
        dots = {"linestyle": "none", "marker": "o", "markersize": 3, "label": "_"}
        axes.plot(steps[alone], values[alone], **(style | dots))


def _labels(paths: Sequence[str]) -> list[str]:
    """Return paths without the folders that all have in common, shortened, and still different."""
    parts = [path.split("/") for path in paths]
    common = 0
    while len(parts) > 1 and all(
        len(part) > common + 1 and part[common] == parts[0][common] for part in parts
    ):
        common += 1
    names = ["/".join(part[common:]) for part in parts]
    labels = [_shortened(name, _LENGTHS[0]) for name in names]
    for length in _LENGTHS[1:]:
        times = Counter(labels)
        labels = [
            label if times[label] == 1 else _shortened(name, length)
            for label, name in zip(labels, names, strict=True)
        ]
    return labels


def _shortened(name: str, length: int) -> str:
    """Return a name of at most so many characters, without its middle."""
    if len(name) <= length:
        return name
    # Whole folders where possible: the first, and as many of the last as fit.
    first, *rest = name.split("/")
    for i in range(1, len(rest)):
        shorter = "/".join([first, "…", *rest[i:]])
        if len(shorter) <= length:
            return shorter
    kept = length - 1
    return f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"
