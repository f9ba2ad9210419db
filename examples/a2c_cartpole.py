"""Train A2C on CartPole with torch's RMSprop and with TF1's, and see what the difference does.

Both with the settings of Stable-Baselines3's A2C (see `_a2c.py`) and of its zoo for CartPole-v1:
eight environments, 500,000 steps, learning rate 7e-4, rho 0.99, epsilon 1e-5, gradients clipped to
a norm of 0.5, and ten seeds, which give the initial weights, states and random numbers. The two
conventions differ in the first average, 0 in torch and 1 in TF1, and in the position of epsilon,
outside the root in torch and under it in TF1. When Stable-Baselines3 replaced TensorFlow by torch,
its authors found TF1's form crucial for learning as stably as before (pull request 110 there); it
is offered there as `RMSpropTFLike`. To tell the two differences apart, two halfway forms are
trained as well.

Returns are those of the episodes of the training, with actions drawn at random: the mean of the
last 100 completed, as Stable-Baselines3 reports. The intervals are 95 % bootstrap intervals
(percentiles of 10,000 resamples of the seeds) of the mean over seeds.

First the steps that the optimizers take on the same gradients, those of 200 rollouts with the
untrained network.

A published run is in `published/`. It takes ten minutes on 2 busy CPU cores.
"""

import os

# Compiles the networks, the loss and the optimizer's step into one program.
os.environ.setdefault("KERAS_BACKEND", "jax")

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _a2c import ENVIRONMENTS, STEPS, TIME_LIMIT, Actor, CartPoles, Learner, Training, train
from _common import OTHER, PEER, RMSPROP, TARGET, Array, Report, run
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from keras_rmsprop import RMSprop, conventions

LEARNING_RATE, RHO, EPSILON, LARGEST_NORM = 7e-4, 0.99, 1e-5, 0.5

TORCH, TF1 = "torch", "tf1"
# One difference each.
FROM_1, INSIDE = "torch, average from 1", "torch, epsilon under the root"
OPTIMIZERS: dict[str, Callable[[], RMSprop]] = {
    TORCH: lambda: conventions.torch(lr=LEARNING_RATE, alpha=RHO, eps=EPSILON),
    TF1: lambda: conventions.tf1(LEARNING_RATE, decay=RHO, epsilon=EPSILON),
    FROM_1: lambda: RMSprop(
        LEARNING_RATE,
        RHO,
        epsilon=EPSILON,
        epsilon_inside_sqrt=False,
        initial_square_average=1.0,
    ),
    INSIDE: lambda: RMSprop(LEARNING_RATE, RHO, epsilon=EPSILON),
}
COLOURS = {TORCH: PEER, TF1: RMSPROP, FROM_1: OTHER, INSIDE: "#CC79A7"}

# Gymnasium's threshold for a solved CartPole-v1.
SOLVED = 475.0
RESAMPLES = 10_000


class Scale(NamedTuple):
    """How much is computed."""

    names: Sequence[str]
    seeds: int
    updates: int  # steps of the optimizer
    points: int  # of the curves
    first: int  # steps on the same gradients

    @property
    def grid(self) -> Array:
        """The environment steps at the points of the curves."""
        return np.linspace(0, self.updates * STEPS * ENVIRONMENTS, self.points + 1)[1:]


FULL = Scale(tuple(OPTIMIZERS), seeds=10, updates=12_500, points=50, first=200)
QUICK = Scale((TORCH, TF1), seeds=1, updates=100, points=4, first=20)


class Mean(NamedTuple):
    """A mean over seeds, with the ends of its 95 % interval."""

    mean: Any
    low: Any
    high: Any

    def __str__(self) -> str:
        """Return the mean and the interval, as whole numbers."""
        return f"{self.mean:.0f} [{self.low:.0f}, {self.high:.0f}]"


def over_seeds(values: Array) -> Mean:
    """Return the mean of values, shape (seeds, ...), with a bootstrap interval."""
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), (2.5, 97.5), axis=0)
    return Mean(values.mean(axis=0), low, high)


def new_optimizer(name: str) -> RMSprop:
    """Return a new optimizer that clips by the global norm."""
    optimizer = OPTIMIZERS[name]()
    optimizer.global_clipnorm = LARGEST_NORM
    return optimizer


def untrained_gradients(learner: Learner, count: int) -> list[list[Any]]:
    """Return the gradients of rollouts with the initial weights, from seed 0."""
    weights, _ = learner.start([0])
    copies, actor = CartPoles([0]), Actor(learner, weights, [0])
    return [learner.gradients(weights, copies.rollout(actor)) for _ in range(count)]


def norms_of_steps(learner: Learner, gradients: Iterable[list[Any]]) -> Array:
    """Return the norm of each step that a new optimizer takes on the gradients."""
    weights, state = learner.start([0])
    norms = []
    for each in gradients:
        weights, state, norm = learner.apply(weights, state, each)
        norms.append(float(norm[0]))
    return np.array(norms)


def main(report: Report) -> None:
    """Compare first steps, train, tabulate and draw."""
    if keras.backend.backend() != "jax":
        sys.exit("This example is written for JAX; run it with KERAS_BACKEND=jax.")
    scale = QUICK if report.quick else FULL
    learners = {name: Learner(new_optimizer(name)) for name in scale.names}
    first = compare_first_steps(report, learners, scale.first)
    trainings = train_all(report, learners, scale)
    curves = {
        name: np.array([training.reported(scale.grid) for training in of_name])
        for name, of_name in trainings.items()
    }
    tabulate_returns(report, curves)
    tabulate_steps(report, trainings)
    compare_with_torch(report, curves)
    draw(report, scale, curves, first, trainings)


def compare_first_steps(
    report: Report, learners: dict[str, Learner], count: int
) -> dict[str, Array]:
    """Return the norms of the first steps on the same gradients; check the first of all."""
    gradients = {name: untrained_gradients(each, count) for name, each in learners.items()}
    alike = all(
        np.array_equal(a, b)
        for other in gradients.values()
        for a, b in zip(gradients[TORCH][0], other[0], strict=True)
    )
    report.check("all optimizers get the same first gradient", alike)
    norms = {name: norms_of_steps(each, gradients[TORCH]) for name, each in learners.items()}
    shown = [step for step in (1, 2, 5, 10, 20, 50, 100, 200) if step <= count]
    report.table(
        "Norm of a step, on the same gradients",
        ["optimizer", *(f"step {step}" for step in shown)],
        [(name, *(f"{each[step - 1]:.1e}" for step in shown)) for name, each in norms.items()],
    )
    norm = float(np.sqrt(sum(np.sum(np.square(each)) for each in gradients[TORCH][0])))
    gradient_descent = LEARNING_RATE * min(norm, LARGEST_NORM)
    report.check(
        "tf1's first step is the learning rate times the clipped gradient, within 1 %",
        bool(abs(norms[TF1][0] / gradient_descent - 1.0) < 0.01),
        f"{norms[TF1][0]:.2e} and {gradient_descent:.2e}; norm of the gradient {norm:.2f}",
    )
    ratio = norms[TORCH][0] / norms[TF1][0]
    report.check(
        "torch's first step is more than 100 times as long as tf1's",
        bool(ratio > 100.0),
        f"{ratio:.0f} times",
    )
    return norms


def train_all(
    report: Report, learners: dict[str, Learner], scale: Scale
) -> dict[str, list[Training]]:
    """Train with each optimizer, from all seeds side by side."""
    seeds = range(scale.seeds)
    trainings = {}
    for name, learner in learners.items():
        with report.progress(f"training with {name}", scale.updates) as advance:
            trainings[name] = train(learner, seeds, scale.updates, advance)
    return trainings


def tabulate_returns(report: Report, curves: dict[str, Array]) -> None:
    """Print the returns of each optimizer and of each seed."""
    report.table(
        "Mean return of the last 100 episodes, with 95 % intervals of the mean over seeds",
        [
            "optimizer",
            "at the end",
            "mean of the training",
            f"seeds that reached {SOLVED:.0f}",
            "that ended there",
        ],
        [
            (
                name,
                over_seeds(curve[:, -1]),
                over_seeds(curve.mean(axis=1)),
                int(np.sum(curve.max(axis=1) >= SOLVED)),
                int(np.sum(curve[:, -1] >= SOLVED)),
            )
            for name, curve in curves.items()
        ],
    )
    seeds = range(len(curves[TORCH]))
    report.table(
        "At the end, by seed",
        ["optimizer", *map(str, seeds)],
        [(name, *(f"{value:.0f}" for value in curve[:, -1])) for name, curve in curves.items()],
    )


def tabulate_steps(report: Report, trainings: dict[str, list[Training]]) -> None:
    """Print how long the steps of the trainings were."""
    count = len(trainings[TORCH][0].norms)
    shown = [step for step in (1, 10, 100, 1_000) if step <= count]
    rows = []
    for name, of_name in trainings.items():
        norms = np.array([training.norms for training in of_name])
        rates = np.array([training.rates for training in of_name]) / LEARNING_RATE
        late = norms[:, count // 2 :]
        rows.append(
            (
                name,
                *(f"{norms[:, step - 1].mean():.1e}" for step in shown),
                f"{np.median(late):.1e}",
                f"{late.max():.1e}",
                f"{np.median(rates):.0f}",
            )
        )
    report.table(
        "Norm of a step in training, mean over seeds; of the second half, median and largest",
        [
            "optimizer",
            *(f"step {step:,}" for step in shown),
            "median",
            "largest",
            "1 / root at the end, median",
        ],
        rows,
    )


def compare_with_torch(report: Report, curves: dict[str, Array]) -> None:
    """Print the differences from torch, seed by seed."""
    measures: dict[str, Callable[[Array], Array]] = {
        "at the end": lambda curve: curve[:, -1],
        "mean of the training": lambda curve: curve.mean(axis=1),
    }
    rows = []
    for name in [name for name in curves if name != TORCH]:
        differences = [
            over_seeds(measure(curves[name]) - measure(curves[TORCH]))
            for measure in measures.values()
        ]
        rows.append((name, *(f"{each} {verdict(each)}" for each in differences)))
    report.table("Return minus torch's, same seeds", ["optimizer", *measures], rows)


def verdict(difference: Mean) -> str:
    """Say whether an interval excludes 0."""
    if difference.low > 0.0:
        return "higher"
    return "lower" if difference.high < 0.0 else "undecided"


def draw(
    report: Report,
    scale: Scale,
    curves: dict[str, Array],
    first: dict[str, Array],
    trainings: dict[str, list[Training]],
) -> None:
    """Draw the returns, those at the end by seed, and the norms of the steps."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(14, 4.6), width_ratios=(1.15, 0.85, 1)
    )
    figure.suptitle(f"A2C on CartPole: RMSprop as in torch and as in TF1, {scale.seeds} seeds")
    draw_returns(left, scale.grid, curves)
    draw_ends(middle, curves)
    draw_norms(right, first, trainings)
    report.save(figure, "a2c_cartpole.png")


def draw_returns(axes: Axes, grid: Array, curves: dict[str, Array]) -> None:
    """Draw the mean over seeds, with the intervals of the two conventions."""
    for name, curve in curves.items():
        of_seeds = over_seeds(curve)
        halfway = name not in (TORCH, TF1)
        axes.plot(
            grid / 1e3,
            of_seeds.mean,
            "--" if halfway else "-",
            color=COLOURS[name],
            label=name,
            lw=1.2 if halfway else 1.8,
        )
        if not halfway:
            axes.fill_between(
                grid / 1e3, of_seeds.low, of_seeds.high, color=COLOURS[name], alpha=0.18, lw=0
            )
    axes.axhline(SOLVED, color=TARGET, ls=":", lw=1.2)
    axes.set(
        title="Return: mean over seeds, 95 % intervals",
        xlabel="environment steps (thousands)",
        ylabel="mean of the last 100 episodes",
        ylim=(0, 1.03 * TIME_LIMIT),
    )
    axes.legend(loc="lower right")


def draw_ends(axes: Axes, curves: dict[str, Array]) -> None:
    """Draw each seed's return at the end, with the mean and its interval."""
    for place, (name, curve) in enumerate(curves.items()):
        end = curve[:, -1]
        beside = place + np.linspace(-0.22, 0.22, len(end) + 2)[1:-1]
        axes.plot(beside, end, "o", color=COLOURS[name], ms=4.5, alpha=0.65)
        mean, low, high = over_seeds(end)
        axes.plot([place - 0.3, place + 0.3], [mean, mean], color=COLOURS[name], lw=2.2)
        axes.fill_between(
            [place - 0.3, place + 0.3], low, high, color=COLOURS[name], alpha=0.18, lw=0
        )
    axes.axhline(SOLVED, color=TARGET, ls=":", lw=1.2)
    axes.set(
        title="At the end, by seed",
        ylabel="mean of the last 100 episodes",
        ylim=(0, 1.03 * TIME_LIMIT),
    )
    axes.set_xticks(range(len(curves)), [textwrap.fill(name, 14) for name in curves], fontsize=8)
    axes.grid(visible=False, axis="x")


def draw_norms(axes: Axes, first: dict[str, Array], trainings: dict[str, list[Training]]) -> None:
    """Draw the norms of the steps of the two conventions."""
    for name in (TORCH, TF1):
        steps = np.arange(1, len(first[name]) + 1)
        axes.plot(steps, first[name], color=COLOURS[name], label=f"{name}, same gradients")
        norms = np.mean([training.norms for training in trainings[name]], axis=0)
        # Averages over spans of equal length on the logarithmic axis.
        edges = np.unique(np.geomspace(1, len(norms) + 1, 60).astype(int))
        spans = list(itertools.pairwise(edges))
        centres = [np.sqrt(low * (high - 1)) for low, high in spans]
        means = [norms[low - 1 : high - 1].mean() for low, high in spans]
        axes.plot(centres, means, ":", color=COLOURS[name], lw=1.5, label=f"{name}, in training")
    axes.set(
        title="Length of the steps",
        xlabel="step of the optimizer",
        ylabel="norm of the change of all weights",
        xscale="log",
        yscale="log",
        ylim=(2e-4, 8.0),  # Leaves room for the legend.
    )
    axes.legend(loc="upper right")


if __name__ == "__main__":
    run(main, __doc__)
