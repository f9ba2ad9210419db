"""A training as a page with charts that opens without a network."""

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_rmsprop._diagnostics import _charts, _tables
from keras_rmsprop._diagnostics._format import printable, several
from keras_rmsprop._diagnostics._report import Report

# By which a page is known from files of something else.
_MARK = '<meta name="generator" content="keras_rmsprop">'

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: white;
       max-width: 1280px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; } h2 { font-size: 1.2em; margin: 2em 0 0; }
p { margin: .3em 0; overflow-wrap: anywhere; }
.finding { border-left: 6px solid #0072b2; background: #f2f6fa; padding: .6em 1em; margin: 1em 0; }
.finding.warning { border-color: #d55e00; background: #fdf3ec; }
.finding h3 { margin: 0; font-size: 1.05em; } .variables { font-family: monospace; }
.advice { font-weight: 600; }
table { border-collapse: collapse; font-size: 13px; } caption { padding: .5em 0; }
th, td { padding: .2em .6em; border-bottom: 1px solid #e0e0e0; white-space: nowrap; }
thead th { text-align: right; vertical-align: bottom; border-color: #767676; }
tbody tr:first-child { font-weight: 600; } tbody th { font-weight: inherit; }
pre { white-space: pre-wrap; background: #f5f5f5; padding: 1em; font-size: 13px; }
"""

# As many variables as the table has rows for.
_MOST_ROWS = 200
# As many variables as a finding names.
_MOST_NAMES = 8

_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # No button that sends the data away.
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["lasso2d", "select2d"],
}


def page(
    reports: Sequence[Report], last: Report, findings: Iterable[Any] | None, description: str
) -> str:
    """Return a page.

    Args:
        reports: those of the training, each of which has sampled.
        last: what the optimizer says now, sampled or not.
        findings: what is wrong, each with `ailment`, `variables`, `evidence`, `meaning`, `advice`
            and `severity`; None if nobody asked.
        description: what the optimizer is, as plain text.
    """
    title = html.escape(f"{printable(last.name)}: what the optimizer does to the weights")
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{html.escape(_tables.summary(last))}</p>",
        *([] if findings is None else _findings(list(findings), bool(last.total.step))),
    ]
    script = ""
    if reports:
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script>"
        parts += map(_chart, _charts.charts(reports))
    parts += [
        "<h2>The last sample</h2>",
        _tables.as_html(last, _MOST_ROWS),
        "<h2>The optimizer</h2>",
        f"<pre>{html.escape(description)}</pre>",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'{_MARK}<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style>{script}</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def check_is_page(path: Path) -> None:
    """Check that a file may be replaced by a page: there is none, or it is one, or empty.

    Raises: ValueError if it is a file of something else.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(2**12).decode("utf-8", "replace")
    if start and _MARK not in start:
        raise ValueError(
            "`html` must be a new file, or one that `OptimizerDiagnostics` has written, received "
            f"html={str(path)!r}, which starts with {start[:40]!r}. Give it another name."
        )


def _findings(findings: Sequence[Any], has_sampled: bool) -> Iterator[str]:
    warnings = [finding for finding in findings if finding.severity == "warning"]
    notes = [finding for finding in findings if finding.severity != "warning"]
    counts = [several(len(warnings), "warning")] * bool(warnings)
    counts += [several(len(notes), "note")] * bool(notes)
    yield f"<h2>What is wrong: {' and '.join(counts) or 'nothing found'}</h2>"
    if not findings and has_sampled:
        yield "<p>No known ailment shows in the last sample.</p>"
    yield from map(_finding, [*warnings, *notes])


def _finding(finding: Any) -> str:
    severity = "warning" if finding.severity == "warning" else "note"
    names = [printable(path) for path in finding.variables]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    where = f"In {', '.join(names[:_MOST_NAMES])}{more}" if names else ""
    lines = [
        f"<h3>{severity.capitalize()}: {html.escape(finding.ailment)}</h3>",
        f'<p class="variables">{html.escape(where)}</p>' * bool(where),
        f"<p>{_prose(finding.evidence)}.</p>",
        f"<p>{_prose(finding.meaning)}</p>",
        f'<p class="advice">What to do: {_prose(finding.advice)}</p>',
    ]
    return f'<section class="finding {severity}">{"".join(lines)}</section>'


def _prose(text: str) -> str:
    """Return a text with what stands between backticks as code."""
    return re.sub("`(.*?)`", r"<code>\1</code>", html.escape(text))


def _chart(chart: _charts.Chart) -> str:
    from plotly.io import to_html

    figure = to_html(
        chart.figure,
        config=_CONFIG,
        include_plotlyjs=False,
        full_html=False,
        div_id=f"chart-{chart.name}",
        # The figures are ours.
        validate=False,
    )
    heading = f"<h2>{html.escape(chart.title)}</h2>\n<p>{html.escape(chart.advice)}</p>"
    return f"<section>{heading}\n{figure}</section>"
