"""Trace every number of a few steps on a 2x2 weight and reproduce the published ones.

First the published cases, next to the figures of their own program: five steps, large and small
gradients, L2 decay, and betas (rho) of 0.9 and 0.5. In these the gradient is constant.

Then varying gradients of four sizes: s (the running average of squares), its root, the learning
rate of each weight and the step; and the effects of L2 decay and of a smaller beta.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import _step_by_step_cases as cases
import numpy as np
from _common import (
    OTHER,
    PEER,
    RMSPROP,
    Array,
    Report,
    run,
    square_average_of,
    use_float64,
    value_of,
    walk,
)
from matplotlib import pyplot as plt

from keras_rmsprop import RMSprop, conventions
from keras_rmsprop.reference import Reference

STEPS, LEARNING_RATE, RHO, EPSILON, L2 = 5, 0.01, 0.9, 1e-8, 0.1
WEIGHT = np.array([[0.5, -0.3], [0.8, 0.1]])
# The same pattern for every weight; the sizes span four powers of ten.
SIZES = np.array([[10.0, 1.0], [0.1, 0.01]])
GRADIENTS = np.array([1.0, 0.8, -0.5, 1.2, 0.6])[:, None, None] * SIZES
TOLERANCE = 1e-12  # of the distance travelled, against the reference
# Relative, against the published figures, which are from NumPy in float64. With epsilon inside the
# root the error is 1e-9 or more.
PUBLISHED_TOLERANCE = 1e-12
ELEMENTS = [f"[{row}, {column}]" for row in range(2) for column in range(2)]


class Trace(NamedTuple):
    """The quantities of each step; arrays of shape (steps, 2, 2)."""

    weight: Array  # one more row, for the start
    square_average: Array
    rate: Array

    @property
    def step(self) -> Array:
        """The change of each weight in each step."""
        return np.diff(self.weight, axis=0)


def trace_case(case: cases.Case) -> Trace:
    """Return the steps of the package on a published case; needs floatx float64."""
    # torch's convention: epsilon outside the root, and weight decay added to the gradient.
    optimizer = conventions.torch(
        case.learning_rate, alpha=case.rho, eps=cases.EPSILON, weight_decay=case.l2
    )
    return trace(optimizer, case.start, np.array([case.gradient] * len(case.weights)))


def trace_by_package(gradients: Array, **options: Any) -> Trace:
    """Return the steps of the package; needs floatx float64."""
    optimizer = RMSprop(LEARNING_RATE, epsilon=EPSILON, **{"rho": RHO, **options})
    return trace(optimizer, WEIGHT, gradients)


def trace(optimizer: RMSprop, start: Array, gradients: Array) -> Trace:
    """Return the steps of an optimizer."""
    given: Iterator[Array] = iter(gradients)
    weights, averages, rates = [], [], []
    for weight in walk(optimizer, lambda _: next(given), start, gradients):
        weights.append(value_of(weight))
        averages.append(square_average_of(optimizer))
        rates.append(value_of(optimizer.effective_learning_rate(weight)))
    return Trace(np.array(weights), np.array(averages[1:]), np.array(rates[1:]))


def trace_by_reference(gradients: Array, **options: Any) -> Trace:
    """Return the steps of the reference."""
    reference = Reference([WEIGHT], epsilon=EPSILON, **{"rho": RHO, **options})
    weights, averages = [WEIGHT], []
    for gradient in gradients:
        reference.apply([gradient], LEARNING_RATE)
        weights.append(reference.weights[0])
        averages.append(reference.parameters[0].square_average)
    square_average = np.array(averages)
    rate = LEARNING_RATE / np.sqrt(square_average + EPSILON)
    return Trace(np.array(weights), square_average, rate)


def main(report: Report) -> None:
    """Compare the published steps, then trace varying gradients."""
    use_float64()
    published = {name: trace_case(case) for name, case in cases.CASES.items()}
    for name, case in cases.CASES.items():
        report.compare(
            name,
            "step, weight",
            [f"{i + 1} {element}" for i in range(len(case.weights)) for element in ELEMENTS],
            {
                "s": (published[name].square_average, case.square_averages),
                "weight": (published[name].weight[1:], case.weights),
            },
            PUBLISHED_TOLERANCE,
        )
    first = np.abs(published["Large and small gradients"].step[0])
    report.check(
        "gradients from 0.1 to 10 make the same first step within 1e-6",
        bool(np.ptp(first) <= 1e-6 * np.max(first)),
        f"step lengths from {np.min(first):.9f} to {np.max(first):.9f}",
    )
    show_changing_gradients(report)


def show_changing_gradients(report: Report) -> None:
    """Print the steps, compare them with the reference and draw them."""
    plain = trace_by_package(GRADIENTS)
    for i, (gradient, average, rate, step, weight) in enumerate(
        zip(GRADIENTS, plain.square_average, plain.rate, plain.step, plain.weight[1:], strict=True)
    ):
        quantities = (gradient, average, np.sqrt(average), rate, step, weight)
        report.table(
            f"Step {i + 1}",
            ["weight", "gradient", "s", "sqrt(s)", "rate", "step", "new weight"],
            [
                (f"[{row}, {column}]", *(f"{quantity[row, column]:.4g}" for quantity in quantities))
                for row in range(2)
                for column in range(2)
            ],
        )

    decayed = trace_by_package(GRADIENTS, l2=L2)
    report.table(
        f"After {STEPS} steps, without and with L2 decay of {L2}",
        ["weight", "gradients of about", "start", "without", "with", "difference"],
        [
            (
                f"[{row}, {column}]",
                SIZES[row, column],
                WEIGHT[row, column],
                f"{plain.weight[-1, row, column]:.5f}",
                f"{decayed.weight[-1, row, column]:.5f}",
                f"{decayed.weight[-1, row, column] - plain.weight[-1, row, column]:+.5f}",
            )
            for row in range(2)
            for column in range(2)
        ],
    )

    # A gradient that drops from 1 to 0.1, to see how fast the average adapts.
    drop = np.where(np.arange(20) < 8, 1.0, 0.1)[:, None, None] * np.ones((2, 2))
    memories = {rho: trace_by_package(drop, rho=rho) for rho in (0.9, 0.5)}
    report.table(
        "sqrt(s) when the gradient drops from 1 to 0.1 after step 8",
        ["step", *(f"beta {rho}" for rho in memories)],
        [
            (
                i,
                *(
                    f"{np.sqrt(trace.square_average[i - 1, 0, 0]):.4f}"
                    for trace in memories.values()
                ),
            )
            for i in (1, 2, 8, 9, 12, 20)
        ],
    )

    for name, got, want in (
        ("plain", plain, trace_by_reference(GRADIENTS)),
        ("with L2", decayed, trace_by_reference(GRADIENTS, l2=L2)),
        ("beta 0.5", memories[0.5], trace_by_reference(drop, rho=0.5)),
    ):
        report.check_same_path(
            f"{name}: the package takes the reference's steps", got.weight, want.weight, TOLERANCE
        )
        report.check_same_path(
            f"{name}: its averages are the reference's",
            got.square_average,
            want.square_average,
            TOLERANCE,
        )
    lengths = np.abs(plain.step[:, 0, 0] / plain.step[:, 1, 1])
    report.check(
        "a gradient 1,000 times larger makes the same step within 1 %",
        bool(np.all(np.abs(lengths - 1.0) < 0.01)),
        f"step lengths differ by at most {np.max(np.abs(lengths - 1.0)):.2%}",
    )
    draw(report, plain, decayed, drop, memories)


def draw(
    report: Report, plain: Trace, decayed: Trace, drop: Array, memories: dict[float, Trace]
) -> None:
    """Draw the rates, the steps, the effect of decay and of beta."""
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 7.5))
    figure.suptitle("RMSprop, step by step")
    steps = np.arange(1, STEPS + 1)
    markers = dict(zip(SIZES.ravel(), "os^D", strict=True))
    for (row, column), size in np.ndenumerate(SIZES):
        label, marker = f"gradient about {size:g}", f"{markers[size]}-"
        axes[0, 0].plot(steps, plain.rate[:, row, column], marker, label=label, ms=5)
        axes[0, 1].plot(
            steps, plain.step[:, row, column], marker, label=label, ms=13 - 3 * (2 * row + column)
        )
    axes[0, 0].set(
        title="The rate of each weight", ylabel="learning rate / root", yscale="log", ylim=(1e-4, 6)
    )
    axes[0, 1].set(title="Its steps: the gradient's size cancels", ylabel="change of the weight")
    axes[0, 1].axhline(0.0, color="black", lw=0.8)

    places = np.arange(4)
    names = [f"{size:g}" for size in SIZES.ravel()]
    for offset, trace, label, colour in (
        (-0.2, plain, "without", RMSPROP),
        (0.2, decayed, f"with L2 {L2}", PEER),
    ):
        change = (trace.weight[-1] - WEIGHT).ravel()
        axes[1, 0].bar(places + offset, change, 0.4, color=colour, label=label)
    axes[1, 0].set(
        title="Decay counts where gradients are small",
        xlabel="gradient about",
        ylabel=f"change in {STEPS} steps",
        xticks=places,
        xticklabels=names,
    )
    for (rho, trace), colour in zip(memories.items(), (RMSPROP, OTHER), strict=True):
        root = np.sqrt(trace.square_average[:, 0, 0])
        axes[1, 1].plot(
            np.arange(1, len(root) + 1), root, "o-", ms=4, color=colour, label=f"beta {rho}"
        )
    axes[1, 1].step(
        np.arange(1, len(drop) + 1), drop[:, 0, 0], where="mid", color="black", ls=":", lw=1.2,
        label="|gradient|",
    )  # fmt: skip
    axes[1, 1].set(title="A longer and a shorter memory", xlabel="step", ylabel="sqrt(s)")
    axes[1, 1].set_xticks(range(0, len(drop) + 1, 4))
    for axis in axes[0]:
        axis.set(xlabel="step", xticks=steps)
    axes[0, 0].legend(loc="lower center", ncols=2)
    for axis in axes.flat[1:]:
        axis.legend()
    report.save(figure, "step_by_step.png")


if __name__ == "__main__":
    run(main, __doc__)
