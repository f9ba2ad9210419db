"""The trajectories of optimizers as an animation."""

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_rmsprop._drawing import COLOURS
from keras_rmsprop.plots._panels import Picture, band_colours
from keras_rmsprop.plots._trajectories import draw

# Per inch: 950 pixels wide.
_DOTS = 100


def animate(
    path: str | os.PathLike[str],
    function: str,
    optimizers: Mapping[str, Any] | None = None,
    *,
    start: ArrayLike | None = None,
    steps: int | None = None,
    frames: int = 40,
    seconds: float = 5.0,
) -> None:
    """Save the picture of `trajectories` as an animation, with the steps as time.

    Args:
        path: of the file, a GIF, which replaces one of this name.
        function: as for `trajectories`.
        optimizers: as for `trajectories`.
        start: as for `trajectories`.
        steps: as for `trajectories`.
        frames: how many pictures, >= 2, if there are as many steps. A file of 40 has less than a
            megabyte.
        seconds: how long they take together, > 0. The last one stays for two more, and then it
            starts again.

    Raises:
        ValueError: if there is no such function, no optimizer, or an argument is out of range.
        TypeError: if one of the optimizers is not a Keras optimizer.
        ImportError: if matplotlib is not installed, which brings the pillow that writes the file.

    Example:
    >>> import os, tempfile
    >>> from keras_rmsprop import plots
    >>> folder = tempfile.TemporaryDirectory()
    >>> with folder:
    ...     plots.animate(f"{folder.name}/himmelblau.gif", "himmelblau", steps=4, frames=2)
    ...     os.listdir(folder.name)
    ['himmelblau.gif']
    """
    if not frames >= 2:
        raise ValueError(f"`frames` must be an integer >= 2, received frames={frames!r}.")
    if not 0.0 < seconds < math.inf:
        raise ValueError(f"`seconds` must be a finite number > 0, received seconds={seconds!r}.")
    picture = draw(function, optimizers, start, steps)
    shown = np.unique(np.linspace(0, picture.steps, frames).round().astype(int))
    palette = _palette()
    images = [image.quantize(palette=palette, dither=0) for image in _frames(picture, shown)]
    each = 1000.0 * seconds / len(images)
    durations = [*[round(each)] * (len(images) - 1), round(each + 2000.0)]
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def _frames(picture: Picture, steps: Iterable[int]) -> list[Any]:
    """Return images of the trajectories up to each of the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure = picture.figure
    figure.set_dpi(_DOTS)
    canvas = FigureCanvasAgg(figure)
    picture.show(picture.steps)
    # Once, so that the panels do not move about.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    moving = picture.moving()
    for artist in moving:
        artist.set_animated(True)
    # What stays is drawn once: contours take long.
    canvas.draw()
    ground = canvas.copy_from_bbox(figure.bbox)
    images = []
    for step in steps:
        canvas.restore_region(ground)
        picture.show(int(step))
        for artist in moving:
            artist.draw(canvas.get_renderer())
        images.append(Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB"))
    return images


def _palette() -> Any:
    """Return an image with the palette of an animation.

    One for all images, so that colours do not flicker and only what changes is stored; and not one
    that is made of an image, where thin lines count for little.
    """
    from matplotlib.colors import to_rgb
    from PIL import Image

    greys = np.linspace(0.0, 1.0, 24)[:, None].repeat(3, axis=1)
    inks = np.array([to_rgb(colour) for colour in COLOURS])
    shades = [ink + (1.0 - ink) * pale for ink in inks for pale in (0.0, 0.25, 0.5, 0.75)]
    colours = np.concatenate([greys, shades, band_colours()])
    image = Image.new("P", (1, 1))
    image.putpalette((255.0 * colours).round().astype(np.uint8).tobytes())
    return image
