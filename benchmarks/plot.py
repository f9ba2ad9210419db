"""Draw the ratios per backend, and the cost by the number of tensors and parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from benchmarks.report import frame_of
from benchmarks.results import FASTER, Line

CURVES = {"tensors": "tensors of 1,000 parameters", "parameters": "parameters of one tensor"}
# Quartiles and median are passed as a sample of three, whose range is drawn as the error bar.
SAMPLE = {"estimator": "median", "errorbar": ("pi", 100)}


def save(lines: Sequence[Line], path: Path) -> None:
    """Draw the lines and save the picture."""
    matplotlib.use("agg")
    frame = frame_of(lines)
    backends = frame["backend"].unique()
    figure, axes = plt.subplots(
        len(backends), 1 + len(CURVES), figsize=(18, 5 * len(backends)), squeeze=False
    )
    for backend, (bars, *curves) in zip(backends, axes, strict=True):
        mine = frame[frame["backend"] == backend]
        _bars(bars, mine[mine["suite"].isin(["steps", "training"])])
        bars.set_title(backend)
        for (suite, label), ax in zip(CURVES.items(), curves, strict=True):
            _curve(ax, mine[mine["suite"] == suite])
            ax.set(xlabel=label, ylabel="ms per eager step")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(ax: Any, frame: pd.DataFrame) -> None:
    """Draw the ratios to Keras with their quartiles, and a tick at each target."""
    ratios = frame[(frame["contender"] == "keras") & (frame["quantity"] == FASTER)]
    ratios = ratios.assign(row=ratios["mode"] + " " + ratios["config"] + " " + ratios["case"])
    sample = ratios.melt(["row", "verdict"], ["ratio_low", "ratio", "ratio_high"])
    colors = {"": "tab:blue", "met": "tab:blue", "MISSED": "tab:red"}
    if len(ratios):
        sns.barplot(sample, x="value", y="row", hue="verdict", palette=colors, ax=ax,
                    err_kws={"linewidth": 1}, legend=False, **SAMPLE)  # fmt: skip
        ax.plot(ratios["target"], ratios["row"], "|", color="black", markersize=14)
        ax.set_xscale("log")
    ax.axvline(1.0, color="grey", linewidth=0.8)
    ax.tick_params("y", labelsize=7)
    ax.set(xlabel="times faster than keras.optimizers.RMSprop (tick: target, red: missed)")
    ax.set_ylabel("")


def _curve(ax: Any, frame: pd.DataFrame) -> None:
    """Draw milliseconds per step against the number that the suite varies, with quartiles."""
    if len(frame):
        sample = frame.melt(["size", "contender"], ["low", "median", "high"])
        sns.lineplot(sample, x="size", y="value", hue="contender", marker="o", ax=ax, **SAMPLE)
        ax.set(xscale="log", yscale="log")
        ax.legend(fontsize=7)
