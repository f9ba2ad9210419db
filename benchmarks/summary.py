"""The table that the README quotes, from a run's results.

    python -m benchmarks.summary benchmarks/published/results.json

A cell is the median time of ours and how many times faster that is than the peer's; below 1 the
peer wins.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import limit
from benchmarks.results import OURS, Record

# What is published with the repository.
PUBLISHED = Path(__file__).parent / "published" / "results.json"


class Line(NamedTuple):
    """A line of a table: where its cells come from."""

    title: str
    backend: str
    suite: str
    mode: str
    config: str
    peer: str


class Table(NamedTuple):
    """A table with a column for each case."""

    corner: str
    columns: dict[str, str]
    lines: Sequence[Line]


def _eager(name: str, backend: str) -> list[Line]:
    """The lines of a backend's eager steps, one for each set of options."""
    titles = {
        "plain": f"{name}, eager",
        "clipnorm+decay": "with clipnorm, weight decay",
        "global_clipnorm+ema": "with global clipnorm, EMA",
    }
    return [
        Line(title, backend, "steps", "eager", config, "keras") for config, title in titles.items()
    ]


_STEPS = {
    "scalar": "one scalar",
    "mlp": "6 tensors",
    "conv160": "160 tensors",
    "matrix": "one 4096²",
}
_MODELS = {"mlp": "MLP", "resnet": "ResNet", "lstm": "LSTM"}
_TABLES = {
    "10,000": "10,000 rows",
    "100,000": "100,000",
    "1,000,000": "1,000,000",
    "4,000,000": "4,000,000",
}

TABLES = (
    Table(
        "one step, against `keras.optimizers.RMSprop`",
        _STEPS,
        [
            *_eager("TensorFlow", "tensorflow"),
            Line("TensorFlow, `tf.function`", "tensorflow", "steps", "graph", "plain", "keras"),
            Line("TensorFlow, XLA", "tensorflow", "steps", "xla", "plain", "keras"),
            *_eager("JAX", "jax"),
            Line("JAX, `jax.jit`", "jax", "steps", "jit", "plain", "keras"),
            *_eager("torch", "torch"),
        ],
    ),
    Table(
        "one step, against others",
        _STEPS,
        [
            Line(
                "TensorFlow, eager / tf_keras", "tensorflow", "steps", "eager", "plain", "tf_keras"
            ),
            Line(
                "TensorFlow, eager / a fused C loop",
                "tensorflow",
                "steps",
                "eager",
                "plain",
                limit.NAME,
            ),
            Line("JAX, eager / optax under `jit`", "jax", "steps", "eager", "plain", "optax jit"),
            Line("JAX, `jax.jit` / optax", "jax", "steps", "jit", "plain", "optax jit"),
            Line(
                "torch / torch.optim, foreach", "torch", "steps", "eager", "plain", "torch foreach"
            ),
            Line(
                "torch / torch.optim, compiled",
                "torch",
                "steps",
                "eager",
                "plain",
                "torch compiled",
            ),
        ],
    ),
    Table(
        "a step of `fit`, against Keras's",
        _MODELS,
        [
            Line(title, backend, "training", "fit", "plain", "keras")
            for title, backend in (("TensorFlow", "tensorflow"), ("JAX", "jax"), ("torch", "torch"))
        ],
    ),
    Table(
        "embedding 64 wide, 1,024 ids, `lazy=True`, against Keras's",
        _TABLES,
        [
            Line(title, "tensorflow", "embeddings", mode, "1,024 ids", "keras")
            for title, mode in (("eager", "eager"), ("`tf.function`", "graph"), ("XLA", "xla"))
        ],
    ),
)


def markdown(records: Iterable[Record]) -> str:
    """Return the tables as the README has them."""
    found = {(r.backend, r.suite, r.mode, r.config, r.case): r for r in records}
    blocks = []
    for table in TABLES:
        rows = [
            [
                line.title,
                *(_cell(found.get((*line[1:5], case)), line.peer) for case in table.columns),
            ]
            for line in table.lines
        ]
        head = [table.corner, *table.columns.values()]
        blocks.append("\n".join(map(_row, [head, ["---"] * len(head), *rows])))
    return "\n\n".join(blocks)


def read(path: Path) -> list[Record]:
    """Read the records of a results file."""
    return [Record.from_json(record) for record in json.loads(path.read_text())["records"]]


def _cell(record: Record | None, peer: str) -> str:
    """Ours in milliseconds and its ratio to the peer's."""
    if record is None:
        return "-"
    ours = record.result.entries[OURS].figure
    ratio = next((c.figure for c in record.result.comparisons if c.peer == peer), None)
    if ours is None:
        return "-"
    if ratio is None:
        return f"{_number(ours.median)} ms"
    return f"{_number(ours.median)} ms, {_number(ratio.median)}x"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables of a results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("results", type=Path, nargs="?", default=PUBLISHED)
    print(markdown(read(parser.parse_args().results)))


if __name__ == "__main__":
    main()
