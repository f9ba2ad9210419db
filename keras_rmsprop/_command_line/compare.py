"""`compare`: conventions side by side on a test function."""

from pathlib import Path

import click

from keras_rmsprop import _compare, _drawing, _landscapes
from keras_rmsprop._command_line._program import PROGRAM, Failure, File, debug_option
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
    "--steps",
    type=click.IntRange(min=1),
    help=f"How many, at most {_compare.MOST_STEPS}. Default: what suits the function.",
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
    type=File(),
    default=Path("rmsprop_compare.png"),
    show_default=True,
    help="The picture, which replaces a file of this name; a PNG if the name tells no format.",
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
    if not output.suffix:
        # As matplotlib would, but so that the last line says so.
        output = output.with_name(f"{output.name}.png")
    _check_output(output)
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


def _check_output(path: Path) -> None:
    """Refuse a picture that cannot be written, before the run whose picture it is to be."""
    if not path.parent.is_dir():
        raise Failure(f"There is no folder {path.parent} to write {path.name} into.")
    formats = _drawing.picture_formats()
    if formats is not None and path.suffix.removeprefix(".").lower() not in formats:
        raise Failure(
            f"The name of the picture must end in one of {', '.join(f'.{x}' for x in formats)}, "
            f"received {str(path)!r}."
        )
