"""`recipes`: published recipes that use RMSprop."""

import click

from keras_rmsprop._command_line._program import PROGRAM, debug_option


@click.command(
    epilog=f"""\b
Examples:
  {PROGRAM} recipes
  {PROGRAM} recipes mnasnet"""
)
@click.argument("name", required=False)
@debug_option
def recipes(name: str | None) -> None:
    """List published recipes that use RMSprop, or say all about the one of that NAME.

    In Python, `keras_rmsprop.recipes.get(name)` returns its optimizer and schedule.
    """
    from keras_rmsprop import recipes as published

    if name is None:
        published.list(click.echo)
    else:
        click.echo(str(published.about(name)))
