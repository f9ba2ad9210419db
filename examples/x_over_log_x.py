"""Minimise x / log(x) from x = 364 in two conventions and reproduce the published digits.

The minimum is at e. The length of a step hardly depends on the gradient, so both runs descend by
about lr = 0.3 per step, whatever the slope; they differ in the length of the first steps.

Published: x after iteration 0, 100, ..., 1400, computed in float32.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from _common import (
    PEER,
    RMSPROP,
    TARGET,
    Array,
    Report,
    descend,
    descend_by_reference,
    run,
)
from matplotlib import pyplot as plt

from keras_rmsprop import RMSprop

START, LEARNING_RATE, EVERY = 364.0, 0.3, 100

# The options of each convention.
CONVENTIONS: dict[str, dict[str, Any]] = {
    "Keras": {"rho": 0.9, "epsilon": 1e-7},
    "torch": {"rho": 0.99, "epsilon": 1e-8, "epsilon_inside_sqrt": False},
}
# fmt: off
PUBLISHED = {
    "Keras": (
        363.0513, 330.9281, 300.8935, 270.8544, 240.8105, 210.7600, 180.7007, 150.6295,
        120.5406, 90.4234, 60.2539, 29.9579, 2.7183, 2.7183, 2.7183,
    ),
    "torch": (
        361.0000, 302.5840, 268.0156, 236.2579, 205.2928, 174.5349, 143.7643, 112.8619,
        81.7036, 50.0471, 17.0591, 2.7183, 2.7183, 2.7183, 2.7183,
    ),
}
# fmt: on

# Covers the digits printed, and the rounding of a float32 run from 364 (one ulp is 3e-5). With the
# wrong position of epsilon, or the other framework's epsilon, the error is 5e-4 or more.
TOLERANCE = 2e-4


def gradient(x: Array) -> Array:
    """Return the derivative of x / log(x)."""
    log = np.log(x)
    return 1.0 / log - 1.0 / log**2


def value(x: Array) -> Array:
    """Return x / log(x)."""
    return x / np.log(x)


def published_points(path: Array) -> Array:
    """Return the values of the path that were published."""
    return path[1::EVERY]


def walk_down(name: str, steps: Iterable[object]) -> Array:
    """Return the package's path in one of the conventions."""
    return descend(RMSprop(LEARNING_RATE, **CONVENTIONS[name]), gradient, START, steps)


def main(report: Report) -> None:
    """Run both conventions, with the package and the reference."""
    count = 4 if report.quick else len(PUBLISHED["Keras"])
    steps = range((count - 1) * EVERY + 1)
    paths: dict[str, Array] = {}
    for name, options in CONVENTIONS.items():
        paths[name] = walk_down(name, report.track(steps, f"{name} convention"))
        oracle_path = descend_by_reference(
            gradient, START, steps, learning_rate=LEARNING_RATE, **options
        )
        got, oracle = published_points(paths[name]), published_points(oracle_path)
        want = PUBLISHED[name][:count]
        report.table(
            f"x / log(x), {name} convention",
            ["after iteration", "keras_rmsprop", "reference", "published"],
            [
                (i * EVERY, f"{a:.4f}", f"{b:.4f}", f"{c:.4f}")
                for i, (a, b, c) in enumerate(zip(got, oracle, want, strict=True))
            ],
        )
        report.check_close(f"{name}: the package gives the published x", got, want, TOLERANCE)
        report.check_close(f"{name}: the reference gives them", oracle, want, TOLERANCE)
        if not report.quick:
            report.check_close(f"{name}: the run ends at e", got[-1], np.e, 1e-6)
    draw(report, paths)


def draw(report: Report, paths: dict[str, Array]) -> None:
    """Draw both paths, and their first steps."""
    figure, (over_steps, start) = plt.subplots(1, 2, figsize=(10, 4.2), width_ratios=(3, 2))
    figure.suptitle(f"RMSprop on x / log(x) from {START:.0f}, learning rate {LEARNING_RATE}")
    for (name, path), colour in zip(paths.items(), (RMSPROP, PEER), strict=True):
        published = np.array(PUBLISHED[name])
        shown = EVERY * np.arange(len(published)) + 1
        over_steps.plot(path, color=colour, label=f"{name} convention")
        over_steps.plot(shown, published, "o", color=colour, mfc="white", ms=5)
        start.plot(START - path[:31], color=colour, label=f"{name} convention")
    over_steps.plot([], [], "o", color=TARGET, mfc="white", ms=5, label="published")
    over_steps.axhline(np.e, color=TARGET, ls=":", lw=1.2, label="minimum, x = e")
    over_steps.set(title="The whole way", xlabel="step", ylabel="x")
    over_steps.legend()
    start.set(title="The first steps", xlabel="step", ylabel="distance from the start")
    start.legend()
    report.save(figure, "x_over_log_x.png")


if __name__ == "__main__":
    run(main, __doc__)
