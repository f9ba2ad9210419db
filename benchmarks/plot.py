"""The picture: per backend the ratios, and the cost against tensors and parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import FASTER, OURS, Record

CURVES = {"tensors": "tensors of 1,000 parameters", "parameters": "parameters of one tensor"}


def save(records: Sequence[Record], path: Path) -> None:
    """Draw what the records hold into a file."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    backends = list(dict.fromkeys(record.backend for record in records))
    columns = 1 + len(CURVES)
    figure, axes = plt.subplots(
        len(backends), columns, figsize=(6 * columns, 5 * len(backends)), squeeze=False
    )
    for backend, row in zip(backends, axes, strict=True):
        mine = [record for record in records if record.backend == backend]
        _bars(row[0], backend, [r for r in mine if r.suite in ("steps", "training")])
        for suite, ax in zip(CURVES, row[1:], strict=True):
            _curve(ax, suite, [record for record in mine if record.suite == suite])
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(ax: Any, backend: str, records: Sequence[Record]) -> None:
    """Ratios to Keras with their quartiles; a tick where a target stands."""
    bars = [
        (f"{record.mode} {record.config} {record.case}", comparison)
        for record in records
        for comparison in record.result.comparisons
        if comparison.peer == "keras" and comparison.quantity == FASTER
    ]
    for y, (_, comparison) in enumerate(bars):
        ratio = comparison.figure
        ax.barh(y, ratio.median, color="tab:blue" if comparison.met is not False else "tab:red")
        ax.plot([ratio.low, ratio.high], [y, y], color="black", linewidth=1)
        if comparison.target is not None:
            ax.plot(comparison.target, y, "|", color="black", markersize=14)
    ax.axvline(1.0, color="grey", linewidth=0.8)
    if bars:
        ax.set_xscale("log")
    ax.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("times faster than keras.optimizers.RMSprop (tick: target, red: missed)")
    ax.set_title(backend)


def _curve(ax: Any, suite: str, records: Sequence[Record]) -> None:
    """Milliseconds per step against the number that the suite varies, with quartiles."""
    for name in dict.fromkeys(name for r in records for name in r.result.entries):
        points = [
            (record.size, entry.figure)
            for record in records
            if record.size and (entry := record.result.entries.get(name)) and entry.figure
        ]
        if points:
            sizes = [size for size, _ in points]
            style = "-o" if name == OURS else "--."
            line = ax.plot(sizes, [f.median for _, f in points], style, label=name, markersize=4)[0]
            low, high = [f.low for _, f in points], [f.high for _, f in points]
            ax.fill_between(sizes, low, high, alpha=0.15, color=line.get_color())
    if records:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.legend(fontsize=7)
    ax.set_xlabel(CURVES[suite])
    ax.set_ylabel("ms per eager step")
