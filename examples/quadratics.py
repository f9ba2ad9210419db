"""Minimise three quadratics with RMSprop, SGD and Adagrad and reproduce the published figures.

A round bowl x^2 + y^2; a narrow valley 100 x^2 + y^2, where one learning rate has to serve a
steep and a flat direction; and x^2 with large steps, where Adagrad's learning rate decays and
RMSprop's grows as the gradient shrinks, so that it ends up oscillating.

All start at 10 in every direction and run in float64, with rho 0.9 and an epsilon of 1e-8 outside
the root. Published: the positions after some of the iterations, counted from 0.
"""

from typing import NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _common import (
    OTHER,
    PEER,
    RMSPROP,
    TARGET,
    Array,
    Report,
    descend,
    descend_by_adagrad,
    descend_by_reference,
    run,
    use_float64,
    value_of,
    walk,
)
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from keras_rmsprop import conventions

RHO, EPSILON = 0.9, 1e-8
TOLERANCE = 1e-12  # of the distance travelled, against the reference
# Relative, against the published figures, which are from NumPy in float64. With epsilon inside the
# root the error is 1e-10 or more, with Adagrad without epsilon 5e-11.
PUBLISHED_TOLERANCE = 1e-12


class Problem(NamedTuple):
    """The function sum(curvature * w**2), with a start and RMSprop's learning rate."""

    title: str
    curvature: Array
    start: Array
    learning_rate: float
    steps: int

    def gradient(self, weights: Array) -> Array:
        """Return the gradient at the weights."""
        return np.asarray(2.0 * self.curvature * weights)

    def value(self, weights: Array) -> Array:
        """Return the function over the last axis of the weights."""
        return np.asarray(np.sum(self.curvature * weights**2, axis=-1))


BOWL = Problem("x² + y²", np.array([1.0, 1.0]), np.array([10.0, 10.0]), 0.1, 50)
VALLEY = Problem("100x² + y²", np.array([100.0, 1.0]), np.array([10.0, 10.0]), 0.1, 100)
PARABOLA = Problem("x²", np.array([1.0]), np.array([10.0]), 0.5, 200)

SGD_RATE, ADAGRAD_RATE = 0.001, 1.0

# For each problem the published iterations, and the figures after them by optimizer.
# fmt: off
PUBLISHED: dict[str, tuple[tuple[int, ...], dict[str, tuple[float, ...]]]] = {
    "x² + y²: x": (
        (0, 10, 20, 30, 40, 49),
        {
            "RMSprop": (
                9.683772234483161, 8.207379341266703, 7.1851867103741505,
                6.2563438855171425, 5.36811403809423, 4.5923890116269845,
            ),
        },
    ),
    "100x² + y²: its value": (
        (0, 20, 40, 60, 80),
        {
            "RMSprop": (
                9471.319912665354, 5214.317711092998, 2910.481477329427,
                1363.2579777638914, 452.221025137088,
            ),
            "SGD": (
                6499.6004, 92.78609831639544, 84.8603784544077,
                78.32962315360956, 72.30156344471042,
            ),
        },
    ),
    "x²: x": (
        (0, 40, 80, 120, 160),
        {
            "RMSprop": (
                8.41886117241581, 0.0002750327994398225, -8.197416022262945e-16,
                -0.5701914064420646, -0.25157148096275417,
            ),
            "Adagrad": (
                9.0000000005, 1.8403874882918685, 0.5040373770308396,
                0.13963040108994715, 0.03871400941102216,
            ),
        },
    ),
}
# fmt: on


class Runs(NamedTuple):
    """The paths of all runs, including the start, and the effective rates of two of them."""

    bowl: Array
    valley: Array
    valley_by_sgd: Array
    parabola: Array
    parabola_by_adagrad: Array
    parabola_rates: Array
    adagrad_rates: Array

    def figures(self) -> dict[str, dict[str, Array]]:
        """Return our figures for those in PUBLISHED, after the same iterations."""
        paths = {
            "x² + y²: x": {"RMSprop": self.bowl[:, 0]},
            "100x² + y²: its value": {
                "RMSprop": VALLEY.value(self.valley),
                "SGD": VALLEY.value(self.valley_by_sgd),
            },
            "x²: x": {"RMSprop": self.parabola[:, 0], "Adagrad": self.parabola_by_adagrad[:, 0]},
        }
        return {
            title: {name: path[1:][list(PUBLISHED[title][0])] for name, path in named.items()}
            for title, named in paths.items()
        }


def run_all() -> Runs:
    """Make all runs; needs floatx float64."""
    parabola, parabola_rates = descend_by_package(PARABOLA)
    adagrad, sums = descend_by_adagrad(
        PARABOLA.gradient,
        PARABOLA.start,
        range(PARABOLA.steps),
        learning_rate=ADAGRAD_RATE,
        epsilon=EPSILON,
    )
    return Runs(
        bowl=descend_by_package(BOWL)[0],
        valley=descend_by_package(VALLEY)[0],
        valley_by_sgd=descend_by_sgd(VALLEY),
        parabola=parabola,
        parabola_by_adagrad=adagrad,
        parabola_rates=parabola_rates,
        adagrad_rates=ADAGRAD_RATE / (np.sqrt(sums) + EPSILON),
    )


def descend_by_package(problem: Problem) -> tuple[Array, Array]:
    """Return the path of the package and the effective learning rate after each step.

    Needs floatx float64.
    """
    # torch's convention has epsilon outside the root.
    optimizer = conventions.torch(problem.learning_rate, alpha=RHO, eps=EPSILON)
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
        rho=RHO,
        epsilon=EPSILON,
        epsilon_inside_sqrt=False,
    )


def descend_by_sgd(problem: Problem) -> Array:
    """Return the path of Keras's SGD."""
    sgd = keras.optimizers.SGD(SGD_RATE)
    return descend(sgd, problem.gradient, problem.start, range(problem.steps))


def main(report: Report) -> None:
    """Run, compare with the published figures and the reference, and draw."""
    use_float64()
    runs = run_all()
    bowl, valley, sgd, parabola, adagrad, parabola_rates, adagrad_rates = runs
    for title, figures in runs.figures().items():
        iterations, published = PUBLISHED[title]
        report.compare(
            title,
            "iteration",
            iterations,
            {name: (figures[name], published[name]) for name in published},
            PUBLISHED_TOLERANCE,
            digits=7,  # two pairs of columns and an exponent in 80 characters
        )

    ends: tuple[tuple[str, Problem, Array, float], ...] = (
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
            for name, problem, path, rate in ends
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
    report.check("x² + y²: y is x, as published", bool(np.array_equal(bowl[:, 0], bowl[:, 1])))
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
    iterations, published = PUBLISHED["x²: x"]
    for name, colour in (("RMSprop", RMSPROP), ("Adagrad", PEER)):
        # The weight after iteration 0 is the one after step 1.
        steps = np.array(iterations) + 1
        axes[1, 0].plot(steps, published[name], "o", color=colour, mfc="white", ms=5, zorder=3)
    axes[1, 0].plot([], [], "o", color=TARGET, mfc="white", ms=5, label="published")
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
