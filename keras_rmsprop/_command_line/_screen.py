"""What is shown while a command works, and how its results are laid out."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import click

from keras_rmsprop import _startup
from keras_rmsprop._diagnostics._format import printable


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show what is being done, and for how long, where stderr is a terminal.

    Calling the target with words says what is done from now on. All of it disappears at the end.
    """
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        # A path may contain what rich takes for markup.
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda words: shown.update(task, description=words)


def _ignore(_: str) -> None:
    pass


def framework(name: str) -> Any:
    """Import a framework, without what it writes to stderr meanwhile."""
    with _startup.quiet():
        return importlib.import_module(name)


def show(text: str) -> None:
    """Print lines in which words of a file may be, without what would act on a terminal."""
    click.echo("\n".join(map(printable, text.split("\n"))))


def table(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as lines, with numbers aligned to the right and words to the left."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for row, text in zip(rows, texts, strict=True):
        cells = [
            f"{word:>{width}}" if isinstance(cell, int) else f"{word:<{width}}"
            for cell, word, width in zip(row, text, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def shortened(names: Sequence[str], limit: int = 4) -> str:
    """Return the first few of some names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
