"""Print the README's tables from the results of a run.

    python -m benchmarks.summary benchmarks/published/results.json

A cell gives our median time and our speed relative to the peer's; below 1 the peer is faster. For
memory it gives ours, and how much more that is than the peer's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import BARE, MORE, OURS, Line, read, row_of

# The results published in the repository.
PUBLISHED = Path(__file__).parent / "published" / "results.json"


class Row(NamedTuple):
    """A line of a table: the names of its cells' rows, with `*` in place of the column."""

    title: str
    names: str
    peer: str = "keras"


_STEPS = {"scalar": "one scalar", "mlp": "6 tensors", "conv160": "160 tensors"}
_STEPS["matrix"] = "one 4096²"
_SIZES = {"10,000": "10,000 rows"} | {n: n for n in ("100,000", "1,000,000", "4,000,000")}
_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
_LOOP = "fused C loop"
_OVERHEAD = {backend: f"{backend}/overhead/eager/plain/*" for backend in _BACKENDS}

# For each table its corner cell, its columns and its lines.
TABLES: tuple[tuple[str, dict[str, str], list[Row]], ...] = (
    (
        "one step, against `keras.optimizers.RMSprop`",
        _STEPS,
        [
            Row("TensorFlow, eager", "tensorflow/steps/eager/plain/*"),
            Row("with clipnorm, weight decay", "tensorflow/steps/eager/clipnorm+decay/*"),
            Row("with global clipnorm, EMA", "tensorflow/steps/eager/global_clipnorm+ema/*"),
            Row("TensorFlow, `tf.function`", "tensorflow/steps/graph/plain/*"),
            Row("TensorFlow, XLA", "tensorflow/steps/xla/plain/*"),
            Row("JAX, eager", "jax/steps/eager/plain/*"),
            Row("with clipnorm, weight decay", "jax/steps/eager/clipnorm+decay/*"),
            Row("with global clipnorm, EMA", "jax/steps/eager/global_clipnorm+ema/*"),
            Row("JAX, `jax.jit`", "jax/steps/jit/plain/*"),
            Row("torch, eager", "torch/steps/eager/plain/*"),
            Row("with clipnorm, weight decay", "torch/steps/eager/clipnorm+decay/*"),
            Row("with global clipnorm, EMA", "torch/steps/eager/global_clipnorm+ema/*"),
        ],
    ),
    (
        "one step, against others",
        _STEPS,
        [
            Row("TensorFlow, eager / tf_keras", "tensorflow/steps/eager/plain/*", "tf_keras"),
            Row("TensorFlow, eager / a fused C loop", "tensorflow/steps/eager/plain/*", _LOOP),
            Row("JAX, eager / optax under `jit`", "jax/steps/eager/plain/*", "optax jit"),
            Row("JAX, `jax.jit` / optax", "jax/steps/jit/plain/*", "optax jit"),
            Row("torch / torch.optim, foreach", "torch/steps/eager/plain/*", "torch foreach"),
            Row("torch / torch.optim, compiled", "torch/steps/eager/plain/*", "torch compiled"),
            Row("both compiled", "torch/steps/compiled/plain/*", "torch compiled"),
        ],
    ),
    (
        "an eager step, against the bare call of what it runs",
        {"scalar": "one scalar", "mlp": "6 tensors", "conv160": "160 tensors", "1,000": "1,000"},
        [
            Row("TensorFlow / its concrete function", _OVERHEAD["tensorflow"], "concrete function"),
            Row("the same, called without any check", _OVERHEAD["tensorflow"], BARE),
            Row("TensorFlow / optax under `jit`", _OVERHEAD["tensorflow"], "jax.jit"),
            Row("JAX / its jitted function", _OVERHEAD["jax"], BARE),
            Row("JAX / optax under `jit`, not donated", _OVERHEAD["jax"], "optax jit, rebound"),
            Row("torch / the multi-tensor operations", _OVERHEAD["torch"], BARE),
        ],
    ),
    (
        "a step of `fit`, against Keras's",
        {"mlp": "MLP", "resnet": "ResNet", "lstm": "LSTM"},
        [Row(title, f"{backend}/training/fit/plain/*") for backend, title in _BACKENDS.items()],
    ),
    (
        "embedding 64 wide, 1,024 ids, `lazy=True`, against Keras's",
        _SIZES,
        [
            Row("eager", "tensorflow/embeddings/eager/1,024 ids/*"),
            Row("`tf.function`", "tensorflow/embeddings/graph/1,024 ids/*"),
            Row("XLA", "tensorflow/embeddings/xla/1,024 ids/*"),
            Row("training, `keras.layers.Embedding`", "tensorflow/embeddings/training/1,024 ids/*"),
            Row("the same, changing batches", "tensorflow/embeddings/training/700 to 1,100 ids/*"),
        ],
    ),
    (
        "where a loop is not quiet and regular, against Keras's",
        _BACKENDS,
        [
            Row(
                "another half of 24 gradients at every step", "*/cliffs/eager/missing gradients/24"
            ),
            Row("memory left by 64 such steps", "*/cliffs/eager/missing gradients left/24"),
            Row("24 tensors of 32², busy neighbours", "*/cliffs/eager/busy/24"),
            Row("160 tensors of 32², busy neighbours", "*/cliffs/eager/busy/160"),
            Row("25 optimizers one after the other", "*/cliffs/eager/search/24"),
            Row("memory left by the last 24 of them", "*/cliffs/eager/search left/24"),
            Row("the first 30 steps of 500 tensors", "*/cliffs/eager/first 30 steps/500"),
            Row("the first batch of `fit`, MLP", "*/cliffs/fit/first batch/mlp"),
            Row("the first batch of `fit`, ResNet", "*/cliffs/fit/first batch/resnet"),
            Row("the first batch of `fit`, LSTM", "*/cliffs/fit/first batch/lstm"),
        ],
    ),
)


def markdown(lines: Sequence[Line]) -> str:
    """Return the tables as they appear in the README."""
    found = {("/".join(row_of(line)), line["contender"]): line for line in lines}

    def cell(names: str, peer: str) -> str:
        """Format our figure with its unit, and the comparison with the peer's."""
        ours, theirs = found.get((names, OURS), {}), found.get((names, peer), {})
        if "median" not in ours:
            return "-"
        text = f"{_number(ours['median'])} {ours['unit']}"
        if "ratio" not in theirs:
            return text
        ratio = _number(abs(theirs["ratio"]))
        if theirs["quantity"] == MORE:
            return f"{text}, {ratio} {'more' if theirs['ratio'] >= 0 else 'less'}"
        return f"{text}, {ratio}x"

    blocks = []
    for corner, columns, lines_of_table in TABLES:
        rows = [[corner, *columns.values()], ["---"] * (1 + len(columns))]
        for title, names, peer in lines_of_table:
            cells = [cell(names.replace("*", column), peer) for column in columns]
            rows.append([title, *cells])
        blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(blocks)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def main() -> None:
    """Print the tables of a results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("results", type=Path, nargs="?", default=PUBLISHED)
    print(markdown(read(parser.parse_args().results)[1]))


if __name__ == "__main__":
    main()
