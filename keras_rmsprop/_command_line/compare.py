"""`compare`: conventions side by side on a test function."""

from pathlib import Path

import click

from keras_rmsprop import _compare, _landscapes
from keras_rmsprop._command_line._program import PROGRAM, Failure, debug_option
from keras_rmsprop._command_line._screen import progress


@click.command(
    epilog=f"""\b
Examples:
  {PROGRAM} compare keras torch tf1 optax
  {PROGRAM} compare torch tf1 --same --function rosenbrock --output parts.png"""
)
@click.argument("conventions", nargs=-1, required=True, metavar="CONVENTION...")
@click.option(
    "--function",
    type=click.Choice(list(_landscapes.LANDSCAPES)),
    default="quadratic",
    show_default=True,
    help="What to minimise.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), help="How many. Default: what suits the function."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0.0),
    help="The same for all. Default: what suits the function.",
)
@click.option(
    "--same",
    is_flag=True,
    help="Give all the same rho, momentum and epsilon, not their framework's defaults.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("rmsprop_compare.png"),
    show_default=True,
    help="The picture, which replaces a file of this name.",
)
@debug_option
def compare(
    conventions: tuple[str, ...],
    function: str,
    steps: int | None,
    learning_rate: float | None,
    same: bool,
    output: Path,
) -> None:
    """Run CONVENTIONS side by side, and show where they part from the first one.

    A convention is a function of `keras_rmsprop.conventions`: keras, torch, optax, tf1,
    tf_keras_legacy, timm, hinton or graves. Steps are made in NumPy float64.
    """
    with progress() as now:
        now(f"Comparing {', '.join(conventions)}")
        comparison = _compare.compare(
            conventions, function, steps=steps, learning_rate=learning_rate, same=same
        )
        table = _compare.as_text(comparison)
    click.echo(table)
    with progress() as now:
        now(f"Drawing {output}")
        try:
            _compare.save_plot(comparison, output)
        except ValueError as error:
            raise Failure(f"The picture {output} cannot be written: {error}") from error
    click.echo(f"\nPicture: {output}")
