"""Train a linear layer on one example for ten epochs and reproduce the published losses.

The input is (1, 2), the target 1, the loss the squared error. The step of each weight depends only
on ratios of gradients, so the initial residual determines all ten losses, whichever weights give
it.

Published: the loss in epochs 1 to 10, with learning rate 0.01 and rho 0.9.
"""

from typing import Any

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _common import PEER, RMSPROP, Array, Report, descend_by_reference, run
from matplotlib import pyplot as plt

from keras_rmsprop import RMSprop

INPUT, TARGET = np.array([1.0, 2.0]), 1.0
# Two weights and a bias whose first loss is the published one: (-0.2 - 0.524134 - 1)**2 = 2.9726.
START = np.array([-0.2, -0.262067, 0.0])
LEARNING_RATE = 0.01
OPTIONS: dict[str, Any] = {"rho": 0.9, "epsilon": 1e-8}

PUBLISHED = (2.9726, 2.5525, 2.2779, 2.0650, 1.8882, 1.7356, 1.6008, 1.4799, 1.3700, 1.2694)
TOLERANCE = 1e-4


def losses_by_package() -> Array:
    """Return the loss in each epoch of `model.fit`."""
    layer = keras.layers.Dense(1)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.set_weights([START[:2, None], START[2:]])
    model.compile(RMSprop(LEARNING_RATE, **OPTIONS), loss="mse")
    history = model.fit(INPUT[None], np.array([[TARGET]]), epochs=len(PUBLISHED), verbose=0)
    return np.array(history.history["loss"])


def losses_by_reference() -> Array:
    """Return the same from the reference."""
    inputs = np.append(INPUT, 1.0)

    def gradient(weights: Array) -> Array:
        return np.asarray(2.0 * (weights @ inputs - TARGET) * inputs)

    epochs = range(len(PUBLISHED) - 1)
    path = descend_by_reference(gradient, START, epochs, learning_rate=LEARNING_RATE, **OPTIONS)
    return np.asarray(np.square(path @ inputs - TARGET))


def main(report: Report) -> None:
    """Train, compare with the published losses and draw them."""
    losses = {"keras_rmsprop": losses_by_package(), "reference": losses_by_reference()}
    report.table(
        "Loss in each epoch",
        ["epoch", *losses, "published"],
        [
            (epoch, *(f"{loss:.4f}" for loss in row))
            for epoch, row in enumerate(zip(*losses.values(), PUBLISHED, strict=True), start=1)
        ],
    )
    for name, values in losses.items():
        report.check_close(f"{name} gives the published losses", values, PUBLISHED, TOLERANCE)
    draw(report, losses["keras_rmsprop"])


def draw(report: Report, losses: Array) -> None:
    """Draw the losses and their differences from the published ones."""
    figure, (curve, difference) = plt.subplots(1, 2, figsize=(10, 4))
    figure.suptitle("A linear layer in ten epochs of RMSprop")
    epochs = np.arange(1, len(PUBLISHED) + 1)
    curve.plot(epochs, losses, color=RMSPROP, label="keras_rmsprop")
    curve.plot(epochs, PUBLISHED, "o", color=PEER, mfc="white", label="published")
    curve.set(title="Loss", xlabel="epoch", ylabel="squared error", ylim=(0, None), xticks=epochs)
    curve.legend()
    difference.axhspan(-TOLERANCE, TOLERANCE, color=RMSPROP, alpha=0.12, label="allowed")
    difference.plot(epochs, losses - np.array(PUBLISHED), "o-", color=RMSPROP, label="difference")
    difference.set(
        title="keras_rmsprop minus published (rounded to 4 digits)",
        xlabel="epoch",
        ylabel="difference of the loss",
        ylim=(-1.5 * TOLERANCE, 1.5 * TOLERANCE),
        xticks=epochs,
    )
    difference.ticklabel_format(axis="y", scilimits=(0, 0))
    difference.legend(loc="upper right")
    report.save(figure, "linear_layer.png")


if __name__ == "__main__":
    run(main, __doc__)
