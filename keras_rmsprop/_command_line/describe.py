"""`describe`: the equations of an optimizer in a file."""

from pathlib import Path
from typing import Literal

import click

from keras_rmsprop._command_line import _config
from keras_rmsprop._command_line._program import PROGRAM, File, debug_option
from keras_rmsprop._command_line._screen import show


@click.command(
    epilog=f"""\b
Examples:
  {PROGRAM} describe model.keras
  {PROGRAM} describe config.json --format latex"""
)
@click.argument("file", type=File(exists=True))
@click.option(
    "--format",
    "layout",
    type=click.Choice(["text", "markdown", "latex"]),
    default="text",
    show_default=True,
    help="How to lay out the equations.",
)
@debug_option
def describe(file: Path, layout: Literal["text", "markdown", "latex"]) -> None:
    """Print the equations of the RMSprop in FILE, its nearest convention, and what it holds.

    FILE is a model that was saved as .keras, whose weights are not read, or JSON: what
    `optimizer.get_config()` or `keras.saving.serialize_keras_object(optimizer)` returns. The
    optimizer may be this package's or Keras's own. No code in the file is run.
    """
    _config.optimizer_in(file).describe(show, format=layout)
