"""What the tour reports to: a notebook, in which pictures appear below their cells, or a script."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _quiet  # noqa: F401 - before Keras
import keras
from _common import Report, arguments_of_script, heading, use_float64
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.console import Console

# Of pictures in a notebook, per inch: ten inches are as wide as its column.
DOTS = 80


class Page(Report):
    """A report whose pictures and tables appear in a notebook.

    In a script it takes the arguments of every example, and pictures are saved.

    Args:
        summary: what the example does, in one line.
    """

    def __init__(self, summary: str) -> None:
        self._in_notebook = "ipykernel" in sys.modules
        if self._in_notebook:
            super().__init__(Path())
        else:
            arguments = arguments_of_script(summary)
            super().__init__(arguments.output, arguments.quick)
        self.say(heading(summary))

    def _make_console(self) -> Console:
        # In a notebook, plain text: rich takes it for a terminal, with colours.
        plain = False if self._in_notebook else None
        return Console(highlight=False, force_jupyter=plain, force_terminal=plain)

    def show(self, thing: Any) -> None:
        """Show an object as a notebook does, or print it."""
        if self._in_notebook:
            from IPython.display import display

            display(thing)
        else:
            self.say(str(thing))

    def save(self, figure: Figure, name: str, dpi: int | None = None) -> None:
        """Show a picture in a notebook, or save it."""
        if not self._in_notebook:
            super().save(figure, name, dpi)
            return
        from IPython.display import Image, display

        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DOTS)
        plt.close(figure)
        display(Image(data=file.getvalue(), format="png", alt=_title_of(figure)))

    def end(self) -> None:
        """Fail if a claim did not hold; end the script."""
        failed = f"{len(self.failures)} of the claims above did not hold."
        if not self._in_notebook:
            sys.exit(failed if self.failures else 0)
        # A notebook takes no notice of SystemExit.
        if self.failures:
            raise AssertionError(failed)
        self.say("All claims hold.")


def _title_of(figure: Figure) -> str:
    titles = (axes.get_title(loc="left") for axes in figure.axes)
    return figure.get_suptitle().strip() or next(filter(None, titles), "")


@contextmanager
def float64() -> Iterator[None]:
    """Make Keras work in float64 inside the block."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    use_float64()
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
