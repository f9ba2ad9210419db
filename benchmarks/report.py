"""Format the table: one line per peer, with its target and whether it is met."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.results import AT_MOST, COLUMNS, OURS, ROW, Line

HEADER = ("case", "contender", "median", "quartiles", "ours is", "quartiles", "target", "")


def frame_of(lines: Sequence[Line]) -> pd.DataFrame:
    """Return lines as a table, with a `verdict`: "met", "MISSED", or "" without a target."""
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    at_most = frame["quantity"].isin(AT_MOST)
    met = np.where(at_most, frame["ratio"] <= frame["target"], frame["ratio"] >= frame["target"])
    verdict = np.where(frame["target"].isna(), "", np.where(met, "met", "MISSED"))
    return frame.assign(verdict=verdict)


def table(lines: Sequence[Line], machine: Mapping[str, str]) -> str:
    """Return the whole report as text."""
    frame = frame_of(lines)
    text = [f"{name}: {value}" for name, value in machine.items()]
    for names, group in frame.groupby([*ROW[:4], "unit"], sort=False):
        backend, suite, mode, config, unit = names
        title = f"{backend} | {suite} | {mode} | {config} [{unit or 'no result'}]"
        cases = group["case"].mask(group["case"].duplicated(), "")
        rows = [(case, *_cells(line)) for case, line in zip(cases, group.itertuples(), strict=True)]
        text += ["", title, *_aligned([HEADER, *rows])]
    return "\n".join([*text, "", _summary(frame)])


def _cells(line: Any) -> tuple[str, ...]:
    """Return the cells after the case."""
    sign = "<=" if line.quantity in AT_MOST else ">="
    return (
        line.contender,
        "-" if pd.isna(line.median) else _number(line.median),
        _quartiles(line.low, line.high),
        "" if pd.isna(line.ratio) else f"{_number(line.ratio)} {line.quantity}",
        _quartiles(line.ratio_low, line.ratio_high),
        "" if pd.isna(line.target) else f"{sign} {line.target:g}",
        line.verdict,
    )


def _quartiles(low: float, high: float) -> str:
    return "" if pd.isna(low) or low == high else f"[{_number(low)} {_number(high)}]"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _summary(frame: pd.DataFrame) -> str:
    judged, failed = frame[frame["verdict"] != ""], frame[frame["failure"].notna()]
    text = [f"{(judged['verdict'] == 'met').sum()} of {len(judged)} targets met"]
    if len(failed):
        rows = failed["backend"] + " " + failed["suite"].str.cat(failed[list(ROW[2:])], sep="/")
        reasons = "  " + rows + ": " + failed["contender"] + ": " + failed["failure"]
        text += ["without a figure:", *reasons]
    if ours := (failed["contender"] == OURS).sum():
        text.append(f"{ours} rows without a figure of ours")
    return "\n".join(text)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
