"""The charts of a training, as figures of plotly in the form of plain dicts."""

import html
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from keras_rmsprop._diagnostics import _selection
from keras_rmsprop._diagnostics._format import printable, shortened
from keras_rmsprop._diagnostics._report import Report, Statistics

Figure = dict[str, Any]

# Of Okabe and Ito, which colour-blind readers can tell apart; without the yellow, pale on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("solid", "dash", "dot", "dashdot")
_BLACK, _GREY = "#000000", "#767676"
_BAND = "rgba(0, 114, 178, 0.15)"

# As many variables as the lines of a chart, and the rows of a map, can be of.
_MOST_LINES = 60
_MOST_ROWS = 80
# As many points as lines of single variables, and columns of a map, can have.
_MOST_POINTS = 250

_NAME_WIDTH = 40

# What stands for values that a logarithmic axis has no place for.
_ZERO, _NOT_FINITE = "triangle-down", "x"
_MARKS = {
    _ZERO: "A triangle at the bottom stands for 0.",
    _NOT_FINITE: "A cross at the top stands for a number that is not finite, such as the ratio of "
    "weights that are all 0.",
}


class Chart(NamedTuple):
    """A figure and how to read it."""

    # Short, of letters and "-".
    name: str
    title: str
    advice: str
    figure: Figure


class _Line(NamedTuple):
    """The values of one quantity over steps."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    style: Mapping[str, Any]


def charts(reports: Sequence[Report]) -> list[Chart]:
    """Return the charts of a training.

    Args:
        reports: at least one, in the order of their steps; each has sampled.
    """
    return [
        _with_key(Chart(name, title, advice, figure(reports)))
        for name, (title, advice, figure) in _CHARTS.items()
    ]


def _with_key(chart: Chart) -> Chart:
    """Return a chart whose advice says what the marks in it are."""
    symbols = {trace.get("marker", {}).get("symbol") for trace in chart.figure["data"]}
    meanings = [meaning for symbol, meaning in _MARKS.items() if symbol in symbols]
    return chart._replace(advice=" ".join([chart.advice, *meanings]))


# The figures.


def _ratios(reports: Sequence[Report]) -> Figure:
    paths = _worst_of(reports, _MOST_LINES)
    lines = [_of_all(reports, "update_ratio", "all variables", color=_BLACK, width=3)]
    for i, path in enumerate(paths):
        style = {"color": _COLOURS[i % len(_COLOURS)], "dash": _DASHES[i // len(_COLOURS) % 4]}
        lines.append(_of_one(reports, path, "update_ratio", **style))
    unit = "update norm / weight norm (no unit)"
    figure = _on_log_axis(lines, unit, guide=_selection.USUAL_RATIO)
    hidden = set(paths[_selection.FEW + 1 :])
    for trace in figure["data"]:
        if trace["legendgroup"] in hidden:
            trace["visible"] = "legendonly"
    return figure


def _norms(reports: Sequence[Report]) -> Figure:
    lines = [_of_all(reports, "gradient_norm", "gradient", color=_COLOURS[0])]
    if reports[-1].clip is not None:
        clipped = "gradient after clipping"
        lines.append(
            _of_all(reports, "clipped_gradient_norm", clipped, color=_COLOURS[4], dash="dash")
        )
    lines += [
        _of_all(reports, "weight_norm", "weights", color=_GREY, dash="dot"),
        _of_all(reports, "update_norm", "update", color=_COLOURS[1]),
    ]
    return _on_log_axis(lines, "Euclidean norm of all variables")


def _rates(reports: Sequence[Report]) -> Figure:
    smallest, largest = (
        _of_all(reports, f"{which}_rate", f"{which} effective rate", color=_COLOURS[5], width=1)
        for which in ("smallest", "largest")
    )
    mean = _of_all(reports, "mean_rate", "effective rate, geometric mean", color=_COLOURS[0])
    rates = _learning_rates(reports)
    given = _line_of(reports, rates, "learning rate (weight per step)", color=_BLACK, dash="dash")
    figure = _on_log_axis([smallest, largest, mean, given], "rate (weight per unit of gradient)")
    lines = {trace["legendgroup"]: trace for trace in figure["data"] if "lines" in trace["mode"]}
    figure["data"].insert(0, _band(lines[smallest.name], lines[largest.name]))
    return figure


def _band(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return the area between two traces with the same steps, with gaps where they have any."""
    x: list[int | None] = []
    y: list[float | None] = []
    points = [
        point if None not in point else None
        for point in zip(low["x"], low["y"], high["y"], strict=True)
    ]
    for is_gap, group in itertools.groupby(points, key=lambda point: point is None):
        if not is_gap:
            steps, bottom, top = zip(*group, strict=True)
            x += [*steps, *steps[::-1], None]
            y += [*bottom, *top[::-1], None]
    return {
        "type": "scatter",
        "mode": "none",
        "name": "band",
        "legendgroup": "band",
        "showlegend": False,
        "hoverinfo": "skip",
        "x": x,
        "y": y,
        "fill": "toself",
        "fillcolor": _BAND,
    }


def _learning_rates(reports: Iterable[Report]) -> list[float]:
    """Return the learning rates; where those of groups differ, the largest of them."""
    return [
        _largest(row.learning_rate for row in (report.total, *report.variables.values()))
        if math.isnan(report.total.learning_rate)
        else report.total.learning_rate
        for report in reports
    ]


_SHARES = {
    "zero_gradient_share": "gradient is 0",
    "epsilon_share": "root decided by epsilon",
    "stuck_share": "stuck: update rounded off",
    "frozen_share": "frozen: average not finite",
}


def _shares(reports: Sequence[Report]) -> Figure:
    steps = [report.total.step for report in reports]
    traces = []
    for i, (field, meaning) in enumerate(_SHARES.items()):
        of_all = [getattr(report.total, field) for report in reports]
        largest = [
            _largest(getattr(row, field) for row in report.variables.values()) for report in reports
        ]
        for values, dash, suffix in ((of_all, "solid", ""), (largest, "dot", ", at worst")):
            traces.append(
                _trace(
                    _Line(
                        meaning + suffix,
                        steps,
                        [100.0 * value for value in values],
                        {"color": _COLOURS[i], "dash": dash},
                    ),
                    hover="%{y:.3g} %",
                )
            )
    axis = {"title": {"text": "share of elements (%)"}, "range": [-3, 103]}
    return _figure(traces, axis)


def _counts(reports: Sequence[Report]) -> Figure:
    lines = {
        "sampled": ("sampled steps", {"color": _GREY, "dash": "dot"}),
        "clipped": ("clipped", {"color": _COLOURS[4], "dash": "dash"}),
        "nonfinite": ("gradient not finite", {"color": _COLOURS[1]}),
        "skipped": ("sampled calls skipped", {"color": _COLOURS[3], "dash": "dashdot"}),
    }
    steps = [report.total.step for report in reports]
    traces = [
        _trace(
            _Line(name, steps, [getattr(report.total, field) for report in reports], style),
            hover="%{y:d}",
        )
        for field, (name, style) in lines.items()
    ]
    axis = {"title": {"text": "number since the start"}, "rangemode": "tozero"}
    return _figure(traces, axis)


def _map(reports: Sequence[Report]) -> Figure:
    shown = _thinned(reports)
    known = list(reports[-1].variables)
    if len(known) > _MOST_ROWS:
        chosen = set(_selection.worst(reports[-1], _MOST_ROWS))
        known = [path for path in known if path in chosen]
    rates = [[_log10(_statistics(report, path).mean_rate) for report in shown] for path in known]
    finite = [rate for row in rates for rate in row if rate is not None]
    low, high = (math.floor(min(finite)), math.ceil(max(finite))) if finite else (-1, 0)
    ticks = list(range(low, max(high, low + 1) + 1, max(1, (high - low) // 8)))
    trace = {
        "type": "heatmap",
        "x": [report.total.step for report in shown],
        "y": [_escaped(path) for path in known],
        "z": rates,
        "zmin": low,
        "zmax": max(high, low + 1),
        "colorscale": "Cividis",
        "colorbar": {
            "title": {
                "text": "effective rate (weight per unit of gradient)",
                "side": "right",
                "font": {"size": 11},
            },
            "tickvals": ticks,
            "ticktext": [f"1e{tick}" for tick in ticks],
        },
        "hovertemplate": "%{y}<br>step %{x}: 10^%{z:.2f}<extra></extra>",
    }
    axis = {
        "type": "category",
        "tickvals": trace["y"],
        "ticktext": [_label(path) for path in known],
        "autorange": "reversed",
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
    }
    layout = _layout(axis)
    layout |= {"height": max(340, 130 + 20 * len(known)), "plot_bgcolor": "#d9d9d9"}
    layout["margin"] = {**layout["margin"], "r": 120}
    layout["xaxis"]["showgrid"] = False
    return {"data": [trace], "layout": layout}


_CHARTS: dict[str, tuple[str, str, Callable[[Sequence[Report]], Figure]]] = {
    "ratios": (
        "Size of the updates, relative to the weights",
        "Usual values are near the dotted guide at 1e-3. Far above it, steps overwrite what was "
        "learned; far below it, a layer hardly learns. Click a name to show or hide its line.",
        _ratios,
    ),
    "norms": (
        "Norms of gradients and updates",
        "A gradient that grows without end announces divergence; one that falls to 0 means that "
        "nothing is left to learn, or that the gradient is lost on its way.",
        _norms,
    ),
    "rates": (
        "Learning rate and effective rates",
        "The effective rate of an element is the learning rate divided by the root of its average "
        "of squares. The band holds the elements of all layers.",
        _rates,
    ),
    "layers": (
        "Effective rate by layer",
        "Geometric mean of each variable's elements. Bright rows have small gradients, dark rows "
        "large ones; grey means that nothing was measured, or that the mean is 0.",
        _map,
    ),
    "shares": (
        "Elements that may not learn as they should",
        "Solid: share of all elements. Dotted: of those of the variable where it is largest. Rows "
        "of embeddings that a batch does not use have gradients of 0. Epsilon decides where "
        "gradients are tiny, which is common early in a training and does no harm where a layer "
        "learns. Stuck or frozen elements do not move.",
        _shares,
    ),
    "counts": (
        "Sampled steps, and what happened in them",
        "Where almost every step is clipped, the clip decides the size of the gradients. Any "
        "gradient that is not finite is a reason to look at the data and the loss.",
        _counts,
    ),
}


# Lines.


def _of_all(reports: Sequence[Report], field: str, name: str, **style: Any) -> _Line:
    return _line_of(reports, [getattr(report.total, field) for report in reports], name, **style)


def _line_of(reports: Iterable[Report], values: Sequence[float], name: str, **style: Any) -> _Line:
    return _Line(name, [report.total.step for report in reports], values, style)


def _of_one(reports: Sequence[Report], path: str, field: str, **style: Any) -> _Line:
    """Return the line of a variable, at the steps in which it was measured."""
    measured = {row.step: row for row in (_statistics(r, path) for r in _thinned(reports))}
    measured.pop(0, None)
    values = [getattr(row, field) for row in measured.values()]
    return _Line(path, list(measured), values, style)


def _statistics(report: Report, path: str) -> Statistics:
    return report.variables.get(path, Statistics())


def _on_log_axis(lines: Sequence[_Line], unit: str, guide: float | None = None) -> Figure:
    """Return a figure with marks for what a logarithmic axis has no place for.

    A value of exactly 0 is a triangle at the bottom, one that is not finite a cross at the top.
    """
    drawn = [value for line in lines for value in line.values if _has_logarithm(value)]
    drawn += [] if guide is None else [guide]
    low, high = (min(drawn), max(drawn)) if drawn else (1e-3, 1e-1)
    # Two powers of ten at least, or the noise of a steady value fills the chart.
    margin = max(3.0, math.sqrt(100.0 * low / high))
    bottom, top = low / margin, high * margin
    traces = []
    for line in lines:
        values = [
            bottom if value == 0.0 else value if _has_logarithm(value) else math.nan
            for value in line.values
        ]
        traces.append(_trace(line._replace(values=values), hover="%{y:.2e}"))
    marks = (
        (_ZERO, bottom, "0", lambda value: value == 0.0),
        (_NOT_FINITE, top, "not finite", lambda value: not math.isfinite(value)),
    )
    for symbol, height, meaning, holds in marks:
        for line in lines:
            at = [step for step, v in zip(line.steps, line.values, strict=True) if holds(v)]
            if at:
                traces.append(_marks(line, at, symbol, height, meaning))
    axis = {
        "type": "log",
        "title": {"text": unit},
        "range": [math.log10(bottom) - 0.1, math.log10(top) + 0.1],
        "exponentformat": "power",
        "dtick": max(1, math.ceil(math.log10(top / bottom) / 8)),
    }
    figure = _figure(traces, axis)
    return figure if guide is None else _with_guide(figure, guide)


def _has_logarithm(value: float) -> bool:
    return math.isfinite(value) and value > 0.0


def _trace(line: _Line, hover: str) -> dict[str, Any]:
    # A line through one point is invisible.
    mode = "lines+markers" if len(line.steps) < 30 else "lines"
    return {
        "type": "scatter",
        "mode": mode,
        "name": _label(line.name),
        "meta": _escaped(line.name),
        "legendgroup": line.name,
        "x": list(line.steps),
        "y": [_rounded(value) if math.isfinite(value) else None for value in line.values],
        "line": {"width": 2, **line.style},
        "hovertemplate": f"step %{{x}}: {hover}<extra>%{{meta}}</extra>",
    }


def _marks(
    line: _Line, steps: list[int], symbol: str, height: float, meaning: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{_label(line.name)}: {meaning}",
        "meta": _escaped(line.name),
        "legendgroup": line.name,
        "showlegend": False,
        "x": steps,
        "y": [_rounded(height)] * len(steps),
        "marker": {"symbol": symbol, "size": 8, "color": line.style["color"]},
        "hovertemplate": f"step %{{x}}: {meaning}<extra>%{{meta}}</extra>",
    }


def _with_guide(figure: Figure, height: float) -> Figure:
    figure["layout"]["shapes"] = [
        {
            "type": "line",
            "name": f"usual: {height:g}",
            "showlegend": True,
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": height,
            "y1": height,
            "line": {"color": _GREY, "width": 2, "dash": "dot"},
        }
    ]
    return figure


def _figure(traces: list[dict[str, Any]], yaxis: dict[str, Any]) -> Figure:
    layout = _layout(yaxis)
    steps = [step for trace in traces for step in trace["x"]]
    margin = 0.01 * (max(steps) - min(steps)) or 1.0
    layout["xaxis"]["range"] = [min(steps) - margin, max(steps) + margin]
    return {"data": traces, "layout": layout}


def _layout(yaxis: dict[str, Any]) -> dict[str, Any]:
    line = {"showline": True, "linecolor": _GREY, "gridcolor": "#e5e5e5", "ticks": "outside"}
    return {
        "height": 380,
        "margin": {"l": 90, "r": 300, "t": 30, "b": 50},
        "font": {"size": 13, "color": "#1a1a1a"},
        "plot_bgcolor": "white",
        "xaxis": {"title": {"text": "optimizer step"}, "zeroline": False, **line},
        "yaxis": {"zeroline": False, **line, **yaxis},
        "hoverlabel": {"namelength": -1},
        "legend": {"font": {"size": 12}, "x": 1.02},
    }


# Numbers and names.


def _thinned(reports: Sequence[Report]) -> Sequence[Report]:
    """Return evenly spread reports with the last, no more than a chart of many lines can show."""
    stride = math.ceil(len(reports) / _MOST_POINTS)
    return reports[::-1][::stride][::-1]


def _worst_of(reports: Sequence[Report], limit: int) -> list[str]:
    """Return the paths that look worst at the end, or a while before it."""
    late = _thinned(reports)[-20:]
    total = {
        path: sum(_selection.badness(_statistics(report, path)) for report in late)
        for path in reports[-1].variables
    }
    return sorted(total, key=lambda path: -total[path])[:limit]


def _largest(values: Iterable[float]) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def _log10(value: float) -> float | None:
    return round(math.log10(value), 3) if _has_logarithm(value) else None


def _rounded(value: float) -> float:
    """Return a number with the digits that a chart can show, which keeps the page small."""
    return float(f"{value:.4g}")


def _escaped(name: str) -> str:
    """Return a name as plotly shows it; it would read tags in it."""
    return html.escape(printable(name))


def _label(name: str) -> str:
    return html.escape(shortened(printable(name), _NAME_WIDTH))
