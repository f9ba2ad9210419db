"""A report as TensorBoard's events, written without TensorFlow.

TensorBoard's own `EventFileWriter` imports TensorFlow if it is installed, and writes in a thread,
where a full disk goes unnoticed. So only its record format and protocol buffers are used here.
"""

import itertools
import math
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_rmsprop._diagnostics import _files, _flat
from keras_rmsprop._diagnostics._report import NAME, Array, Histograms, Report
from keras_rmsprop._math._statistics import EDGES

# The run in TensorBoard, beside Keras's "train" and "validation".
RUN = "optimizer"

_files_made = itertools.count()

# The limits of the bins, as logarithms: the values span fifteen powers of ten, and TensorBoard's
# axis is linear. The outermost bins have no outer limits; they are drawn as wide as the others.
_STEP = math.log10(EDGES[1] / EDGES[0])
LIMITS = (
    math.log10(EDGES[0]) - _STEP,
    *map(math.log10, EDGES),
    math.log10(EDGES[-1]) + _STEP,
)

_DESCRIPTIONS = {
    "rates": "log10 of learning_rate / root, element by element",
    "update_ratios": "log10 of |update| / |weight|, element by element; usually near -3",
}


class EventFile:
    """A file of TensorBoard's events that grows with a training."""

    def __init__(self, folder: Path, optimizer: str, start: int) -> None:
        """Create a file in the run of an optimizer.

        Args:
            folder: TensorBoard's; it may be that of `keras.callbacks.TensorBoard`.
            optimizer: its name in reports.
            start: the steps made so far. TensorBoard hides what earlier files say of later ones.

        Raises: OSError if it cannot be created.
        """
        # Importing these takes half a second.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event: Any = event_pb2.Event
        # TensorBoard reads the files of a run in the order of their names.
        name = (
            f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}."
            f"{next(_files_made):04d}.keras_rmsprop"
        )
        self._file = _files.Appending(folder / run_of(optimizer) / name)
        self._records = RecordWriter(self._file)
        # The step of the last value with each prefix.
        self._last: dict[str, int] = {}
        self._add(file_version="brain.Event:2")
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=start + 1, session_log=session)

    def write(self, report: Report, paths: Iterable[str]) -> None:
        """Write the numbers of a report, and its histograms, that are not yet written.

        Args:
            report: the report.
            paths: of the variables.

        Raises: OSError if that fails.
        """
        histograms = report.histograms
        if self._is_new("", report.total.step):
            values = [_scalar(key, x) for key, x in _flat.of_all(report).items()]
            if histograms:
                values += _histograms(report.name, total_of(histograms.values()))
            self._add_values(report.total.step, values)
        for path in paths:
            step = report.variables[path].step
            if self._is_new(path, step):
                values = [_scalar(key, x) for key, x in _flat.of_one(report, path).items()]
                if path in histograms:
                    values += _histograms(f"{report.name}/{path}", histograms[path])
                self._add_values(step, values)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _is_new(self, path: str, step: int) -> bool:
        if step <= self._last.get(path, 0):
            return False
        self._last[path] = step
        return True

    def _add_values(self, step: int, values: Iterable[Any]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add(step=step, summary=Summary(value=values))

    def _add(self, **fields: Any) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())


def run_of(optimizer: str) -> str:
    """Return the run of an optimizer, whose name may have characters that folders must not have.

    Optimizers of one run would hide each other, as a file hides later steps of earlier ones.
    """
    if optimizer == NAME:
        return RUN
    return f"{RUN}_" + re.sub(r'[<>:"/\\|?*%\x00-\x1f]', lambda x: f"%{ord(x[0]):02X}", optimizer)


def total_of(histograms: Iterable[Histograms]) -> Histograms:
    """Return the histograms of all elements of several variables."""
    rates, ratios = zip(*histograms, strict=True)
    return Histograms(np.sum(rates, axis=0), np.sum(ratios, axis=0))


def _scalar(tag: str, value: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary.Value(tag=tag, simple_value=value)


def _histograms(prefix: str, histograms: Histograms) -> list[Any]:
    pairs = histograms._asdict().items()
    return [_histogram(f"{prefix}/log10_{name}", _DESCRIPTIONS[name], x) for name, x in pairs]


def _histogram(tag: str, description: str, counts: Array) -> Any:
    """Return the value of a histogram, with all its bins."""
    from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata

    counts = np.asarray(counts, np.float64)
    limits = np.array(LIMITS)
    middles = (limits[:-1] + limits[1:]) / 2.0
    # TensorBoard takes these for the outer limits of the first and last bin that is not empty.
    full = np.flatnonzero(counts)
    least, most = (limits[full[0]], limits[full[-1] + 1]) if full.size else (0.0, 0.0)
    proto = HistogramProto(
        min=least,
        max=most,
        num=counts.sum(),
        sum=counts @ middles,
        sum_squares=counts @ middles**2,
        bucket_limit=limits[1:],
        bucket=counts,
    )
    metadata = SummaryMetadata(summary_description=description)
    return Summary.Value(tag=tag, histo=proto, metadata=metadata)
