"""What the examples share: arguments, tables, progress bars, pictures and checked claims.

An example is a script with a `main(report)`, which `run` calls. It prints tables, checks claims and
saves pictures through the report; a claim that fails is printed as such and makes the script exit
with status 1.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import _quiet  # noqa: F401 - before Keras
import keras
import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from keras_rmsprop.reference import Reference

# float64, or float32 if Keras works in it.
Array = NDArray[np.floating[Any]]
Item = TypeVar("Item")

# One colour per role, from the colour-blind-safe palette of Okabe and Ito.
RMSPROP, PEER, OTHER, TARGET = "#0072B2", "#D55E00", "#009E73", "#555555"

# On a new machine matplotlib would log that it searches for fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
mpl.use("agg")
mpl.rcParams.update(
    {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.labelsize": 10,
        "axes.prop_cycle": cycler(color=[RMSPROP, PEER, OTHER, "#CC79A7", "#E69F00"]),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "figure.constrained_layout.use": True,
        "figure.titlesize": 13,
        "figure.titleweight": "bold",
        "grid.alpha": 0.25,
        "legend.fontsize": 9,
        "legend.framealpha": 0.9,
        "lines.linewidth": 1.8,
        "savefig.dpi": 150,
    }
)


class Report:
    """Prints an example's results and records failed claims.

    Attributes:
        quick: whether this is a short run, which need not reach the published figures.
        failures: the claims that failed.
    """

    def __init__(self, output: Path, quick: bool = False) -> None:
        self.quick = quick
        self.failures: list[str] = []
        self._output = output
        self._console = self._make_console()

    def _make_console(self) -> Console:
        return Console(highlight=False)

    def say(self, text: str) -> None:
        """Print a line of plain text."""
        self._console.print(Text(text), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table with the first column left-aligned and the others right-aligned."""
        table = Table()
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i else "left")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self._console.print(Text(f"\n{title}", "bold"), soft_wrap=True)
        self._console.print(table)

    def track(self, items: Sequence[Item], description: str) -> Iterator[Item]:
        """Iterate over `items` with a progress bar."""
        with self.progress(description, len(items)) as advance:
            for item in items:
                yield item
                advance()

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Callable[[], None]]:
        """Show a progress bar while the block runs; calling the target advances it by one.

        If the output is not a terminal, only the description is printed.
        """
        on_terminal = self._console.is_terminal
        if not on_terminal:
            self.say(f"{description} ...")
        with Progress(console=self._console, transient=True, disable=not on_terminal) as bar:
            task = bar.add_task(description, total=total)
            yield lambda: bar.advance(task)

    def check(self, claim: str, holds: bool, figures: str = "") -> None:
        """Print whether `claim` holds, with the figures that decide it."""
        if not holds:
            self.failures.append(claim)
        verdict = Text("ok      ", "green") if holds else Text("FAILED  ", "bold red")
        text = f"{claim} ({figures})" if figures else claim
        self._console.print(verdict + Text(text), soft_wrap=True)

    def check_close(self, claim: str, got: ArrayLike, want: ArrayLike, tolerance: float) -> None:
        """Check that no element differs by more than `tolerance`; NaN fails."""
        largest = float(np.max(np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))))
        figures = f"largest difference {largest:.1e}, allowed {tolerance:.0e}"
        self.check(claim, largest <= tolerance, figures)

    def compare(
        self,
        title: str,
        axis: str,
        labels: Sequence[object],
        quantities: Mapping[str, tuple[ArrayLike, ArrayLike]],
        tolerance: float,
        digits: int = 9,
    ) -> None:
        """Print our figures next to the published ones and check that they agree.

        Args:
            title: the title of the table.
            axis: the heading of the first column, which holds the labels.
            labels: one for each row.
            quantities: by name, our figures and the published ones, one of each per label.
            tolerance: the largest relative difference allowed.
            digits: how many digits to print; all are compared.
        """
        columns = [
            np.asarray(figures, np.float64).ravel()
            for pair in quantities.values()
            for figures in pair
        ]
        heads = [f"{name}, {whose}" for name in quantities for whose in ("ours", "published")]
        self.table(
            title,
            [axis, *heads],
            [
                (label, *(f"{figure:.{digits}g}" for figure in row))
                for label, *row in zip(labels, *columns, strict=True)
            ],
        )
        for name, (got, want) in quantities.items():
            error = relative_error(got, want)
            self.check(
                f"{title}: {name} as published",
                error <= tolerance,
                f"largest relative difference {error:.1e}, allowed {tolerance:.0e}",
            )

    def check_same_path(self, claim: str, got: Array, want: Array, tolerance: float) -> None:
        """Check that two paths differ by at most `tolerance` times the distance travelled."""
        error = path_error(got, want)
        self.check(
            claim,
            error <= tolerance,
            f"largest difference {error:.1e} of the distance travelled, allowed {tolerance:.0e}",
        )

    def save(self, figure: Figure, name: str, dpi: int | None = None) -> None:
        """Save a picture in the output folder and print its path."""
        figure.savefig(self.new_picture(name), dpi=dpi or mpl.rcParams["savefig.dpi"])
        plt.close(figure)

    def new_picture(self, name: str) -> Path:
        """Return the path of a picture in the output folder, which exists then, and print it."""
        self._output.mkdir(parents=True, exist_ok=True)
        path = self._output / name
        self.say(f"picture {path}")
        return path

    def new_folder(self, name: str) -> Path:
        """Return an empty folder in the output folder, without what an earlier run left in it."""
        folder = self._output / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def run(main: Callable[..., None], description: str | None, **options: Sequence[str]) -> NoReturn:
    """Run an example as a script: parse arguments, call `main`, exit with the status.

    Args:
        main: a function of a `Report` and, by keyword, of the options.
        description: whose first line is shown.
        options: arguments of this example and their choices; the first is the default.
    """
    summary = (description or "").partition("\n")[0]
    arguments = arguments_of_script(summary, **options)
    report = Report(arguments.output, arguments.quick)
    report.say(heading(summary))
    main(report, **{name: getattr(arguments, name) for name in options})
    if report.failures:
        sys.exit(f"{len(report.failures)} of the claims above did not hold.")
    sys.exit(0)


def arguments_of_script(summary: str, **options: Sequence[str]) -> argparse.Namespace:
    """Return the arguments that every example takes, `output` and `quick`, and its own."""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent / "output",
        help="folder for the pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a short run that need not reach the published figures"
    )
    for name, choices in options.items():
        parser.add_argument(
            f"--{name}",
            choices=choices,
            default=choices[0],
            help="described at the top of the script (default: %(default)s)",
        )
    return parser.parse_args()


def heading(summary: str) -> str:
    """Return the first lines of an example's output."""
    return f"{summary}\n[Keras {keras.__version__} on {keras.backend.backend()}]"


def use_float64() -> None:
    """Make Keras work in float64, including learning rates."""
    keras.config.set_floatx("float64")
    # Layers follow floatx only if no layer was created before.
    keras.config.set_dtype_policy("float64")
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)


def walk(
    optimizer: Any,
    gradient: Callable[[Array], ArrayLike],
    start: ArrayLike,
    steps: Iterable[object],
) -> Iterator[keras.Variable]:
    """Move one weight with a Keras optimizer; yield the weight before and after each step.

    Args:
        optimizer: a new optimizer.
        gradient: maps a weight to its gradient, both NumPy arrays of `floatx`.
        start: the initial weight, any shape.
        steps: an iterable with one item per step.
    """
    floatx = keras.config.floatx()
    weight = keras.Variable(np.asarray(start, floatx), dtype=floatx)
    optimizer.build([weight])
    yield weight
    for _ in steps:
        now = np.asarray(gradient(value_of(weight)), floatx)
        optimizer.apply([keras.ops.convert_to_tensor(now)], [weight])
        yield weight


def descend(
    optimizer: Any,
    gradient: Callable[[Array], ArrayLike],
    start: ArrayLike,
    steps: Iterable[object],
) -> Array:
    """Return the path of `walk`, shape (steps + 1, *shape)."""
    return np.array([value_of(weight) for weight in walk(optimizer, gradient, start, steps)])


def value_of(tensor: Any) -> Array:
    """Return a NumPy copy of a tensor or variable."""
    return np.array(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(tensor)))


def square_average_of(optimizer: Any) -> Array:
    """Return the square average of an optimizer with one weight."""
    (slot,) = (slot for slot in optimizer.variables if slot.name.endswith("square_average"))
    return value_of(slot)


def descend_by_reference(
    gradient: Callable[[Array], ArrayLike],
    start: ArrayLike,
    steps: Iterable[object],
    *,
    learning_rate: float,
    **settings: Any,
) -> Array:
    """Return the path of `keras_rmsprop.reference`, in float64 (see `walk`)."""
    reference = Reference([start], **settings)
    path = [reference.weights[0]]
    for _ in steps:
        reference.apply([gradient(path[-1])], learning_rate)
        path.append(reference.weights[0])
    return np.array(path)


def descend_by_adagrad(
    gradient: Callable[[Array], ArrayLike],
    start: ArrayLike,
    steps: Iterable[object],
    *,
    learning_rate: float,
    epsilon: float,
) -> tuple[Array, Array]:
    """Return the path of Adagrad as first published, and its sum of squares after each step.

    The sum starts at 0 and epsilon is outside the root; `keras.optimizers.Adagrad` starts at 0.1
    and has epsilon inside.
    """
    path = [np.asarray(start, np.float64)]
    sums = [np.zeros_like(path[0])]
    for _ in steps:
        now = np.asarray(gradient(path[-1]), np.float64)
        sums.append(sums[-1] + now**2)
        path.append(path[-1] - learning_rate * now / (np.sqrt(sums[-1]) + epsilon))
    return np.array(path), np.array(sums[1:])


def relative_error(got: ArrayLike, want: ArrayLike) -> float:
    """Return the largest difference relative to `want`."""
    got, want = (np.asarray(figures, np.float64).ravel() for figures in (got, want))
    return float(np.max(np.abs(got - want) / np.abs(want)))


def path_error(got: Array, want: Array) -> float:
    """Return the largest difference of two paths, relative to the distance travelled by `want`."""
    return float(np.max(np.abs(got - want)) / np.max(np.abs(want - want[0])))
