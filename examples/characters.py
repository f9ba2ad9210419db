"""Train an LSTM on this package's documents, character by character, and watch its optimizer.

The text is README.md and docs/*.md; the last tenth of it is held out. The network is an embedding,
an LSTM, and a ReLU layer whose output is added to that of the LSTM before the logits. What the
optimizer does to its weights is written down every few steps:

    characters/<fault>/diagnostics.html     a page with charts, for any browser
    characters/<fault>/diagnostics.csv      the same numbers, a row for each step and variable
    characters/<fault>/tensorboard/         tensorboard --logdir characters/<fault>/tensorboard

`--fault` plants a fault, to see how it shows: `rate` makes the learning rate 100 times as large,
and `dead-layer` starts the ReLU layer with such negative biases that all of its units are off, for
any input, and no gradient comes through. The page and the explanation must name it, and must raise
no warning without a fault.

A published run is in `published/`: `characters.txt`, and the top of the page of `--fault
dead-layer`, X
"""

import html
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _common import Array, Report, run
from numpy.typing import NDArray

from keras_rmsprop import Diagnostics, RMSprop, plots
from keras_rmsprop.callbacks import OptimizerDiagnostics

Ids = NDArray[np.int32]

HEALTHY, RATE, DEAD_LAYER = "none", "rate", "dead-layer"
# The ailment that each fault is, and the variables that have it; none if they may be any.
AILMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    RATE: ("too large updates", ()),
    DEAD_LAYER: ("dead gradients", ("hidden/kernel", "hidden/bias")),
}

# Characters that are rarer are one character of their own.
RAREST = 10
LEARNING_RATE, TIMES_TOO_LARGE, VERY_NEGATIVE = 0.002, 100.0, -20.0
BATCH = 32


class Scale(NamedTuple):
    """How large a run is."""

    # Units of the LSTM and of the ReLU layer.
    width: int
    # Characters of a window.
    length: int
    # Windows to train with, None for all.
    windows: int | None
    epochs: int
    # A step is sampled every so many.
    every: int


FULL = Scale(width=128, length=64, windows=None, epochs=24, every=10)
QUICK = Scale(width=32, length=16, windows=30 * BATCH, epochs=2, every=3)


class Text(NamedTuple):
    """A text as numbers below `alphabet`; the part to train with comes first."""

    ids: Ids
    alphabet: int

    @property
    def trained(self) -> int:
        """The number of characters to train with."""
        return len(self.ids) * 9 // 10

    def bits_by_pairs(self) -> float:
        """Return the bits per held-out character if only the one before it is known.

        The frequencies are those of pairs in the other part, with one more of each (Laplace).
        """
        counts = np.ones((self.alphabet, self.alphabet))
        np.add.at(counts, (self.ids[: self.trained - 1], self.ids[1 : self.trained]), 1.0)
        shares = counts / counts.sum(axis=1, keepdims=True)
        held_out = self.ids[self.trained :]
        return float(-np.log2(shares[held_out[:-1], held_out[1:]]).mean())


class Bits(NamedTuple):
    """The bits per character after each epoch."""

    trained: Array
    held_out: Array


def read_documents() -> Text:
    """Read the documents, one after the other."""
    root = Path(__file__).resolve().parents[1]
    paths = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    _, places, counts = np.unique(list(text), return_inverse=True, return_counts=True)
    frequent = counts >= RAREST
    numbers = np.where(frequent, np.cumsum(frequent), 0)
    return Text(numbers[places].astype(np.int32), int(frequent.sum()) + 1)


def windows(ids: Ids, scale: Scale) -> tuple[Ids, Ids]:
    """Return windows of a text and, for each of their characters, the one that follows."""
    count = (len(ids) - 1) // scale.length
    shape, size = (count, scale.length), count * scale.length
    x, y = ids[:size].reshape(shape), ids[1 : size + 1].reshape(shape)
    return x[: scale.windows], y[: scale.windows]


def make_model(alphabet: int, scale: Scale, fault: str) -> keras.Model:
    """Return an LSTM over characters, with the fault in it if it is the dead layer."""
    bias = VERY_NEGATIVE if fault == DEAD_LAYER else 0.0
    ids = keras.Input((scale.length,), dtype="int32")
    embedded = keras.layers.Embedding(alphabet, 32, name="embedding")(ids)
    remembered = keras.layers.LSTM(scale.width, return_sequences=True, name="lstm")(embedded)
    hidden = keras.layers.Dense(
        scale.width,
        activation="relu",
        bias_initializer=keras.initializers.Constant(bias),
        name="hidden",
    )(remembered)
    logits = keras.layers.Dense(alphabet, name="logits")(keras.layers.add([remembered, hidden]))
    return keras.Model(ids, logits, name="characters")


def main(report: Report, fault: str) -> None:
    """Train, say what the optimizer did, and check that the fault is named."""
    keras.utils.set_random_seed(0)
    # What the callback would log is printed at the end.
    logging.getLogger("keras_rmsprop.callbacks").addHandler(logging.NullHandler())
    text = read_documents()
    report.say(f"{len(text.ids):,} characters, {text.alphabet} different; fault: {fault}")

    scale = QUICK if report.quick else FULL
    model = make_model(text.alphabet, scale, fault)
    optimizer = RMSprop(
        LEARNING_RATE * (TIMES_TOO_LARGE if fault == RATE else 1.0),
        diagnostics=Diagnostics(every=scale.every, histograms=True),
    )
    folder = report.new_folder(f"characters/{fault}")
    diagnostics = OptimizerDiagnostics(
        tensorboard=folder / "tensorboard",
        csv=folder / "diagnostics.csv",
        html=folder / "diagnostics.html",
        variables=".*",
    )
    bits = train(report, scale, text, model, optimizer, diagnostics)
    report.say("")
    explanation = optimizer.explain()
    report.say(str(explanation))
    report.say("")
    check_learning(report, bits, text, fault)
    check_findings(report, explanation, fault)
    check_files(report, folder, explanation)
    report.save(plots.update_ratios(diagnostics.history), f"characters_{fault}.png")


def train(
    report: Report,
    scale: Scale,
    text: Text,
    model: keras.Model,
    optimizer: RMSprop,
    diagnostics: OptimizerDiagnostics,
) -> Bits:
    """Train, with a table of the losses."""
    x, y = windows(text.ids[: text.trained], scale)
    epochs = scale.epochs
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss)
    with report.progress("training", epochs) as advance:
        history = model.fit(
            x,
            y,
            BATCH,
            epochs,
            verbose=0,
            validation_data=windows(text.ids[text.trained :], scale),
            callbacks=[
                diagnostics,
                keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: advance()),
            ],
        ).history
    bits = Bits(*(np.array(history[name]) / np.log(2.0) for name in ("loss", "val_loss")))
    shown = sorted({0, epochs // 4, epochs // 2, epochs - 1})
    report.table(
        "Bits per character",
        ["epoch", "trained", "held out"],
        [(i + 1, f"{bits.trained[i]:.2f}", f"{bits.held_out[i]:.2f}") for i in shown],
    )
    return bits


def check_learning(report: Report, bits: Bits, text: Text, fault: str) -> None:
    """Check that a healthy network learns what its size and the time allow."""
    if fault != HEALTHY:
        return
    first, last = bits.trained[0], bits.trained[-1]
    report.check("the loss falls", bool(last < first), f"{first:.2f} bits, later {last:.2f}")
    if not report.quick:
        pairs, held_out = text.bits_by_pairs(), bits.held_out[-1]
        report.check(
            "held-out characters need fewer bits than if only the one before is known",
            bool(held_out < pairs),
            f"{held_out:.2f} and {pairs:.2f}",
        )


def check_findings(report: Report, findings: Sequence[Any], fault: str) -> None:
    """Check that the fault is named, or that without one nothing is."""
    warnings = {each.ailment: each.variables for each in findings if each.severity == "warning"}
    named = ", ".join(warnings) or "none"
    if fault == HEALTHY:
        report.check("no warning is raised", not warnings, named)
        return
    ailment, variables = AILMENTS[fault]
    where = f" of {' and '.join(variables)}" if variables else ""
    report.check(
        f'the first warning is "{ailment}"{where}',
        next(iter(warnings), None) == ailment
        and (not variables or set(warnings[ailment]) == set(variables)),
        named,
    )


def check_files(report: Report, folder: Path, findings: Sequence[Any]) -> None:
    """Check that the page says what the explanation says, and name the files."""
    page = (folder / "diagnostics.html").read_text(encoding="utf-8")
    said = all(html.escape(each.evidence) in page for each in findings)
    report.check("the page gives the evidence of each finding", said)
    report.say(f"page    {folder / 'diagnostics.html'}")
    report.say(f"table   {folder / 'diagnostics.csv'}")
    report.say(f"events  {folder / 'tensorboard'}")


if __name__ == "__main__":
    run(main, __doc__, fault=(HEALTHY, RATE, DEAD_LAYER))
