"""Walk down three quadratics beside SGD and Adagrad, and beside the reference in float64.

A round bowl x^2 + y^2; a narrow valley 100 x^2 + y^2, where one learning rate has to serve a
steep and a flat direction; and x^2 with large steps, where Adagrad's learning rate fades and
RMSprop's grows as the gradient shrinks, so that it ends by jumping to and fro.
"""

from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _common import (
    OTHER,
    PEER,
    RMSPROP,
    Array,
    Report,
    descend,
    descend_by_reference,
    run,
    use_float64,
    value_of,
    walk,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from keras_rmsprop import RMSprop

TOLERANCE = 1e-12


class Problem(NamedTuple):
    """The function sum(curvature * w**2) with a start and RMSprop's learning rate."""

    title: str
    curvature: Array
    start: Array
    learning_rate: float
    steps: int

    def gradient(self, weights: Array) -> Array:
        """Return the slope at the weights."""
        return np.asarray(2.0 * self.curvature * weights)

    def value(self, weights: Array) -> Array:
        """Return the function over the last axis of the weights."""
        return np.asarray(np.sum(self.curvature * weights**2, axis=-1))


BOWL = Problem("x² + y²", np.array([1.0, 1.0]), np.array([10.0, 10.0]), 0.1, 50)
VALLEY = Problem("100x² + y²", np.array([100.0, 1.0]), np.array([10.0, 10.0]), 0.1, 100)
PARABOLA = Problem("x²", np.array([1.0]), np.array([10.0]), 0.5, 200)

SGD_RATE, ADAGRAD_RATE = 0.001, 1.0


def descend_by_package(problem: Problem) -> tuple[Array, Array]:
    """Return the path of the package and the effective learning rate after each step.

    Needs floatx float64.
    """
    optimizer = RMSprop(problem.learning_rate)
    path, rates = [], []
    for weight in walk(optimizer, problem.gradient, problem.start, range(problem.steps)):
        path.append(value_of(weight))
        rates.append(value_of(optimizer.effective_learning_rate(weight)))
    return np.array(path), np.array(rates[1:])


def descend_by_reference_of(problem: Problem) -> Array:
    """Return the path of the reference."""
    return descend_by_reference(
        problem.gradient,
        problem.start,
        range(problem.steps),
        learning_rate=problem.learning_rate,
    )


def descend_by(optimizer: Any, problem: Problem) -> Array:
    """Return the path of another optimizer of Keras."""
    return descend(optimizer, problem.gradient, problem.start, range(problem.steps))


def main(report: Report) -> None:
    """Walk down, compare with the reference and draw."""
    use_float64()
    bowl, _ = descend_by_package(BOWL)
    valley, _ = descend_by_package(VALLEY)
    parabola, parabola_rates = descend_by_package(PARABOLA)
    sgd = descend_by(keras.optimizers.SGD(SGD_RATE), VALLEY)
    adagrad = descend_by(keras.optimizers.Adagrad(ADAGRAD_RATE), PARABOLA)
    # Keras starts Adagrad's sum of squares at 0.1.
    sums = 0.1 + np.cumsum(PARABOLA.gradient(adagrad[:-1]) ** 2, axis=0)
    adagrad_rates = ADAGRAD_RATE / np.sqrt(sums + 1e-7)

    runs: tuple[tuple[str, Problem, Array, float], ...] = (
        ("RMSprop", BOWL, bowl, BOWL.learning_rate),
        ("RMSprop", VALLEY, valley, VALLEY.learning_rate),
        ("SGD", VALLEY, sgd, SGD_RATE),
        ("RMSprop", PARABOLA, parabola, PARABOLA.learning_rate),
        ("Adagrad", PARABOLA, adagrad, ADAGRAD_RATE),
    )
    report.table(
        "Where the runs end",
        ["function", "optimizer", "rate", "steps", "end", "value"],
        [
            (
                problem.title,
                name,
                rate,
                problem.steps,
                ", ".join(f"{weight:.3g}" for weight in path[-1]),
                f"{problem.value(path[-1]):.3g}",
            )
            for name, problem, path, rate in runs
        ],
    )
    shown = [0, 1, 9, 49, 99, 199]
    report.table(
        f"Effective learning rate on {PARABOLA.title}",
        ["step", f"RMSprop {PARABOLA.learning_rate}", f"Adagrad {ADAGRAD_RATE}"],
        [(i + 1, f"{parabola_rates[i, 0]:.4g}", f"{adagrad_rates[i, 0]:.4g}") for i in shown],
    )
    for problem, path in ((BOWL, bowl), (VALLEY, valley), (PARABOLA, parabola)):
        report.check_same_path(
            f"{problem.title}: the package takes the reference's steps",
            path,
            descend_by_reference_of(problem),
            TOLERANCE,
        )
    report.check(
        "Adagrad's effective learning rate only falls, RMSprop's also rises",
        bool(
            np.all(np.diff(adagrad_rates[:, 0]) <= 0) and np.any(np.diff(parabola_rates[:, 0]) > 0)
        ),
    )

    figure, axes = plt.subplots(2, 2, figsize=(10, 8))
    figure.suptitle("RMSprop on quadratics, from 10 in every direction")
    draw_map(axes[0, 0], BOWL, {"RMSprop": bowl})
    draw_map(axes[0, 1], VALLEY, {"RMSprop": valley, "SGD": sgd})
    for axis, rows, what in (
        (axes[1, 0], (parabola, adagrad), "x"),
        (axes[1, 1], (parabola_rates, adagrad_rates), "effective learning rate"),
    ):
        names = (f"RMSprop, lr {PARABOLA.learning_rate}", f"Adagrad, lr {ADAGRAD_RATE}")
        for name, row, colour in zip(names, rows, (RMSPROP, PEER), strict=True):
            axis.plot(row, color=colour, label=name, lw=1.4)
        axis.set(title=f"{PARABOLA.title}: {what}", xlabel="step", ylabel=what)
        axis.legend()
    axes[1, 1].set_yscale("log")
    report.save(figure, "quadratics.png")


def draw_map(axes: Axes, problem: Problem, paths: dict[str, Array]) -> None:
    """Draw paths over the level lines of a function of two weights."""
    x, y = np.meshgrid(np.linspace(-11, 11, 200), np.linspace(-3, 11, 200))
    heights = problem.value(np.stack([x, y], axis=-1))
    levels = problem.value(problem.start) * np.array([0.003, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0])
    axes.contour(x, y, heights, levels, colors="#999999", linewidths=0.7)
    for (name, path), colour in zip(paths.items(), (RMSPROP, PEER), strict=False):
        axes.plot(*path.T, ".-", color=colour, ms=4, lw=1.2, label=name)
    axes.plot(*problem.start, "o", color="black", mfc="white", label="start")
    axes.plot(0, 0, "*", color=OTHER, ms=12, label="minimum")
    rates = f"lr {problem.learning_rate}" + (f", SGD {SGD_RATE}" if len(paths) > 1 else "")
    axes.set(title=f"{problem.title}: {problem.steps} steps, {rates}", xlabel="x", ylabel="y")
    axes.legend(loc="lower left")


if __name__ == "__main__":
    run(main, __doc__)
