"""The table that the README quotes, from a run's results.

    python -m benchmarks.summary benchmarks/published/results.json

A cell is the median time of ours and how many times faster that is than the peer's; below 1 the
peer wins. Where memory is compared it is ours, and how much more than the peer's that is.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import limit
from benchmarks.results import MORE, OURS, Record

# What is published with the repository.
PUBLISHED = Path(__file__).parent / "published" / "results.json"

# Stands for what differs from column to column.
EACH = ""


class Line(NamedTuple):
    """A line of a table: where its cells come from.

    One of the five that name a record is `EACH`: the column says which.
    """

    title: str
    backend: str
    suite: str
    mode: str
    config: str
    peer: str
    case: str = EACH

    def record_of(self, column: str) -> tuple[str, str, str, str, str]:
        """Return what names the record of a cell."""

        def filled(part: str) -> str:
            return column if part == EACH else part

        return (
            filled(self.backend),
            filled(self.suite),
            filled(self.mode),
            filled(self.config),
            filled(self.case),
        )


class Table(NamedTuple):
    """A table with a column for each case, or for each backend."""

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

_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
_LIVED = {
    "another half of 24 gradients at every step": ("eager", "missing gradients", "24"),
    "memory left by 64 such steps": ("eager", "missing gradients left", "24"),
    "24 tensors of 32², busy neighbours": ("eager", "busy", "24"),
    "160 tensors of 32², busy neighbours": ("eager", "busy", "160"),
    "25 optimizers one after the other": ("eager", "search", "24"),
    "memory left by the last 24 of them": ("eager", "search left", "24"),
    "the first 30 steps of 500 tensors": ("eager", "first 30 steps", "500"),
    "the first batch of `fit`, MLP": ("fit", "first batch", "mlp"),
    "the first batch of `fit`, ResNet": ("fit", "first batch", "resnet"),
    "the first batch of `fit`, LSTM": ("fit", "first batch", "lstm"),
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
    Table(
        "where a loop is not quiet and regular, against Keras's",
        _BACKENDS,
        [
            Line(title, EACH, "cliffs", mode, config, "keras", case)
            for title, (mode, config, case) in _LIVED.items()
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
                *(_cell(found.get(line.record_of(column)), line.peer) for column in table.columns),
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
    """Ours with its unit, and how it compares with the peer's."""
    if record is None:
        return "-"
    ours = record.result.entries[OURS].figure
    compared = next((c for c in record.result.comparisons if c.peer == peer), None)
    if ours is None:
        return "-"
    cell = f"{_number(ours.median)} {record.result.unit}"
    if compared is None:
        return cell
    figure = _number(compared.figure.median)
    if compared.quantity == MORE:
        return (
            f"{cell}, {figure} more"
            if compared.figure.median >= 0
            else f"{cell}, {figure[1:]} less"
        )
    return f"{cell}, {figure}x"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.2g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the tables of a results file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("results", type=Path, nargs="?", default=PUBLISHED)
    print(markdown(read(parser.parse_args().results)))


if __name__ == "__main__":
    main()
