"""The original program behind spiral.py: two arms of two turns, a 2-10-1 network in NumPy.

ReLU, then a sigmoid, with the mean binary cross-entropy over full batches. The gradients are those
of the plain loss; the reported loss has 1e-8 added inside both logarithms. All optimizers start
from the same weights, with an epsilon of 1e-8 under the root.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _common import Array, value_of

from keras_rmsprop import RMSprop

SEED, POINTS, HIDDEN, EPOCHS = 42, 300, 10, 2000

# The epochs, counted from 0, of the published losses, which were taken before the epoch's step.
SHOWN = (0, 1, 9, 99, 499, 999, 1499, 1999)
# fmt: off
PUBLISHED_LOSSES = {
    "SGD": (
        0.6931569911333243, 0.6931555109905185, 0.6931437242974051, 0.6930173165571412,
        0.6925038994631876, 0.6918830417853572, 0.6912771906482456, 0.6906643419732876,
    ),
    "Adagrad": (
        0.6931569911333243, 0.6915772789545064, 0.6779565373645439, 0.6224770034360234,
        0.616045626794879, 0.6157927530375754, 0.6150125886060477, 0.6146516522182541,
    ),
    "RMSprop": (
        0.6931569911333243, 0.6930170000168084, 0.6925149157767541, 0.6880871468393853,
        0.6691218955705264, 0.6546652412618899, 0.6435219621812108, 0.6371915951836113,
    ),
}
# fmt: on
# After the last step, as a fraction of the points.
PUBLISHED_ACCURACY = {"SGD": 0.51, "Adagrad": 0.5933333333333334, "RMSprop": 0.5566666666666666}


class Network(NamedTuple):
    """The weights of the network, or their gradients."""

    hidden: Array  # (10, 2)
    hidden_bias: Array  # (10, 1)
    output: Array  # (1, 10)
    output_bias: Array  # (1, 1)

    def activations(self, points: Array) -> Array:
        """Return the hidden layer's output for points of shape (n, 2), shape (10, n)."""
        return np.maximum(self.hidden @ points.T + self.hidden_bias, 0.0)

    def chance(self, points: Array) -> Array:
        """Return the probability of the second arm at points of shape (n, 2), shape (n,)."""
        score = self.output @ self.activations(points) + self.output_bias
        return np.asarray(1.0 / (1.0 + np.exp(-score[0])))

    def gradients(self, points: Array, arms: Array) -> "Network":
        """Return the gradients of the mean cross-entropy."""
        activations = self.activations(points)
        score = ((self.chance(points) - arms) / len(arms))[None]
        hidden = (self.output.T @ score) * (activations > 0.0)
        return Network(
            hidden @ points,
            hidden.sum(axis=1, keepdims=True),
            score @ activations.T,
            score.sum(axis=1, keepdims=True),
        )


class Training(NamedTuple):
    """The results of a training: loss and accuracy before each step, and the network."""

    loss: Array
    accuracy: Array
    network: Network

    def final_accuracy(self) -> float:
        """Return the accuracy after the last step."""
        return accuracy(self.network.chance(spirals()[0]), spirals()[1])


def optimizers() -> dict[str, Any]:
    """Return new optimizers with the source's settings; Keras's Adagrad starts its sum at 0.1."""
    return {
        "SGD": keras.optimizers.SGD(0.01),
        "Adagrad": keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.0, epsilon=1e-8),
        "RMSprop": RMSprop(0.001, rho=0.9, epsilon=1e-8),
    }


def spirals() -> tuple[Array, Array]:
    """Return the points of the two arms, shape (300, 2), and the arm of each."""
    random = np.random.RandomState(SEED)
    angle = np.linspace(0.0, 4.0 * np.pi, POINTS // 2)
    radius = np.linspace(0.5, 2.0, POINTS // 2)
    first = radius * np.array([np.cos(angle), np.sin(angle)])
    second = radius * np.array([np.cos(angle + np.pi), np.sin(angle + np.pi)])
    points = np.hstack([first, second]) + 0.1 * random.randn(2, POINTS)
    order = random.permutation(POINTS)
    return points.T[order], np.repeat([0.0, 1.0], POINTS // 2)[order]


def initial_network() -> Network:
    """Return the initial network, the same in every call."""
    random = np.random.RandomState(SEED)
    hidden, output = 0.1 * random.randn(HIDDEN, 2), 0.1 * random.randn(1, HIDDEN)
    return Network(hidden, np.zeros((HIDDEN, 1)), output, np.zeros((1, 1)))


def loss(chance: Array, arms: Array) -> float:
    """Return the loss as it is reported."""
    return -float(
        np.mean(arms * np.log(chance + 1e-8) + (1.0 - arms) * np.log(1.0 - chance + 1e-8))
    )


def accuracy(chance: Array, arms: Array) -> float:
    """Return the fraction of the points that are classified correctly."""
    return float(np.mean((chance > 0.5) == arms))


def train(optimizer: Any, epochs: Iterable[object]) -> Training:
    """Train the network with a Keras optimizer; needs floatx float64."""
    points, arms = spirals()
    network = initial_network()
    variables = [keras.Variable(weight, dtype="float64") for weight in network]
    optimizer.build(variables)
    history = []
    for _ in epochs:
        chance = network.chance(points)
        history.append((loss(chance, arms), accuracy(chance, arms)))
        gradients = [
            keras.ops.convert_to_tensor(gradient) for gradient in network.gradients(points, arms)
        ]
        optimizer.apply(gradients, variables)
        network = Network(*map(value_of, variables))
    losses, accuracies = np.array(history).T
    return Training(losses, accuracies, network)
