"""Compare slots in bfloat16 (`state_dtype`) with slots in float32: losses, memory and time.

    python -m benchmarks.low_precision                 about ten minutes
    python -m benchmarks.low_precision --quick         two minutes, as a smoke test

Three parts, printed and written to the folder given by --output, with a picture of the second:

Roundings. The mean of 100,000 roundings of a number, relative to it, for 500 numbers.

Trainings, on JAX, of four models: the two spirals, the price of diamonds, the prices of items in
baskets (these three as in examples/, with fewer items) and digits (scikit-learn's, by a network of
one hidden layer). Each is trained from five seeds, which give the initial weights and the order of
the batches, with slots in float32, in bfloat16 as the package rounds them, and in bfloat16 rounded
to the nearest number. The table has the mean of the final losses and their standard deviation over
seeds, and the difference from float32 in units of that deviation: below 1, the choice of the dtype
matters less than that of the seed.

Costs, on each backend: the bytes that the optimizer's variables hold per parameter, and the
milliseconds of an eager step, the least of several in turns.

A published run is in benchmarks/published.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# The backend of the trainings. JAX runs a whole training as one program.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
from keras import ops
from numpy.typing import NDArray

from benchmarks.results import BACKENDS
from keras_rmsprop import RMSprop
from keras_rmsprop._math import _rounding
from keras_rmsprop.reference import to_bfloat16

Array = NDArray[Any]
Row = dict[str, Any]

OUTPUT = Path(__file__).parent / "output"
FLOAT32, STOCHASTIC, NEAREST = "float32", "bfloat16", "bfloat16, nearest"
COLOURS = {FLOAT32: "#0072B2", STOCHASTIC: "#009E73", NEAREST: "#D55E00"}
SEEDS = 5

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "rho 0.9": {"rho": 0.9},
    "rho 0.999": {"rho": 0.999, "bias_correction": True},
    "rho 0.999, momentum 0.9, centered": {
        "rho": 0.999,
        "momentum": 0.9,
        "centered": True,
        "epsilon": 1e-4,
    },
}

# What the costs are measured with: names, shapes and options.
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "4096 x 4096": [(4096, 4096)],
    "160 tensors": [(256,), (256, 256)] * 80,
}
COSTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "centered, momentum": {"centered": True, "momentum": 0.9},
}


class Problem(NamedTuple):
    """A model to train."""

    # The initial weights of a seed.
    start: Callable[[np.random.Generator], list[Array]]
    # (weights, inputs, targets) -> the mean loss.
    loss: Callable[[list[Any], Any, Any], Any]
    inputs: Array
    targets: Array
    # The number of examples in a batch, None for all; the number of steps.
    batch: int | None
    steps: int
    learning_rate: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.low_precision", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few steps, few repetitions")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the results")
    parser.add_argument("--costs", action="store_true", help="only those on one backend")
    options = parser.parse_args(arguments)
    if options.costs:
        print(json.dumps(list(costs(quick=options.quick))))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    parts = [
        roundings(50 if options.quick else 500),
        *trainings(options.output, quick=options.quick),
        costs_of_all(quick=options.quick),
    ]
    text = "\n\n".join(parts)
    (options.output / "low_precision.txt").write_text(text + "\n")
    print(text)


def roundings(numbers: int, count: int = 100_000) -> str:
    """Return how far the means of many roundings are from the numbers, in words."""
    values = np.exp(np.random.default_rng(0).uniform(-80.0, 80.0, numbers)).astype(np.float32)
    off = np.array(
        [
            to_bfloat16(np.full(count, value), step=1 + i, weight=i, kind=0).mean() / float(value)
            for i, value in enumerate(values)
        ]
    )
    off = np.abs(off - 1.0)
    return (
        f"The mean of {count:,} roundings, of {numbers} numbers: off by {np.median(off):.1e} in "
        f"the median and {off.max():.1e} at most, relative; {np.mean(off < 3e-5):.1%} within 3e-5."
    )


# Trainings.


def problems() -> dict[str, Problem]:
    """Return the models to train, by name."""
    return {"spirals": spirals(), "diamonds": diamonds(), "baskets": baskets(), "digits": digits()}


def spirals() -> Problem:
    """Two arms of less than one turn, and a 2-10-1 network, as in examples/spiral.py."""
    radius = np.tile(np.linspace(0.05, 1.0, 150), 2)
    arm = np.repeat([0.0, 1.0], 150)
    noise = np.random.default_rng(42).normal(0.0, 0.15, 300)
    angle = 4.0 * radius + np.pi * arm + noise
    points = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        score = _network(weights, x)[:, 0]
        # The cross-entropy of a logit.
        return ops.mean(ops.softplus(score) - y * score)

    return Problem(
        lambda rng: _glorot(rng, 2, 10, 1), loss, _wide(points), _wide(arm), None, 3000, 0.001
    )


def diamonds() -> Problem:
    """The line from carat to price, standardised, as in examples/diamonds.py."""
    path = _diamonds_csv()
    table = pd.read_csv(path, usecols=["carat", "price"]).to_numpy(np.float64)
    carat, price = ((table - table.mean(axis=0)) / table.std(axis=0)).T

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        return ops.mean(ops.square(weights[0] * x + weights[1] - y))

    return Problem(
        lambda rng: [_wide(rng.normal(size=1)), _wide(rng.normal(size=1))],
        loss,
        _wide(carat),
        _wide(price),
        512,
        4000,
        0.001,
    )


def _diamonds_csv() -> Path:
    from importlib import metadata

    return Path(str(metadata.distribution("plotnine").locate_file("plotnine/data/diamonds.csv")))


def baskets(vocabulary: int = 2000, width: int = 64, items: int = 4) -> Problem:
    """Learn prices from the mean price of baskets, as in examples/embeddings.py."""
    rng = np.random.default_rng(0)
    # Zipf's law: the k-th item is 1 / k times as frequent as the first.
    draws = (vocabulary + 1.0) ** rng.random((40_000, items)) - 1.0
    ids = np.minimum(draws, vocabulary - 1).astype(np.int32)
    prices = rng.standard_normal(vocabulary)[ids].mean(axis=1)

    def start(rng: np.random.Generator) -> list[Array]:
        table = rng.uniform(-0.05, 0.05, (vocabulary, width))
        limit = np.sqrt(6.0 / (width + 1))
        return [_wide(table), _wide(rng.uniform(-limit, limit, (width, 1))), np.zeros(1, "float32")]

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        table, kernel, bias = weights
        mean = ops.mean(ops.take(table, x, axis=0), axis=1)
        return ops.mean(ops.square((mean @ kernel + bias)[:, 0] - y))

    return Problem(start, loss, ids, _wide(prices), 256, 1000, 0.01)


def digits() -> Problem:
    """Images of 8 x 8 pixels, and a 64-64-10 network."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)

    def loss(weights: list[Any], x: Any, y: Any) -> Any:
        scores = _network(weights, x)
        return ops.mean(ops.logsumexp(scores, axis=1) - ops.sum(scores * y, axis=1))

    return Problem(
        lambda rng: _glorot(rng, 64, 64, 10),
        loss,
        _wide(images / 16.0),
        np.eye(10, dtype="float32")[labels],
        64,
        1500,
        0.0003,
    )


def _wide(array: Array) -> Array:
    return np.asarray(array, np.float32)


def _glorot(rng: np.random.Generator, *widths: int) -> list[Array]:
    """Return kernels and biases of dense layers, initialized as Keras does."""
    weights = []
    for rows, columns in itertools.pairwise(widths):
        limit = np.sqrt(6.0 / (rows + columns))
        weights += [_wide(rng.uniform(-limit, limit, (rows, columns))), np.zeros(columns, "f4")]
    return weights


def _network(weights: list[Any], x: Any) -> Any:
    """Return the output of a network with one hidden layer of ReLUs."""
    kernel, bias, output, output_bias = weights
    return ops.relu(x @ kernel + bias) @ output + output_bias


def trainings(output: Path, *, quick: bool) -> Iterator[str]:
    """Train everything, draw it, and yield the table."""
    rows: list[Row] = []
    curves: dict[tuple[str, str, str], Array] = {}
    for name, problem in problems().items():
        if quick:
            problem = problem._replace(steps=problem.steps // 20)
        for configuration, options in CONFIGURATIONS.items():
            final = {}
            for contender in COLOURS:
                losses, final[contender] = train(problem, contender, options)
                curves[name, configuration, contender] = losses
            spread = final[FLOAT32].std(ddof=1)
            for contender, values in final.items():
                difference = values.mean() - final[FLOAT32].mean()
                rows.append(
                    {
                        "model": name,
                        "options": configuration,
                        "slots": contender,
                        "loss": f"{values.mean():.6g}",
                        "deviation": f"{values.std(ddof=1):.2g}",
                        "off by": "" if contender == FLOAT32 else f"{difference / spread:+.2f}",
                    }
                )
    draw(curves, output / "low_precision.png")
    yield pd.DataFrame(rows).to_string(index=False)


def train(problem: Problem, contender: str, options: dict[str, Any]) -> tuple[Array, Array]:
    """Train from all seeds; return the losses of the steps, (seeds, steps), and the final ones."""
    import jax

    generators = [np.random.default_rng(seed) for seed in range(SEEDS)]
    starts = [problem.start(rng) for rng in generators]
    count = len(problem.inputs)
    batch = problem.batch or count
    orders = np.stack([_order(rng, count, batch, problem.steps) for rng in generators])
    variables = [keras.Variable(value) for value in starts[0]]
    optimizer = RMSprop(
        problem.learning_rate, state_dtype=None if contender == FLOAT32 else "bfloat16", **options
    )
    optimizer.build(variables)
    x, y = jax.numpy.asarray(problem.inputs), jax.numpy.asarray(problem.targets)

    def one(start: list[Any], order: Any) -> tuple[Any, Any]:
        def step(carry: Any, rows: Any) -> tuple[Any, Any]:
            weights, state = carry
            loss, gradients = jax.value_and_grad(problem.loss)(weights, x[rows], y[rows])
            weights, state = optimizer.stateless_apply(state, gradients, weights)
            return (weights, state), loss

        state = [v.value for v in optimizer.variables]
        (weights, _), losses = jax.lax.scan(step, (start, state), order)
        return losses, problem.loss(weights, x, y)

    original = _rounding.rounded
    if contender == NEAREST:
        _rounding.rounded = lambda x, _: ops.cast(x, "bfloat16")
    try:
        together = [jax.numpy.stack(column) for column in zip(*starts, strict=True)]
        losses, final = jax.jit(jax.vmap(one))(together, orders)
    finally:
        _rounding.rounded = original
    return np.asarray(losses), np.asarray(final, np.float64)


def _order(rng: np.random.Generator, count: int, batch: int, steps: int) -> Array:
    """Return the examples of each batch, (steps, batch), reshuffled in each epoch."""
    if batch == count:
        return np.tile(np.arange(count, dtype=np.int32), (steps, 1))
    per_epoch = count // batch
    epochs = -(-steps // per_epoch)
    orders = [rng.permutation(count)[: per_epoch * batch] for _ in range(epochs)]
    return np.concatenate(orders).reshape(-1, batch)[:steps].astype(np.int32)


def draw(curves: dict[tuple[str, str, str], Array], path: Path) -> None:
    """Draw the losses of all trainings: the mean over seeds, and the range."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for name, _, _ in curves))
    figure, axes = plt.subplots(
        len(names), len(CONFIGURATIONS), figsize=(15, 3.4 * len(names)), squeeze=False
    )
    for (name, configuration, contender), losses in curves.items():
        ax = axes[names.index(name)][list(CONFIGURATIONS).index(configuration)]
        window = max(1, losses.shape[1] // 60)
        usable = losses.shape[1] // window * window
        smooth = losses[:, :usable].reshape(len(losses), -1, window).mean(axis=2)
        steps = (np.arange(smooth.shape[1]) + 0.5) * window
        style = "--" if contender == STOCHASTIC else "-"
        ax.plot(steps, smooth.mean(axis=0), style, color=COLOURS[contender], label=contender)
        ax.fill_between(
            steps, smooth.min(axis=0), smooth.max(axis=0), color=COLOURS[contender], alpha=0.15
        )
        ax.set(yscale="log", title=f"{name}, {configuration}")
        ax.grid(alpha=0.25)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    for row in axes:
        row[0].set_ylabel("loss")
    axes[0][0].legend(title="slots in")
    figure.suptitle("Loss: mean and range over five seeds")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


# Costs.


def costs_of_all(*, quick: bool) -> str:
    """Return the table of costs, with each backend measured in its own process."""
    rows: list[Row] = []
    for backend in BACKENDS:
        command = [sys.executable, "-m", "benchmarks.low_precision", "--costs"]
        environment = os.environ | {"KERAS_BACKEND": backend}
        done = subprocess.run(
            command + ["--quick"] * quick,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows += [{"backend": backend} | row for row in json.loads(done.stdout)]
    return pd.DataFrame(rows).to_string(index=False)


def costs(*, quick: bool) -> Iterator[Row]:
    """Yield the costs on the active backend."""
    rng = np.random.default_rng(0)
    for case, shapes in SHAPES.items():
        if quick:
            shapes = [tuple(max(1, n // 8) for n in shape) for shape in shapes]
        gradients = [ops.convert_to_tensor(_wide(rng.standard_normal(s))) for s in shapes]
        for name, options in COSTS.items():
            both = {dtype: _contender(shapes, dtype, options) for dtype in (None, "bfloat16")}
            seconds: dict[Any, list[float]] = {dtype: [] for dtype in both}
            for repetition in range(5 if quick else 33):
                for dtype, (optimizer, variables) in both.items():
                    start = time.perf_counter()
                    optimizer.apply(gradients, variables)
                    # JAX and accelerators return before the step is complete.
                    for variable in variables[-1:]:
                        np.asarray(ops.convert_to_numpy(ops.ravel(variable.value)[:1]))
                    if repetition >= 3:
                        seconds[dtype].append(time.perf_counter() - start)
            wide, narrow = (1000 * min(seconds[dtype]) for dtype in both)
            held = [f"{_bytes_per_parameter(optimizer):.2f}" for optimizer, _ in both.values()]
            yield {
                "tensors": case,
                "options": name,
                "bytes, float32": held[0],
                "bytes, bfloat16": held[1],
                "ms, float32": f"{wide:.1f}",
                "ms, bfloat16": f"{narrow:.1f}",
                "ratio": f"{narrow / wide:.2f}",
            }


def _contender(
    shapes: list[tuple[int, ...]], dtype: Any, options: dict[str, Any]
) -> tuple[RMSprop, list[keras.Variable]]:
    variables = [keras.Variable(np.zeros(shape, np.float32)) for shape in shapes]
    optimizer = RMSprop(state_dtype=dtype, **options)
    optimizer.build(variables)
    return optimizer, variables


def _bytes_per_parameter(optimizer: RMSprop) -> float:
    """Return the bytes of the optimizer's variables over the number of parameters."""
    sizes = {"bfloat16": 2, "float32": 4, "int32": 4, "int64": 8}
    held = sum(int(np.prod(v.shape)) * sizes[v.dtype] for v in optimizer.variables)
    return held / sum(int(np.prod(v.shape)) for v in optimizer._trainable_variables)


if __name__ == "__main__":
    main()
