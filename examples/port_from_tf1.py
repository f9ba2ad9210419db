"""Carry a half-finished training from a checkpoint of TF1 to Keras, and finish it in both.

A graph of `tf.compat.v1` with two dense layers learns the price of diamonds from their weight with
`tf.compat.v1.train.RMSPropOptimizer`, at a rate that is halved as the global step grows. Half-way
its Saver writes a checkpoint, and it goes on to the end. Keras takes the weights and the
optimizer's state from the checkpoint by their names, and goes on with the same batches. The losses
lie on each other. Later Keras writes a checkpoint itself, which a new TF1 session restores and
trains to the end.

For comparison another training takes the weights alone, as a converter of weights would leave it,
with a `keras.optimizers.RMSprop` of the same settings that starts afresh at the right rate.

All is in float64, in which TF1 rounds only its hyperparameters. The data are those of diamonds.py.
"""

import os

# TF1 and Keras share the TensorFlow that reads the checkpoint.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
import tensorflow as tf
from _common import OTHER, PEER, RMSPROP, TARGET, Array, Report, run, use_float64
from diamonds import Scale, load_diamonds
from matplotlib import pyplot as plt

from keras_rmsprop import interop

# Otherwise it warns that TF1 is old.
tf.get_logger().setLevel("ERROR")

STEPS, BATCH_SIZE, HELD_OUT = 600, 512, 2000
WIDTH = 16
# Halved twice.
RATE, HALVED_EVERY = 2.0**-8, 240
DECAY, MOMENTUM, EPSILON = 0.99, 0.9, 1e-10
NAMES = ("net/hidden/kernel", "net/hidden/bias", "net/price/kernel", "net/price/bias")
# Of the distance that the weights travel from half-time on.
LARGEST_DIFFERENCE = 1e-9


class Batch(NamedTuple):
    """Weights of diamonds and their prices, standardised, shape (batch, 1)."""

    x: Array
    y: Array


class Data(NamedTuple):
    """The batches of all steps, and diamonds that are not among them."""

    batches: list[Batch]
    held_out: Batch


def load_data(steps: int) -> Data:
    """Return standardised data, in batches in a fixed order."""
    diamonds = load_diamonds()
    carat, price = Scale.of(diamonds.train_carat), Scale.of(diamonds.train_price)
    x = carat.standardise(diamonds.train_carat)[:, None]
    y = price.standardise(diamonds.train_price)[:, None]
    rng = np.random.default_rng(0)
    chosen = [rng.choice(len(x), BATCH_SIZE, replace=False) for _ in range(steps)]
    held_out = Batch(
        carat.standardise(diamonds.test_carat[:HELD_OUT])[:, None],
        price.standardise(diamonds.test_price[:HELD_OUT])[:, None],
    )
    return Data([Batch(x[rows], y[rows]) for rows in chosen], held_out)


class Program:
    """The TF1 program: a graph in a session, with its optimizer and its Saver."""

    def __init__(self) -> None:
        v1 = tf.compat.v1
        rng = np.random.default_rng(0)
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.x = v1.placeholder(tf.float64, (None, 1))
            self.y = v1.placeholder(tf.float64, (None, 1))
            self.variables: list[Any] = []
            with v1.variable_scope("net"):
                hidden = tf.tanh(self.dense("hidden", self.x, rng.normal(size=(1, WIDTH))))
                kernel = rng.normal(size=(WIDTH, 1)) / WIDTH**0.5
                price = self.dense("price", hidden, kernel)
            self.loss = tf.reduce_mean(tf.math.squared_difference(price, self.y))
            step = v1.train.get_or_create_global_step()
            rate = v1.train.exponential_decay(RATE, step, HALVED_EVERY, 0.5, staircase=True)
            self.optimizer = v1.train.RMSPropOptimizer(rate, DECAY, MOMENTUM, EPSILON)
            self.step = self.optimizer.minimize(self.loss, global_step=step)
            self.saver = v1.train.Saver()
            self.session = v1.Session()
            self.session.run(v1.global_variables_initializer())

    def dense(self, name: str, x: Any, kernel: Array) -> Any:
        """Add a dense layer with this initial kernel."""
        with tf.compat.v1.variable_scope(name):
            weight = tf.compat.v1.get_variable("kernel", initializer=kernel)
            bias = tf.compat.v1.get_variable("bias", initializer=np.zeros(kernel.shape[1]))
        self.variables += [weight, bias]
        return tf.matmul(x, weight) + bias

    def train(self, batches: Sequence[Batch], held_out: Batch) -> list[float]:
        """Make a step for each batch; return the loss on what is held out after each."""
        losses = []
        for batch in batches:
            self.session.run(self.step, {self.x: batch.x, self.y: batch.y})
            fed = {self.x: held_out.x, self.y: held_out.y}
            losses.append(float(self.session.run(self.loss, fed)))
        return losses

    def weights(self) -> list[Array]:
        """Return a copy of the weights."""
        return [np.array(value) for value in self.session.run(self.variables)]

    def save(self, folder: Path) -> str:
        """Write a checkpoint, and return its path."""
        with self.graph.as_default():
            return str(self.saver.save(self.session, str(folder / "model.ckpt")))

    def restore(self, path: str) -> None:
        """Restore weights, slots and the global step."""
        with self.graph.as_default():
            self.saver.restore(self.session, path)


def make_twin() -> tuple[keras.Model, dict[str, Any]]:
    """Return the same network in Keras, and its variables by TF1's names."""
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(WIDTH, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    return model, dict(zip(NAMES, model.trainable_variables, strict=True))


def schedule() -> Any:
    """Return TF1's schedule, which is a tensor of its graph, as one of Keras's."""
    return keras.optimizers.schedules.ExponentialDecay(RATE, HALVED_EVERY, 0.5, staircase=True)


def carry_over(checkpoint: str, source: Any) -> keras.Model:
    """Return the network in Keras, with an optimizer that goes on with its training."""
    model, pairs = make_twin()
    interop.tf1.load_weights(checkpoint, pairs)
    optimizer = interop.like(
        source, model.trainable_variables, pairs, state=checkpoint, learning_rate=schedule()
    )
    model.compile(optimizer, loss="mse")
    return model


def carry_weights_over(checkpoint: str, step: int) -> keras.Model:
    """Return the network in Keras, with an optimizer of the same settings that starts afresh."""
    model, pairs = make_twin()
    interop.tf1.load_weights(checkpoint, pairs)
    optimizer = keras.optimizers.RMSprop(schedule(), DECAY, MOMENTUM, EPSILON)
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(step)
    model.compile(optimizer, loss="mse")
    return model


def train_keras(model: keras.Model, batches: Sequence[Batch], held_out: Batch) -> list[float]:
    """Make a step for each batch; return the loss on what is held out after each."""
    losses = []
    for batch in batches:
        model.train_on_batch(batch.x, batch.y)
        losses.append(float(np.mean((model.predict_on_batch(held_out.x) - held_out.y) ** 2)))
    return losses


def main(report: Report) -> None:
    """Train, carry over at half-time and back, and draw the losses."""
    use_float64()
    steps = 80 if report.quick else STEPS
    data = load_data(steps)
    first, third, last = (
        data.batches[: steps // 2],
        data.batches[steps // 2 : 3 * steps // 4],
        data.batches[3 * steps // 4 :],
    )
    with (
        report.progress("Training in TF1, and in Keras from half-time on", 5) as advance,
        tempfile.TemporaryDirectory() as folder,
    ):
        program = Program()
        before = program.train(first, data.held_out)
        start = program.weights()
        checkpoint = program.save(Path(folder))
        contents = tf.train.list_variables(checkpoint)
        advance()
        in_tf1 = program.train([*third, *last], data.held_out)
        advance()
        model = carry_over(checkpoint, program.optimizer)
        in_keras = train_keras(model, third, data.held_out)
        pairs = dict(zip(NAMES, model.weights, strict=True))
        back = interop.tf1.save(model.optimizer, Path(folder) / "back.ckpt", pairs)
        in_keras += train_keras(model, last, data.held_out)
        advance()
        again = Program()
        again.restore(back)
        again.train(last, data.held_out)
        advance()
        afresh = carry_weights_over(checkpoint, len(first))
        fresh = train_keras(afresh, [*third, *last], data.held_out)
        advance()

    report.table(
        "The checkpoint", ["variable or slot", "shape"], [(n, tuple(s)) for n, s in contents]
    )
    model.optimizer.describe(report.say)
    want = program.weights()
    got = [np.asarray(weight) for weight in model.get_weights()]
    for claim, ends in (
        ("carried over, Keras ends at TF1's weights", got),
        ("carried back from Keras's checkpoint, TF1 ends at them too", again.weights()),
    ):
        error = relative_difference(ends, want, start)
        report.check(
            claim,
            error <= LARGEST_DIFFERENCE,
            f"largest difference {error:.1e} of the distance travelled since half-time, allowed "
            f"{LARGEST_DIFFERENCE:.0e}",
        )
    report.check_close("the losses are TF1's", in_keras, in_tf1, 1e-9)
    early = len(fresh) // 5
    report.say(
        f"with a fresh optimizer the loss rises from {before[-1]:.4f} to {max(fresh[:early]):.4f} "
        f"after the switch; carried over it stays below {max(in_keras[:early]):.4f}"
    )
    draw(report, before, in_tf1, in_keras, fresh)


def relative_difference(
    got: Sequence[Array], want: Sequence[Array], start: Sequence[Array]
) -> float:
    """Return the largest difference of weights, relative to the distance travelled."""

    def largest(left: Sequence[Array], right: Sequence[Array]) -> float:
        return max(float(np.max(np.abs(a - b))) for a, b in zip(left, right, strict=True))

    return largest(got, want) / largest(want, start)


def draw(
    report: Report,
    before: list[float],
    in_tf1: list[float],
    in_keras: list[float],
    fresh: list[float],
) -> None:
    """Draw the losses of the three trainings, and the difference of the two that agree."""
    figure, (curves, difference) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(2, 1))
    figure.suptitle("A training carried from a TF1 checkpoint to Keras at half-time")
    half = len(before)
    later = np.arange(half, half + len(in_tf1))
    curves.plot(later, fresh, color=OTHER, lw=1.2, label="Keras, weights alone")
    curves.plot(before, color=PEER, label="TF1")
    curves.plot(later, in_tf1, color=PEER)
    curves.plot(later, in_keras, color=RMSPROP, ls=(0, (2, 2)), label="Keras, carried over")
    curves.axvline(half, color=TARGET, lw=1, ls=":")
    curves.set(
        title=f"Loss on {HELD_OUT:,} held-out diamonds",
        xlabel="step",
        ylabel="mean squared error, standardised",
        yscale="log",
    )
    curves.legend()
    difference.plot(later, np.array(in_keras) - np.array(in_tf1), color=RMSPROP)
    difference.set(title="Keras, carried over, minus TF1", xlabel="step", ylabel="loss")
    difference.ticklabel_format(axis="y", scilimits=(0, 0))
    report.save(figure, "port_from_tf1.png")


if __name__ == "__main__":
    run(main, __doc__)
