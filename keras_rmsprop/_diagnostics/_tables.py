"""A report as a table, for a terminal and for a notebook."""

import functools
import html
import io
import math
import operator
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from keras_rmsprop._diagnostics import _selection
from keras_rmsprop._diagnostics._format import DASH, number, printable, several, share, shortened
from keras_rmsprop._diagnostics._report import Report, Statistics

ALL = "all variables"

_GAP = 2
_NARROWEST_PATH = 14


class _Column(NamedTuple):
    """A column of the table."""

    # Of the two lines.
    heading: tuple[str, str]
    value: Callable[[Statistics], float]
    written: Callable[[float], str]
    # What the heading does not say.
    legend: str

    def cell(self, statistics: Statistics) -> str:
        return self.written(self.value(statistics)) if statistics.step else DASH

    def width(self, rows: Iterable[Statistics]) -> int:
        """Return the width with the gap before it."""
        return _GAP + max(map(len, [*self.heading, *map(self.cell, rows)]))


def _column(
    name: str, first: str, second: str, written: Callable[[float], str], legend: str = ""
) -> _Column:
    return _Column((first, second), operator.attrgetter(name), written, legend)


# In the order in which they are shown: a narrow terminal shows fewer.
_FIRST = (
    _column("update_ratio", "update/", "weight", number, "update/weight is usually near 1e-3"),
    _column("gradient_norm", "gradient", "norm", number),
)
# Only if they are not 0 in all rows; otherwise last.
_AILING = (
    _column("frozen_share", "", "frozen", share, "frozen: elements whose average is not finite"),
    _column("stuck_share", "", "stuck", share, "stuck: elements whose update is rounded off"),
    _column("epsilon_share", "by", "epsilon", share, "by epsilon: elements whose root it decides"),
)
_FURTHER = (
    _column("mean_rate", "mean", "rate", number, "mean rate: learning rate / root"),
    _column("zero_gradient_share", "zero", "grad.", share, "zero grad.: elements without one"),
    _column("weight_norm", "weight", "norm", number),
    _column("update_norm", "update", "norm", number),
    _column("clipped_gradient_norm", "clipped", "norm", number),
    _column("largest_gradient", "largest", "gradient", number),
    _column("smallest_rate", "smallest", "rate", number),
    _column("largest_rate", "largest", "rate", number),
    _column("largest_update", "largest", "update", number),
    _column("learning_rate", "learning", "rate", number),
)


class _Table(NamedTuple):
    """What a table shows, as text."""

    headings: list[tuple[str, str]]
    # The first is of all variables together.
    rows: list[list[str]]
    # What is to be said below.
    notes: list[str]


def as_text(report: Report, limit: int | None = _selection.FEW, width: int | None = None) -> str:
    """Return a report as lines of text.

    Args:
        report: the report.
        limit: how many variables to show, the worst first; None for all.
        width: in characters; by default that of the terminal.
    """
    width = shutil.get_terminal_size().columns if width is None else width
    if find_spec("rich") is None:
        return _plain(report, limit, width)
    from rich.console import Console

    stream = io.StringIO()
    # The text is only text, also where stdout is a notebook or a terminal in colours.
    console = Console(
        file=stream, width=width, force_terminal=False, force_jupyter=False, color_system=None
    )
    console.print(renderable(report, limit, width))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def show(report: Report, limit: int | None = _selection.FEW) -> None:
    """Print a report to the terminal, in colours where it has them."""
    if find_spec("rich") is None:
        print(as_text(report, limit))
        return
    from rich.console import Console

    console = Console()
    console.print(renderable(report, limit, console.width))


def renderable(report: Report, limit: int | None, width: int) -> Any:
    """Return a report as an object that rich prints.

    Args:
        report: the report.
        limit: how many variables to show; None for all.
        width: in characters.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # `Text`, because rich would read markup in a string.
    heading = Text(summary(report), style="bold")
    if not report.total.step:
        return heading
    headings, rows, notes = _table(report, _selection.worst(report, limit), width)
    # The box adds one space to each gap.
    padding = (0, _GAP - 1, 0, 0)
    table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False)
    for i, lines in enumerate(headings):
        table.add_column(Text("\n".join(lines)), justify="right" if i else "left", no_wrap=True)
    for i, row in enumerate(rows):
        table.add_row(*map(Text, row), style=None if i else "bold")
    return Group(heading, Text(), table, Text(), Text("\n".join(notes), style="dim"))


def _plain(report: Report, limit: int | None, width: int) -> str:
    """Return the text without rich."""
    fill = functools.partial(textwrap.fill, width=width)
    if not report.total.step:
        return fill(summary(report))
    headings, rows, notes = _table(report, _selection.worst(report, limit), width)
    lines: list[Sequence[str]] = [*zip(*headings, strict=True), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for first, *others in lines:
        cells = (f"{cell:>{size}}" for cell, size in zip(others, widths[1:], strict=True))
        text.append((" " * _GAP).join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return "\n".join([fill(summary(report)), "", *text, "", *map(fill, notes)])


def as_html(report: Report, limit: int | None = _selection.FEW) -> str:
    """Return a report as an HTML table.

    Args:
        report: the report.
        limit: how many variables to show, the worst first; None for all.
    """
    caption = html.escape(summary(report))
    if not report.total.step:
        return f"<p>{caption}</p>"
    paths = _selection.worst(report, limit)
    columns = (*_FIRST, *_AILING, *_FURTHER)
    head = "".join(f'<th scope="col">{"<br>".join(filter(None, c.heading))}</th>' for c in columns)
    rows = [_html_row(ALL, report.total, columns)]
    rows += [_html_row(printable(path), report.variables[path], columns) for path in paths]
    notes = "<br>".join(map(html.escape, _notes(report, paths, columns)))
    return (
        '<div style="overflow-x: auto"><table>'
        f'<caption style="text-align: left; caption-side: top">{caption}</caption>'
        f'<thead><tr><th scope="col" style="text-align: left">variable</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table><p><small>{notes}</small></p></div>"
    )


def _html_row(name: str, statistics: Statistics, columns: Iterable[_Column]) -> str:
    cells = "".join(
        f'<td style="text-align: right">{html.escape(column.cell(statistics))}</td>'
        for column in columns
    )
    return f'<tr><th scope="row" style="text-align: left">{html.escape(name)}</th>{cells}</tr>'


def summary(report: Report) -> str:
    """Return what a report is of, in a few sentences."""
    total = report.total
    words = [f"{printable(report.name)}, {several(report.iterations, 'step')}."]
    if total.step:
        words.append(
            f"Last sample: step {total.step:,}, number {total.sampled:,} "
            f"(one step in {report.every:,})."
        )
        if report.clip is not None:
            words.append(f"Clipped in {total.clipped:,} of {total.sampled:,} sampled steps.")
        if total.nonfinite:
            calls = total.sampled + total.skipped
            words.append(f"Gradients not finite in {total.nonfinite:,} of {calls:,} sampled calls.")
    elif report.reason is not None:
        words.append(f"Less is measured: {printable(report.reason)}")
    else:
        first = report.iterations + report.every
        words.append(
            f"Nothing has been sampled yet: one step in {report.every:,} is, the first by step "
            f"{first:,}."
        )
    skipped = report.skipped_steps if report.skipped_steps is not None else total.skipped
    if skipped:
        words.append(f"{several(skipped, 'call')} skipped, the gradients being not finite.")
    return " ".join(words)


def _table(report: Report, paths: Sequence[str], width: int) -> _Table:
    """Return the rows of some variables, with as many columns as there is room for."""
    names = [ALL, *map(printable, paths)]
    statistics = [report.total, *(report.variables[path] for path in paths)]
    room = width - min(max(map(len, names)), max(width // 3, _NARROWEST_PATH))
    columns: list[_Column] = []
    for column in _by_importance(statistics):
        room -= column.width(statistics)
        if room < 0:
            break
        columns.append(column)
    path_width = width - sum(column.width(statistics) for column in columns)
    rows = [
        [shortened(name, max(path_width, _NARROWEST_PATH)), *(c.cell(row) for c in columns)]
        for name, row in zip(names, statistics, strict=True)
    ]
    headings = [("", "variable"), *(column.heading for column in columns)]
    return _Table(headings, rows, list(_notes(report, paths, columns)))


def _by_importance(rows: Sequence[Statistics]) -> list[_Column]:
    ailing = [c for c in _AILING if any(row.step and c.value(row) > 0.0 for row in rows)]
    return [*_FIRST, *ailing, *_FURTHER, *(c for c in _AILING if c not in ailing)]


def _notes(report: Report, paths: Sequence[str], columns: Iterable[_Column]) -> Iterator[str]:
    """Yield what is to be said below a table of these variables."""
    shown = {ALL: report.total, **{path: report.variables[path] for path in paths}}
    for reason, holds in _REASONS.items():
        names = [printable(path) for path, row in shown.items() if holds(row)]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"{reason}: {', '.join(names[:3])}{more}."
    legends = [column.legend for column in columns if column.legend]
    if legends:
        yield "; ".join(legends) + "."
    hidden = len(report.variables) - len(paths)
    if hidden:
        yield (
            f"{several(hidden, 'variable')} more, which look better: "
            "`report.as_text(limit=None)`; their numbers: `report.variables`."
        )


# Why a number is missing or infinite, and of which variables that holds.
_REASONS: dict[str, Callable[[Statistics], bool]] = {
    "No gradient in any sampled step": lambda row: not row.step,
    "Gradient not finite in the last sample": lambda row: (
        bool(row.step) and not math.isfinite(row.gradient_norm)
    ),
    "Weights all 0 before the step, so the ratio says nothing": lambda row: row.weight_norm == 0.0,
    "No learning rate, because groups differ": lambda row: (
        bool(row.step) and math.isnan(row.learning_rate)
    ),
}
