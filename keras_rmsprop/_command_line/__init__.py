"""The command line: a module for each command, and what they share."""

import click
import keras

import keras_rmsprop
from keras_rmsprop._command_line._program import PROGRAM, Program, debug_option
from keras_rmsprop._command_line.compare import compare
from keras_rmsprop._command_line.convert import convert
from keras_rmsprop._command_line.describe import describe
from keras_rmsprop._command_line.recipes import recipes


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"""\b
Examples:
  {PROGRAM} recipes
  {PROGRAM} describe model.keras
  {PROGRAM} compare keras torch tf1 optax
  {PROGRAM} convert state.pt trained.keras --model model.keras --map map.json""",
)
@click.version_option(
    keras_rmsprop.__version__,
    message=f"keras_rmsprop %(version)s, on Keras {keras.__version__} with the "
    f"{keras.backend.backend()} backend",
)
@debug_option
@click.pass_context
def program(context: click.Context) -> None:
    """RMSprop for Keras 3, in any framework's convention.

    KERAS_BACKEND selects the backend, as everywhere in Keras. A failure is told in one sentence,
    with status 2.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (recipes, describe, compare, convert):
    program.add_command(_command)
