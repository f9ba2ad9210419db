"""Carry a half-finished training from torch to Keras, and finish it in both.

A torch network and its `torch.optim.RMSprop`, with two param groups, make half of their steps. Then
`keras_rmsprop.interop` carries weights, averages, momentum buffers and param groups to Keras, on
the TensorFlow backend, and both go on with the same batches. The losses lie on each other. For
comparison a third training gets the weights alone and a fresh optimizer, as a converter of weights
would leave it.

The network has 641 parameters and learns a function of the plane from noisy values, in float64.
Needs torch besides TensorFlow: pip install torch.
"""

import os

# Keras runs on one backend, and torch beside it.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import copy
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
import torch
from _common import OTHER, PEER, RMSPROP, TARGET, Array, Report, run, use_float64
from matplotlib import pyplot as plt

from keras_rmsprop import conventions, interop

STEPS, BATCH_SIZE, POINTS, NOISE = 600, 64, 2048, 0.05
WIDTH = 24
GROUPS = ({"lr": 0.0005}, {"lr": 0.005, "momentum": 0.8})
SETTINGS: dict[str, Any] = {"alpha": 0.99, "momentum": 0.9, "centered": True, "weight_decay": 1e-5}
# Of the distance that the weights travel in the second half.
LARGEST_DIFFERENCE = 1e-10


class Batch(NamedTuple):
    """Points of the plane and noisy values there."""

    x: Array
    y: Array


class Network(torch.nn.Module):
    """Two hidden layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(2, WIDTH),
            torch.nn.Tanh(),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.Tanh(),
        )
        self.head = torch.nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the value at each point."""
        return torch.as_tensor(self.head(self.body(x)))


def make_twin() -> keras.Model:
    """Return the same network in Keras."""
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(WIDTH, activation="tanh"),
            keras.layers.Dense(WIDTH, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )


def batches(count: int) -> list[Batch]:
    """Return the batches of all steps."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (POINTS, 2))
    y = np.sin(3.0 * x[:, :1]) * np.cos(2.0 * x[:, 1:]) + NOISE * rng.normal(size=(POINTS, 1))
    chosen = [rng.choice(POINTS, BATCH_SIZE, replace=False) for _ in range(count)]
    return [Batch(x[rows], y[rows]) for rows in chosen]


def train_torch(network: Network, optimizer: Any, data: list[Batch]) -> list[float]:
    """Make a step for each batch, and return the losses."""
    losses = []
    for batch in data:
        optimizer.zero_grad()
        difference = network(torch.from_numpy(batch.x)) - torch.from_numpy(batch.y)
        loss = torch.mean(difference**2)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def train_keras(model: keras.Model, optimizer: Any, data: list[Batch]) -> list[float]:
    """Make a step for each batch, and return the losses."""
    model.compile(optimizer, loss="mse")
    return [float(model.train_on_batch(batch.x, batch.y)) for batch in data]


def carry_over(network: Network, optimizer: Any) -> tuple[keras.Model, Any]:
    """Return the network in Keras, and the optimizer that goes on with its training."""
    model = make_twin()
    pairs = interop.torch.pairs(network, model)
    interop.torch.load_weights(network, pairs)
    return model, interop.like(optimizer, model.trainable_variables, pairs)


def carry_weights_over(network: Network) -> tuple[keras.Model, Any]:
    """Return the network in Keras, and an optimizer of the same settings that starts afresh."""
    model = make_twin()
    interop.torch.load_weights(network, interop.torch.pairs(network, model))
    body, head = GROUPS
    paths = [v.path for v in model.layers[-1].trainable_variables]
    params = [{"params": paths, **head}]
    return model, conventions.torch(**{**SETTINGS, **body}, params=params)


def weights_of(network: Network) -> list[Array]:
    """Return the network's weights in Keras's layout."""
    return [parameter.detach().numpy().T for parameter in network.parameters()]


def main(report: Report) -> None:
    """Train, carry over at half-time, finish in both frameworks and draw the losses."""
    use_float64()
    torch.manual_seed(0)
    steps = 60 if report.quick else STEPS
    data = batches(steps)
    first, second = data[: steps // 2], data[steps // 2 :]

    network = Network().double()
    params = [network.body.parameters(), network.head.parameters()]
    optimizer = torch.optim.RMSprop(
        [{"params": p, **own} for p, own in zip(params, GROUPS, strict=True)], **SETTINGS
    )
    with report.progress("Training in torch, and in Keras from half-time on", 4) as advance:
        before = train_torch(network, optimizer, first)
        advance()
        start = copy.deepcopy(weights_of(network))
        model, carried = carry_over(network, optimizer)
        afresh = carry_weights_over(network)
        in_torch = train_torch(network, optimizer, second)
        advance()
        in_keras = train_keras(model, carried, second)
        advance()
        fresh = train_keras(*afresh, second)
        advance()

    carried.describe(report.say)
    want = weights_of(network)
    got = [np.asarray(weight) for weight in model.get_weights()]
    distance = max(float(np.max(np.abs(a - b))) for a, b in zip(want, start, strict=True))
    error = max(float(np.max(np.abs(a - b))) for a, b in zip(got, want, strict=True)) / distance
    report.check(
        "carried over, Keras ends at torch's weights",
        error <= LARGEST_DIFFERENCE,
        f"largest difference {error:.1e} of the distance travelled since half-time, allowed "
        f"{LARGEST_DIFFERENCE:.0e}",
    )
    report.check_close("the losses are torch's", in_keras, in_torch, 1e-9)
    highest = max(fresh[: len(fresh) // 5])
    report.say(
        f"with a fresh optimizer the loss rises from {before[-1]:.4f} to {highest:.4f} after the "
        f"switch; carried over it stays below {max(in_keras[: len(fresh) // 5]):.4f}"
    )
    draw(report, before, in_torch, in_keras, fresh)


def draw(
    report: Report,
    before: list[float],
    in_torch: list[float],
    in_keras: list[float],
    fresh: list[float],
) -> None:
    """Draw the losses of the three trainings, and the difference of the two that agree."""
    figure, (curves, difference) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(2, 1))
    figure.suptitle("A training carried from torch to Keras at half-time")
    half = len(before)
    later = np.arange(half, half + len(in_torch))
    curves.plot(later, fresh, color=OTHER, lw=1.2, label="Keras, weights alone")
    curves.plot(before, color=PEER, label="torch")
    curves.plot(later, in_torch, color=PEER)
    curves.plot(later, in_keras, color=RMSPROP, ls=(0, (2, 2)), label="Keras, carried over")
    curves.axvline(half, color=TARGET, lw=1, ls=":")
    curves.set(title="Loss of each batch", xlabel="step", ylabel="mean squared error", yscale="log")
    curves.legend()
    difference.plot(later, np.array(in_keras) - np.array(in_torch), color=RMSPROP)
    difference.set(title="Keras, carried over, minus torch", xlabel="step", ylabel="loss")
    difference.ticklabel_format(axis="y", scilimits=(0, 0))
    report.save(figure, "port_from_torch.png")


if __name__ == "__main__":
    run(main, __doc__)
