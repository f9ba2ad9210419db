"""The table: one line per peer, with its target, whether it is met or not."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.results import AT_MOST, OURS, Comparison, Entry, Figure, Record

HEADER = ("case", "contender", "median", "quartiles", "ours is", "quartiles", "target", "")


def table(records: Sequence[Record], machine: Mapping[str, str]) -> str:
    """Return the whole report as text."""
    lines = [f"{name}: {value}" for name, value in machine.items()]
    for title, group in itertools.groupby(records, _title):
        lines += ["", title, *_aligned([HEADER, *_rows(group)])]
    return "\n".join([*lines, "", _summary(records)])


def _title(record: Record) -> str:
    unit = record.result.unit or "no result"
    return f"{record.backend} | {record.suite} | {record.mode} | {record.config} [{unit}]"


def _rows(records: Iterable[Record]) -> Iterable[Sequence[str]]:
    for record in records:
        compared = {c.peer: c for c in record.result.comparisons}
        case = record.case
        for name, entry in record.result.entries.items():
            yield (case, name, *_measured(entry), *_compared(compared.get(name)))
            case = ""


def _measured(entry: Entry) -> tuple[str, str]:
    if entry.figure is None:
        return "-", ""
    return _number(entry.figure.median), _quartiles(entry.figure)


def _compared(comparison: Comparison | None) -> tuple[str, str, str, str]:
    if comparison is None:
        return "", "", "", ""
    sign = "<=" if comparison.quantity in AT_MOST else ">="
    return (
        f"{_number(comparison.figure.median)} {comparison.quantity}",
        _quartiles(comparison.figure),
        "" if comparison.target is None else f"{sign} {comparison.target:g}",
        {None: "", True: "met", False: "MISSED"}[comparison.met],
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _summary(records: Sequence[Record]) -> str:
    verdicts = [c.met for r in records for c in r.result.comparisons if c.met is not None]
    failures = [
        f"  {r.backend} {r.suite}/{r.mode}/{r.config}/{r.case}: {name}: {entry.failure}"
        for r in records
        for name, entry in r.result.entries.items()
        if entry.failure
    ]
    lines = [f"{sum(verdicts)} of {len(verdicts)} targets met"]
    if failures:
        lines += ["without a figure:", *failures]
    ours_failed = sum(
        1 for r in records for n, e in r.result.entries.items() if n == OURS and e.failure
    )
    if ours_failed:
        lines.append(f"{ours_failed} rows without a figure of ours")
    return "\n".join(lines)


def _quartiles(figure: Figure) -> str:
    if figure.low == figure.high:
        return ""
    return f"[{_number(figure.low)} {_number(figure.high)}]"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
