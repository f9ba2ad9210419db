"""Fit a line to six points in 5,000 full-batch steps and reproduce the published end.

The gradient is that of half the mean squared error. With a fixed learning rate the run does not
stop at the minimum but cycles around it, and the last bit of each rounding decides which point of
the cycle step 5,000 hits; two ends are known, and either is correct.

Published: slope and intercept after 5,000 steps, and the root mean squared error there.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from _common import (
    OTHER,
    RMSPROP,
    TARGET,
    Array,
    Report,
    descend,
    descend_by_reference,
    run,
    use_float64,
)
from matplotlib import pyplot as plt

from keras_rmsprop import RMSprop

X = np.array([5.0, 15.0, 25.0, 35.0, 45.0, 55.0])
Y = np.array([5.0, 20.0, 14.0, 32.0, 22.0, 38.0])

START = (3.0, 5.0)  # slope, intercept
LEARNING_RATE, STEPS = 0.001, 5000
OPTIONS: dict[str, Any] = {"rho": 0.9, "epsilon": 1e-8, "epsilon_inside_sqrt": False}

PUBLISHED = (0.54935276, 5.24240429)
PUBLISHED_RMSE = 5.813195776655382
OTHER_END = (0.55035247, 5.2425497)
TOLERANCE = 2e-6

# Rounding does not matter before the cycle is reached.
SETTLED, SETTLED_TOLERANCE = 200, 1e-12


def gradient(line: Array) -> Array:
    """Return the gradient of half the mean squared error at (slope, intercept)."""
    error = line[0] * X + line[1] - Y
    return np.array([np.mean(error * X), np.mean(error)])


def rmse(line: Array) -> float:
    """Return the root mean squared error of (slope, intercept)."""
    return float(np.sqrt(np.mean((line[0] * X + line[1] - Y) ** 2)))


def distance_to_known_end(line: Array) -> float:
    """Return the largest difference from the nearer of the two ends."""
    return min(float(np.max(np.abs(line - np.array(end)))) for end in (PUBLISHED, OTHER_END))


def fit(steps: Iterable[object]) -> Array:
    """Return the package's path of (slope, intercept); needs floatx float64."""
    return descend(RMSprop(LEARNING_RATE, **OPTIONS), gradient, START, steps)


def fit_by_reference(steps: Iterable[object]) -> Array:
    """Return the reference's path of (slope, intercept)."""
    return descend_by_reference(gradient, START, steps, learning_rate=LEARNING_RATE, **OPTIONS)


def main(report: Report) -> None:
    """Fit with the package and the reference, and compare both with the published end."""
    use_float64()
    count = SETTLED if report.quick else STEPS
    paths = {
        "keras_rmsprop": fit(report.track(range(count), "keras_rmsprop")),
        "reference": fit_by_reference(range(count)),
    }
    best = np.polyfit(X, Y, 1)
    report.table(
        f"After {count:,} steps",
        ["", "slope", "intercept", "RMSE"],
        [
            *(
                (name, f"{path[-1][0]:.8f}", f"{path[-1][1]:.8f}", f"{rmse(path[-1]):.12f}")
                for name, path in paths.items()
            ),
            (
                f"published ({STEPS:,} steps)",
                *(f"{value:.8f}" for value in PUBLISHED),
                f"{PUBLISHED_RMSE:.12f}",
            ),
            ("least squares", f"{best[0]:.8f}", f"{best[1]:.8f}", f"{rmse(best):.12f}"),
        ],
    )
    report.check_same_path(
        f"the package takes the reference's first {SETTLED} steps",
        paths["keras_rmsprop"][: SETTLED + 1],
        paths["reference"][: SETTLED + 1],
        SETTLED_TOLERANCE,
    )
    if report.quick:
        report.say(f"The end after {STEPS:,} steps is not compared in a quick run.")
    else:
        for name, path in paths.items():
            distance = distance_to_known_end(path[-1])
            report.check(
                f"{name} ends at one of the two known ends",
                distance <= TOLERANCE,
                f"off by {distance:.1e}, allowed {TOLERANCE:.0e}",
            )
        report.check_close(
            "the reference ends with the published RMSE",
            rmse(paths["reference"][-1]),
            PUBLISHED_RMSE,
            1e-9,
        )
    draw(report, paths["keras_rmsprop"], best)


def draw(report: Report, path: Array, best: Array) -> None:
    """Draw the lines and the path to them."""
    figure, (lines, way) = plt.subplots(1, 2, figsize=(10, 4.2))
    figure.suptitle(f"A line through six points in {len(path) - 1:,} steps of RMSprop")
    ends = np.array([0.0, 60.0])
    for line, style in (
        (path[0], {"color": TARGET, "ls": "--", "lw": 1.2, "label": "start"}),
        (best, {"color": OTHER, "lw": 4.5, "alpha": 0.45, "label": "least squares"}),
        (path[-1], {"color": RMSPROP, "label": "keras_rmsprop"}),
    ):
        lines.plot(ends, line[0] * ends + line[1], **style)
    lines.plot(X, Y, "o", color="black", ms=6, label="data")
    lines.set(title="The lines", xlabel="x", ylabel="y", ylim=(0, 60))
    lines.legend(loc="lower right")

    slopes, intercepts = np.meshgrid(np.linspace(-0.2, 3.2, 120), np.linspace(2.3, 6.3, 120))
    errors = slopes[..., None] * X + intercepts[..., None] - Y
    heights = np.sqrt(np.mean(errors**2, axis=-1))
    levels = (6, 7, 10, 15, 25, 40, 60, 80)
    contours = way.contour(slopes, intercepts, heights, levels, cmap="viridis", linewidths=0.9)
    way.clabel(contours, fmt="%g", fontsize=8)
    way.plot(*path.T, color=RMSPROP, label="path of keras_rmsprop")
    way.plot(*path[0], "o", color=RMSPROP, mfc="white", label="start")
    way.plot(*best, "*", color=OTHER, ms=13, label="least squares")
    way.set(title="The way, over the RMSE", xlabel="slope", ylabel="intercept")
    way.legend(loc="lower right")
    report.save(figure, "six_points.png")


if __name__ == "__main__":
    run(main, __doc__)
