"""A report as rows of a CSV file, one for each step and variable."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from keras_rmsprop._diagnostics import _files
from keras_rmsprop._diagnostics._report import Report, Statistics

# What stands for the path in rows of all variables together.
ALL = "(all)"

_NUMBERS = (
    *(name for name in Statistics._fields if name != "step"),
    "update_ratio",
    "clipped_share",
)
HEADER = ("step", "variable", *_NUMBERS)


class RowFile:
    """A CSV file that grows with a training.

    A row has the step in which its numbers were measured. A training that goes on from a checkpoint
    goes on with its file: rows of later steps, of a run that was cut off, are dropped first.
    """

    def __init__(self, path: Path, start: int) -> None:
        """Open a file.

        Args:
            path: of the file.
            start: the steps made so far.

        Raises:
            OSError: if the file cannot be read or written.
            ValueError: if it is a file of something else.
        """
        text = _text_of(path)
        kept = [line for line in _rows(path, text) if int(line[0]) <= start]
        if _text([HEADER, *kept]) != text:
            _files.replace(path, _text([HEADER, *kept]))
        # The step of each variable's last row.
        self._last = {line[1]: int(line[0]) for line in kept}
        self._file = _files.Appending(path)

    def write(self, report: Report, paths: Iterable[str]) -> None:
        """Append the rows of a report that the file does not have.

        Args:
            report: the report.
            paths: of the variables.

        Raises: OSError if that fails; the file is then as before.
        """
        rows = {ALL: report.total, **{path: report.variables[path] for path in paths}}
        new = {name: row for name, row in rows.items() if row.step > self._last.get(name, 0)}
        self._file.write(_text(_line(name, row) for name, row in new.items()).encode("utf-8"))
        self._last.update({name: row.step for name, row in new.items()})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_is_table(path: Path) -> None:
    """Check that a file may be extended: there is none, or it has the header.

    Raises: ValueError if it is a file of something else.
    """
    _rows(path, _text_of(path))


def _line(name: str, statistics: Statistics) -> list[str]:
    return [
        str(statistics.step),
        name,
        *(_number(getattr(statistics, field)) for field in _NUMBERS),
    ]


def _number(value: float) -> str:
    """Write a number with all digits of a float32; NaN is empty, as pandas reads it."""
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.9g}"


def _text(lines: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _text_of(path: Path) -> str:
    """Return what a file contains, nothing if there is none."""
    return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""


def _rows(path: Path, text: str) -> list[list[str]]:
    """Return the rows of a file's text, without its header and a row that was cut off.

    Raises: ValueError if it has another header.
    """
    header = _text([HEADER])
    if header.startswith(text):
        return []
    if not text.startswith(header):
        raise ValueError(
            f"`csv` must be a new file, or one that `OptimizerDiagnostics` has written, received "
            f"csv={str(path)!r}, which starts with {text[:40]!r}. Give it another name, or move "
            "that file away."
        )
    lines = csv.reader(io.StringIO(text[len(header) : text.rfind("\n") + 1], newline=""))
    return [line for line in lines if len(line) == len(HEADER) and line[0].isdecimal()]
