"""Train a small network on two spirals with SGD, Adagrad and RMSprop, and see why they differ.

First the original program, from `_two_turns.py`: 300 points on two arms of two turns, a 2-10-1
network (ReLU, sigmoid), 2,000 epochs of one full batch. Published: losses during training. No
optimizer gets far there, and RMSprop, with a hundredth of Adagrad's learning rate, does not beat
it, contrary to a common claim.

Then arms of less than one turn, which the same network mostly separates, with Keras's layers.

Last the accumulators of Adagrad and RMSprop, over 200 noisy gradients: Adagrad sums squares, so
that its effective learning rate vanishes; RMSprop averages them. Published: both accumulators, and
the effective learning rates, after some of the steps.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import _two_turns as two_turns
import keras
import numpy as np
from _common import (
    OTHER,
    PEER,
    RMSPROP,
    TARGET,
    Array,
    Report,
    run,
    square_average_of,
    use_float64,
    value_of,
    walk,
)
from matplotlib import pyplot as plt

from keras_rmsprop import RMSprop

SEED = 42
POINTS, HIDDEN, EPOCHS = 300, 10, 2000
# Relative, for the losses of the original program, which uses NumPy in float64. They agree to
# 3e-16; a different order of summation (BLAS) may cost more over 2,000 steps. With epsilon outside
# the root, or Keras's default, the error is 1e-4; with Adagrad's sum starting at 0.1, it is 1e-1.
LOSS_TOLERANCE = 1e-9

GRADIENTS, RHO, RATE, EPSILON = 200, 0.9, 0.01, 1e-8
# After these gradients, counted from 0. The average starts at the first squared gradient.
SHOWN = (0, 1, 9, 99, 199)
# fmt: off
PUBLISHED_ACCUMULATORS = {
    "Adagrad": (
        0.20102406805266312, 0.21815046206301522, 2.9741864859722176,
        22.605726998836634, 49.573997407175355,
    ),
    "RMSprop": (
        0.20102406805266312, 0.18263430064843203, 0.2630431183509219,
        0.14644953598226823, 0.167316122822288,
    ),
}
PUBLISHED_RATES = {
    "Adagrad": (
        0.022303650985529406, 0.02141025902255199, 0.00579850320160398,
        0.0021032493368915266, 0.0014202769214015664,
    ),
    "RMSprop": (
        0.022303650985529406, 0.023399620562006562, 0.019497840777031886,
        0.026130997306952213, 0.024447310639201286,
    ),
}
# fmt: on
# Relative. The error of the rates is 3e-8 without epsilon, and 8e-9 with it outside the root.
ACCUMULATOR_TOLERANCE = 1e-12

COLOURS = {"SGD": OTHER, "Adagrad": PEER, "RMSprop": RMSPROP}


class Training(NamedTuple):
    """The results of a training: loss and accuracy before each step, and the trained network."""

    loss: Array
    accuracy: Array
    chance: Callable[[Array], Array]  # probability of the second arm at points of shape (n, 2)


class Accumulators(NamedTuple):
    """The accumulator and the effective learning rate after each gradient."""

    accumulator: Array
    rate: Array


def optimizers() -> dict[str, Any]:
    """Return new optimizers, each with a typical learning rate."""
    return {
        "SGD": keras.optimizers.SGD(0.01),
        "Adagrad": keras.optimizers.Adagrad(0.1),
        "RMSprop": RMSprop(0.001),
    }


def spirals() -> tuple[Array, Array]:
    """Return the points of two short arms, shape (300, 2), and the arm of each."""
    rng = np.random.default_rng(SEED)
    arm = np.repeat([0.0, 1.0], POINTS // 2)
    radius = np.tile(np.linspace(0.05, 1.0, POINTS // 2), 2)
    angle = 4.0 * radius + np.pi * arm + rng.normal(0.0, 0.15, POINTS)
    return radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1), arm


def network() -> keras.Model:
    """Return the initial network, the same in every call."""
    keras.utils.set_random_seed(SEED)
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(HIDDEN, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def train(optimizer: Any, epochs: Iterable[object]) -> Training:
    """Train Keras's network on the short arms, on full batches."""
    points, arms = spirals()
    model = network()
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    history = []
    for _ in epochs:
        # `train_on_batch` keeps averaging the metrics until they are reset.
        model.reset_metrics()
        history.append(model.train_on_batch(points, arms[:, None]))
    loss, accuracy = np.array(history).T
    return Training(loss, accuracy, lambda where: value_of(model(where))[:, 0])


def noisy_gradients() -> Array:
    """Return the source's 200 gradients, with mean 0.2 and standard deviation 0.5."""
    return 0.5 * np.random.RandomState(SEED).randn(GRADIENTS) + 0.2


def accumulators() -> dict[str, Accumulators]:
    """Run Adagrad and RMSprop on the noisy gradients; needs floatx float64."""
    squares = noisy_gradients() ** 2
    sums = np.cumsum(squares)
    optimizer = RMSprop(RATE, rho=RHO, epsilon=EPSILON, initial_square_average=float(squares[0]))
    gradients = iter(noisy_gradients())
    averages, rates = [], []
    for weight in walk(optimizer, lambda _: next(gradients), 0.0, range(GRADIENTS)):
        averages.append(square_average_of(optimizer))
        rates.append(value_of(optimizer.effective_learning_rate(weight)))
    return {
        "Adagrad": Accumulators(sums, RATE / np.sqrt(sums + EPSILON)),
        "RMSprop": Accumulators(np.array(averages[1:]), np.array(rates[1:])),
    }


def main(report: Report) -> None:
    """Run the original program, the easier spiral and the accumulators."""
    use_float64()
    repeat_the_source(report)
    tell_short_arms_apart(report)
    compare_accumulators(report)


def repeat_the_source(report: Report) -> None:
    """Run the original program and compare its losses."""
    # A quick run reaches four of the published epochs.
    epochs = range(100 if report.quick else two_turns.EPOCHS)
    shown = [epoch for epoch in two_turns.SHOWN if epoch in epochs]
    runs: dict[str, two_turns.Training] = {}
    for name, optimizer in two_turns.optimizers().items():
        runs[name] = two_turns.train(optimizer, report.track(epochs, f"two turns, {name}"))
    for name, ours in runs.items():
        published = two_turns.PUBLISHED_LOSSES[name][: len(shown)]
        report.compare(
            f"Two turns, {name}",
            "epoch",
            shown,
            {"loss": (ours.loss[shown], published)},
            LOSS_TOLERANCE,
            digits=12,
        )
    if not report.quick:
        report.compare(
            f"Two turns, after {len(epochs):,} epochs",
            "optimizer",
            list(runs),
            {
                "accuracy": (
                    [ours.final_accuracy() for ours in runs.values()],
                    [two_turns.PUBLISHED_ACCURACY[name] for name in runs],
                )
            },
            LOSS_TOLERANCE,
        )
        last = {name: float(ours.loss[-1]) for name, ours in runs.items()}
        figures = ", ".join(f"{name} {loss:.6f}" for name, loss in last.items())
        report.check("no optimizer gets far: each loss stays above 0.6", min(last.values()) > 0.6)
        report.check(
            "RMSprop ends below SGD and does not beat Adagrad",
            last["Adagrad"] < last["RMSprop"] < last["SGD"],
            figures,
        )
    draw_training(
        report,
        "spiral_two_turns.png",
        "The source's spirals, two turns",
        two_turns.spirals(),
        {name: Training(r.loss, r.accuracy, r.network.chance) for name, r in runs.items()},
        {name: (shown, two_turns.PUBLISHED_LOSSES[name][: len(shown)]) for name in runs},
    )


def tell_short_arms_apart(report: Report) -> None:
    """Train on the short arms."""
    epochs = range(30 if report.quick else EPOCHS)
    runs = {
        name: train(optimizer, report.track(epochs, f"short arms, {name}"))
        for name, optimizer in optimizers().items()
    }
    report.table(
        f"Short arms, after {len(epochs):,} full-batch epochs",
        ["optimizer", "first loss", "last loss", "accuracy"],
        [
            (name, f"{loss[0]:.4f}", f"{loss[-1]:.4f}", f"{accuracy[-1]:.1%}")
            for name, (loss, accuracy, _) in runs.items()
        ],
    )
    for name, ours in runs.items():
        report.check(f"{name} lowers the loss", bool(ours.loss[-1] < ours.loss[0]))
    if not report.quick:
        report.check(
            "RMSprop ends below SGD", bool(runs["RMSprop"].loss[-1] < runs["SGD"].loss[-1])
        )
    draw_training(report, "spiral.png", "Two short spirals", spirals(), runs)


def compare_accumulators(report: Report) -> None:
    """Compare the two accumulators with the published ones and draw them."""
    both = accumulators()
    shown = list(SHOWN)
    for what, figures, published in (
        ("accumulator", {n: a.accumulator for n, a in both.items()}, PUBLISHED_ACCUMULATORS),
        ("effective rate", {n: a.rate for n, a in both.items()}, PUBLISHED_RATES),
    ):
        report.compare(
            f"{GRADIENTS} noisy gradients, {what}",
            "gradient",
            shown,
            {name: (figures[name][shown], published[name]) for name in both},
            ACCUMULATOR_TOLERANCE,
        )
    left = {name: float(ours.rate[-1] / ours.rate[0]) for name, ours in both.items()}
    report.check(
        "Adagrad's effective learning rate vanishes",
        left["Adagrad"] < 0.1,
        f"{left['Adagrad']:.1%} left",
    )
    report.check("RMSprop's does not", left["RMSprop"] > 0.5, f"{left['RMSprop']:.1%} left")
    draw_accumulators(report, both)


def draw_accumulators(report: Report, both: dict[str, Accumulators]) -> None:
    """Draw Adagrad's growing sum, RMSprop's average, and the effective rates."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.2))
    figure.suptitle(f"{GRADIENTS} noisy gradients, learning rate {RATE}")
    count = np.arange(1, GRADIENTS + 1)
    mean = float(np.mean(noisy_gradients() ** 2))
    axes[0].plot(count, mean * count, color=TARGET, ls=":", lw=1.2, label="mean square x count")
    axes[0].axhline(mean, color=TARGET, ls="--", lw=1.2, label="mean square")
    for name, ours in both.items():
        for axis, values, published in (
            (axes[0], ours.accumulator, PUBLISHED_ACCUMULATORS[name]),
            (axes[1], ours.rate, PUBLISHED_RATES[name]),
        ):
            axis.plot(count, values, color=COLOURS[name], label=name)
            axis.plot(np.array(SHOWN) + 1, published, "o", color=COLOURS[name], mfc="white", ms=5)
    axes[0].set(
        title="Adagrad's sum grows, RMSprop's average levels off",
        ylabel="accumulator (gradient²)",
    )
    axes[1].set(title="What is left of the learning rate", ylabel="effective learning rate")
    for axis in axes:
        axis.plot([], [], "o", color=TARGET, mfc="white", ms=5, label="published")
        axis.set(xlabel="gradients seen", yscale="log")
        axis.legend()
    report.save(figure, "spiral_accumulators.png")


def draw_training(
    report: Report,
    file: str,
    title: str,
    spirals: tuple[Array, Array],
    runs: Mapping[str, Training],
    published: Mapping[str, tuple[list[int], tuple[float, ...]]] | None = None,
) -> None:
    """Draw loss, accuracy, and each network's decision boundary."""
    figure = plt.figure(figsize=(11, 7.5))
    figure.suptitle(f"{title}: a 2-{HIDDEN}-1 network, full-batch epochs")
    curves, maps = np.array(figure.subfigures(2, 1, height_ratios=(1, 1.1)), object)
    loss_axes, accuracy_axes = curves.subplots(1, 2)
    for name, ours in runs.items():
        loss_axes.plot(ours.loss, color=COLOURS[name], label=name)
        accuracy_axes.plot(100.0 * ours.accuracy, color=COLOURS[name], label=name, lw=1.2)
    for name, (epochs, losses) in (published or {}).items():
        loss_axes.plot(epochs, losses, "o", color=COLOURS[name], mfc="white", ms=5)
    if published:
        loss_axes.plot([], [], "o", color=TARGET, mfc="white", ms=5, label="published")
    loss_axes.set(title="Loss", xlabel="epoch", ylabel="binary cross-entropy")
    accuracy_axes.set(title="Accuracy", xlabel="epoch", ylabel="points classified rightly (%)")
    # For two turns, the free space under RMSprop's curve.
    loss_axes.legend(loc=(0.14, 0.2) if published else "best")
    accuracy_axes.legend(loc="lower right")

    points, arms = spirals
    reach = 1.1 * np.max(np.abs(points))
    ticks = np.linspace(-reach, reach, 120)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    for axis, (name, ours) in zip(maps.subplots(1, 3), runs.items(), strict=True):
        chance = ours.chance(grid).reshape(len(ticks), -1)
        axis.contourf(ticks, ticks, chance, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.5)
        axis.contour(ticks, ticks, chance, [0.5], colors="black", linewidths=1)
        for arm, colour in ((0, "#2166ac"), (1, "#b2182b")):
            axis.plot(*points[arms == arm].T, ".", color=colour, ms=3)
        right = np.mean((ours.chance(points) > 0.5) == arms)
        axis.set(title=f"{name}: {right:.0%}", aspect="equal", xticks=[], yticks=[])
    report.save(figure, file)


if __name__ == "__main__":
    run(main, __doc__)
