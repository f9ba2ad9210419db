"""Train a small network on two spirals with SGD, Adagrad and RMSprop, and see why they differ.

300 points, a 2-10-1 network (ReLU, sigmoid), 2,000 epochs of one full batch, all three from the
same weights. Below it, the accumulators behind the last two, over 200 noisy gradients: Adagrad
adds squares up, so that its effective learning rate vanishes; RMSprop averages them.
"""

from typing import Any

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _common import OTHER, PEER, RMSPROP, Array, Report, run, value_of, walk
from matplotlib import pyplot as plt

from keras_rmsprop import RMSprop

SEED = 42
POINTS, HIDDEN, EPOCHS = 300, 10, 2000
GRADIENTS, RHO, RATE = 200, 0.9, 0.1

COLOURS = {"SGD": OTHER, "Adagrad": PEER, "RMSprop": RMSPROP}


def optimizers() -> dict[str, Any]:
    """Return new optimizers, each with a learning rate that is usual for it."""
    return {
        "SGD": keras.optimizers.SGD(0.01),
        "Adagrad": keras.optimizers.Adagrad(0.1),
        "RMSprop": RMSprop(0.001),
    }


def spirals() -> tuple[Array, Array]:
    """Return the points of two spirals, shape (300, 2), and which of the two each is on."""
    rng = np.random.default_rng(SEED)
    arm = np.repeat([0, 1], POINTS // 2)
    radius = np.tile(np.linspace(0.05, 1.0, POINTS // 2), 2)
    angle = 4.0 * radius + np.pi * arm + rng.normal(0.0, 0.15, POINTS)
    points = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return points.astype("float32"), arm.astype("float32")[:, None]


def network() -> keras.Model:
    """Return the network at its start, the same in every call."""
    keras.utils.set_random_seed(SEED)
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(HIDDEN, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )


def train(model: keras.Model, optimizer: Any, epochs: Any) -> tuple[Array, Array]:
    """Train on the full batch; return loss and accuracy before each step."""
    points, arms = spirals()
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    history = []
    for _ in epochs:
        # `train_on_batch` goes on averaging until it is told that an epoch is over.
        model.reset_metrics()
        history.append(model.train_on_batch(points, arms))
    loss, accuracy = np.array(history).T
    return loss, accuracy


def noisy_gradients() -> Array:
    """Return 200 gradients of about 1, never nearly zero in their mean."""
    return 1.0 + np.random.default_rng(SEED).normal(0.0, 0.5, GRADIENTS)


def effective_rates(optimizer: RMSprop) -> Array:
    """Return the optimizer's effective learning rate after each noisy gradient."""
    gradients = iter(noisy_gradients())
    weights = walk(optimizer, lambda _: next(gradients), 0.0, range(GRADIENTS))
    rates = [float(value_of(optimizer.effective_learning_rate(weight))) for weight in weights]
    return np.array(rates[1:])


def main(report: Report) -> None:
    """Train, compare the learning rates and draw both."""
    epochs = range(30 if report.quick else EPOCHS)
    histories: dict[str, tuple[Array, Array]] = {}
    models: dict[str, keras.Model] = {}
    for name, optimizer in optimizers().items():
        models[name] = network()
        histories[name] = train(models[name], optimizer, report.track(epochs, name))
    report.table(
        f"After {len(epochs):,} full-batch epochs",
        ["optimizer", "first loss", "last loss", "accuracy"],
        [
            (name, f"{loss[0]:.4f}", f"{loss[-1]:.4f}", f"{accuracy[-1]:.1%}")
            for name, (loss, accuracy) in histories.items()
        ],
    )
    for name, (loss, _) in histories.items():
        report.check(f"{name} lowers the loss", bool(loss[-1] < loss[0]))
    if not report.quick:
        report.check(
            "RMSprop ends below SGD", bool(histories["RMSprop"][0][-1] < histories["SGD"][0][-1])
        )
    draw_training(report, histories, models)
    compare_rates(report)


def compare_rates(report: Report) -> None:
    """Follow the two accumulators over the noisy gradients."""
    squares = noisy_gradients() ** 2
    # The average starts at the first squared gradient, so that it has no run-up from zero.
    optimizer = RMSprop(RATE, rho=RHO, epsilon=0.0, initial_square_average=float(squares[0]))
    rates = {"Adagrad": RATE / np.sqrt(np.cumsum(squares)), "RMSprop": effective_rates(optimizer)}
    accumulators = {name: (RATE / rate) ** 2 for name, rate in rates.items()}
    shown = [0, 9, 49, 99, GRADIENTS - 1]
    report.table(
        f"Over {GRADIENTS} noisy gradients, learning rate {RATE}",
        ["step", "Adagrad's sum", "RMSprop's average", "Adagrad's rate", "RMSprop's rate"],
        [
            (
                i + 1,
                *(f"{accumulators[name][i]:.3f}" for name in rates),
                *(f"{rates[name][i]:.4f}" for name in rates),
            )
            for i in shown
        ],
    )
    left = {name: rate[-1] / rate[0] for name, rate in rates.items()}
    report.check(
        "Adagrad's effective learning rate vanishes",
        left["Adagrad"] < 0.1,
        f"{left['Adagrad']:.1%} left",
    )
    report.check("RMSprop's does not", left["RMSprop"] > 0.5, f"{left['RMSprop']:.1%} left")

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    figure.suptitle(f"{GRADIENTS} noisy gradients of about 1, learning rate {RATE}")
    for axis, values, what in (
        (axes[0], accumulators, "accumulator (gradient²)"),
        (axes[1], rates, "effective learning rate"),
    ):
        for name, row in values.items():
            axis.plot(np.arange(1, GRADIENTS + 1), row, color=COLOURS[name], label=name)
        axis.set(
            title=what.partition(" (")[0].capitalize(), xlabel="step", ylabel=what, yscale="log"
        )
        axis.legend()
    report.save(figure, "spiral_accumulators.png")


def draw_training(
    report: Report, histories: dict[str, tuple[Array, Array]], models: dict[str, keras.Model]
) -> None:
    """Draw loss, accuracy, and where each network sees the border."""
    figure = plt.figure(figsize=(11, 7.5))
    figure.suptitle(f"Two spirals, a 2-{HIDDEN}-1 network, full-batch epochs")
    curves, maps = np.array(figure.subfigures(2, 1, height_ratios=(1, 1.1)), object)
    loss_axes, accuracy_axes = curves.subplots(1, 2)
    for name, (loss, accuracy) in histories.items():
        loss_axes.plot(loss, color=COLOURS[name], label=name)
        accuracy_axes.plot(100.0 * accuracy, color=COLOURS[name], label=name, lw=1.2)
    loss_axes.set(title="Loss", xlabel="epoch", ylabel="binary cross-entropy")
    accuracy_axes.set(title="Accuracy", xlabel="epoch", ylabel="points classified rightly (%)")
    loss_axes.legend()
    accuracy_axes.legend(loc="lower right")

    points, arms = spirals()
    ticks = np.linspace(-1.25, 1.25, 120, dtype="float32")
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    for axis, (name, model) in zip(maps.subplots(1, 3), models.items(), strict=True):
        chance = value_of(model(grid)).reshape(len(ticks), -1)
        axis.contourf(ticks, ticks, chance, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.5)
        axis.contour(ticks, ticks, chance, [0.5], colors="black", linewidths=1)
        for arm, colour in ((0, "#2166ac"), (1, "#b2182b")):
            axis.plot(*points[arms[:, 0] == arm].T, ".", color=colour, ms=3)
        axis.set(
            title=f"{name}: {histories[name][1][-1]:.0%}", aspect="equal", xticks=[], yticks=[]
        )
    report.save(figure, "spiral.png")


if __name__ == "__main__":
    run(main, __doc__)
