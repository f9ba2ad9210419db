"""What pictures have in common: figures that pyplot does not know of, colours and line styles."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the palette of Okabe and Ito, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPh<"
# Of guides and of what is less important.
GREY = "#555555"


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, which can be saved without a screen.

    Args:
        width: in inches.
        height: in inches.

    Raises: ImportError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError(
            "Drawing needs matplotlib, which is not installed: pip install matplotlib, or "
            '"keras_rmsprop[plots]"'
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def line_style(i: int) -> dict[str, Any]:
    """Return the colour, the dashes and the width of the i-th line of a panel.

    Later lines are thinner, so that lines that lie on each other stay visible.
    """
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": DASHES[i % len(DASHES)],
        "linewidth": max(3.0 - 0.5 * i, 1.0),
    }


def tidy(axes: "Axes", grid: bool = True) -> None:
    """Give a panel a faint grid, or none, and only the two spines that have ticks."""
    axes.grid(False)
    if grid:
        axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


# Axes end there: matplotlib adds margins, which would overflow.
LARGEST = 1e290


def positive(values: ArrayLike) -> NDArray[np.float64]:
    """Return values for a logarithmic axis, with gaps where it has no place for them."""
    values = np.asarray(values, np.float64)
    return np.where((values > 0.0) & (values < LARGEST), values, np.nan)


def picture_formats() -> tuple[str, ...] | None:
    """Return the suffixes of pictures, without dots; None if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    return tuple(Figure().canvas.get_supported_filetypes())
