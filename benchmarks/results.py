"""The results of measurements: one line for each contender of a row, independent of frameworks.

Lines are flat dictionaries that make up a `pandas.DataFrame`, with NaN for missing entries. Besides
the names of its row (`ROW`) and the number that the row varies (`size`), a line has

    contender, unit              who was measured, and in which unit
    median, low, high            the figure with its quartiles, or else
    failure                      the reason why there is none
    deviation                    the largest from the expected weights, of the distance travelled
    quantity                     what the comparison with ours measures
    ratio, ratio_low, ratio_high ours against this peer, with quartiles
    target                       the bound on the ratio, if there is one
"""

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]

# The contender that all others are compared with.
OURS = "keras_rmsprop"
# What an eager step of ours runs, called without the optimizer.
BARE = "bare call"
# The columns that identify a row.
ROW = ("backend", "suite", "mode", "config", "case")
COLUMNS = (
    *ROW, "size", "contender", "unit", "median", "low", "high", "failure", "deviation",
    "quantity", "ratio", "ratio_low", "ratio_high", "target",
)  # fmt: skip

BACKENDS = ("tensorflow", "jax", "torch")
SUITES = (
    "steps", "training", "tensors", "parameters", "embeddings", "first_calls", "memory", "cliffs",
    "groups", "diagnostics", "overhead", "gpu",
)  # fmt: skip

# What a comparison measures.
FASTER = "times as fast"
SMALLER = "times less memory"
BREAK_EVEN = "steps to break even"
MORE = "MiB more"
MICROSECONDS = "µs more"
# For these, less is better.
AT_MOST = (BREAK_EVEN, MORE, MICROSECONDS)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def lines_of(
    unit: str,
    outcomes: Mapping[str, Sequence[float] | str],
    ratios: Mapping[str, Sequence[float]],
    quantity: str = FASTER,
    targets: Mapping[str, float] | None = None,
    deviations: Mapping[str, float] | None = None,
) -> list[Line]:
    """Return a row's lines.

    Args:
        unit: the unit of the values.
        outcomes: each contender's values, or the reason why there are none.
        ratios: ours against each peer, one ratio per measurement.
        quantity: what the ratios measure.
        targets: bounds of the ratios.
        deviations: the deviation of each contender's weights.
    """
    lines = []
    for name, outcome in outcomes.items():
        line: Line = {"contender": name, "unit": unit}
        if isinstance(outcome, str):
            line["failure"] = outcome
        else:
            line["low"], line["median"], line["high"] = quartiles(outcome)
            if deviations:
                line["deviation"] = deviations[name]
        if name in ratios:
            low, median, high = quartiles(ratios[name])
            line |= {"quantity": quantity, "ratio": median, "ratio_low": low, "ratio_high": high}
            if targets and name in targets:
                line["target"] = targets[name]
        lines.append(line)
    return lines


def failed(reason: str) -> list[Line]:
    """Return the lines of a row that failed."""
    return lines_of("", {OURS: reason}, {})


def row_of(line: Line) -> tuple[str, ...]:
    """Return the names that identify a line's row."""
    return tuple(line[name] for name in ROW)


def updated(earlier: Iterable[Line], newer: Iterable[Line]) -> list[Line]:
    """Update the rows of an earlier run with newer ones, in the order of a full run."""
    rows = {
        row: list(lines)
        for run in (earlier, newer)
        for row, lines in itertools.groupby(run, row_of)
    }
    order = sorted(rows, key=lambda row: (BACKENDS.index(row[0]), SUITES.index(row[1])))
    return [line for row in order for line in rows[row]]


def write(path: Path, machine: Mapping[str, str], lines: Iterable[Line]) -> None:
    """Write a run as JSON, with one result per line of the file."""
    rows = ",\n".join(map(json.dumps, lines))
    path.write_text(f'{{"machine": {json.dumps(machine, indent=1)},\n"lines": [\n{rows}\n]}}\n')


def read(path: Path) -> tuple[dict[str, str], list[Line]]:
    """Read a run: the machine, and the lines."""
    data = json.loads(path.read_text())
    return data["machine"], data["lines"]
