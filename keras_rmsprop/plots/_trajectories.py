"""The trajectories of optimizers on test functions, as a picture."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_rmsprop import _drawing, _landscapes, conventions
from keras_rmsprop._landscapes import LANDSCAPES, Landscape
from keras_rmsprop.plots import _panels
from keras_rmsprop.plots._panels import Picture, Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


class _Scene(NamedTuple):
    """Settings with which a picture shows what the optimizers do."""

    steps: int
    # Learning rates.
    rmsprop: float
    adagrad: float
    sgd: float


_SCENES = {
    "quadratic": _Scene(150, rmsprop=0.02, adagrad=0.2, sgd=0.018),
    "noisy_quadratic": _Scene(150, rmsprop=0.02, adagrad=0.2, sgd=0.005),
    "rosenbrock": _Scene(500, rmsprop=0.02, adagrad=0.5, sgd=0.0015),
    "beale": _Scene(300, rmsprop=0.02, adagrad=0.5, sgd=0.01),
    "rastrigin": _Scene(100, rmsprop=0.1, adagrad=1.0, sgd=0.002),
    "himmelblau": _Scene(100, rmsprop=0.1, adagrad=0.5, sgd=0.005),
    "xlogx": _Scene(400, rmsprop=1.0, adagrad=10.0, sgd=5.0),
}


def trajectories(
    function: str,
    optimizers: Mapping[str, Any] | None = None,
    *,
    start: ArrayLike | None = None,
    steps: int | None = None,
) -> "Figure":
    """Draw the trajectories of optimizers on a test function, and the values along them.

    The functions, with their minima:

        quadratic        (x**2 + 100 * y**2) / 2, ill-conditioned               0 at (0, 0)
        noisy_quadratic  the same; the gradient has noise, alike for all
        rosenbrock       (1 - x)**2 + 100 * (y - x**2)**2                       0 at (1, 1)
        beale            (1.5 - x + x*y)**2 + (2.25 - x + x*y**2)**2
                             + (2.625 - x + x*y**3)**2                          0 at (3, 0.5)
        rastrigin        20 + x**2 + y**2 - 10 * (cos(2*pi*x) + cos(2*pi*y))    0 at (0, 0)
        himmelblau       (x**2 + y - 11)**2 + (x + y**2 - 7)**2                 0 at (3, 2), ...
        xlogx            x / log(x), for x > 1                                  e at e

    Gradients are analytic, in float64; steps are made by the optimizers, in Keras's `floatx`.

    On the left is a map of the function, with its contours, or the curve of a function of one
    variable; trajectories on a curve have a copy of it each, so that they do not hide each other,
    and dots at equal numbers of steps. A star is a minimum, a cross the start. The legend says so
    if a trajectory ends outside of the picture. On the right are the values less the minimum.

    Sources: Rosenbrock, The Computer Journal 3 (1960) 175-184; Beale, Technical Report 25,
    Statistical Techniques Research Group, Princeton (1958); Rastrigin, Systems of Extremal Control,
    Nauka (1974); Himmelblau, Applied Nonlinear Programming, McGraw-Hill (1972).

    Args:
        function: the name of one of them.
        optimizers: Keras optimizers by the label to give them. They are copied by their config, so
            that the ones given do not change. By default RMSprop in the conventions of Keras,
            torch and TF1 and centered, Keras's Adagrad and SGD, with learning rates that suit the
            function.
        start: where they start, (x, y) or (x,); inside the domain of the function. By default a
            place that suits the function.
        steps: how many, >= 1. By default as many as suit the function.

    Returns: a new figure.

    Raises:
        ValueError: if there is no such function, no optimizer, or an argument is out of range.
        TypeError: if one of the optimizers is not a Keras optimizer.
        ImportError: if matplotlib is not installed.

    Example:
    >>> import keras
    >>> from keras_rmsprop import RMSprop, plots
    >>> optimizers = {"RMSprop": RMSprop(0.1), "Adam": keras.optimizers.Adam(0.1)}
    >>> figure = plots.trajectories("beale", optimizers, start=(0.5, 1.0), steps=10)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['RMSprop', 'Adam']
    """
    picture = draw(function, optimizers, start, steps)
    picture.show(picture.steps)
    return picture.figure


def draw(
    function: str,
    optimizers: Mapping[str, Any] | None,
    start: ArrayLike | None,
    steps: int | None,
) -> Picture:
    """Return the picture of trajectories, all of them drawn; see there."""
    if function not in LANDSCAPES:
        raise ValueError(f"There is no function {function!r}; there are {', '.join(LANDSCAPES)}.")
    landscape = LANDSCAPES[function]
    figure = _drawing.new_figure(9.5, 4.9)
    at = _start_of(function, start)
    count = _SCENES[function].steps if steps is None else steps
    if not count >= 1:
        raise ValueError(f"`steps` must be an integer >= 1, received steps={steps!r}.")
    runs = [
        _trajectory(label, optimizer, landscape, at, count)
        for label, optimizer in _checked(optimizers, function).items()
    ]
    ground, values = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_ground = _panels.draw_curve if len(at) == 1 else _panels.draw_map
    traces = draw_ground(ground, landscape, runs)
    handles: list[Any] = [(trace.line, trace.tip) for trace in traces]
    figure.legend(
        handles,
        [_panels.name_of(run, landscape, runs) for run in runs],
        loc="outside lower center",
        ncols=3,
        fontsize=9,
        frameon=False,
        handlelength=3.0,
    )
    traces += _panels.draw_values(values, landscape, runs)
    title = f"{function}, {_panels.typeset(landscape.formula)}"
    return Picture(figure, figure.suptitle(" ", fontsize=11), traces, count, title)


def _start_of(function: str, start: ArrayLike | None) -> Array:
    landscape = LANDSCAPES[function]
    at = np.asarray(landscape.start if start is None else start, np.float64)
    if at.shape != (len(landscape.start),):
        raise ValueError(
            f"`start` must have the shape {(len(landscape.start),)}, received start={start!r}."
        )
    with np.errstate(all="ignore"):
        # What is below the minimum is outside of the domain, such as x < 1 of x / log(x).
        if not landscape.lowest <= landscape.value(at) < np.inf:
            raise ValueError(
                f"`start` must be in the domain of {function}, received start={start!r}."
            )
    return at


def _checked(optimizers: Mapping[str, Any] | None, function: str) -> Mapping[str, Any]:
    if optimizers is None:
        return _default_optimizers(_SCENES[function])
    if not optimizers:
        raise ValueError("`optimizers` must name one optimizer at least, received none.")
    for label, optimizer in optimizers.items():
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                f"`optimizers` must be Keras optimizers, received {optimizer!r} for {label!r}."
            )
    return optimizers


def _default_optimizers(scene: _Scene) -> dict[str, Any]:
    rate = scene.rmsprop
    return {
        f"RMSprop, keras (lr {rate:g})": conventions.keras(rate),
        f"RMSprop, torch (lr {rate:g})": conventions.torch(rate),
        f"RMSprop, tf1 (lr {rate:g})": conventions.tf1(rate),
        f"RMSprop, centered (lr {rate:g})": conventions.keras(rate, centered=True),
        f"Adagrad (lr {scene.adagrad:g})": keras.optimizers.Adagrad(scene.adagrad),
        f"SGD (lr {scene.sgd:g})": keras.optimizers.SGD(scene.sgd),
    }


def _trajectory(
    label: str, optimizer: Any, landscape: Landscape, start: Array, steps: int
) -> Trajectory:
    copy = type(optimizer).from_config(optimizer.get_config())
    step = _landscapes.stepper(copy, start)
    positions = _landscapes.walk(lambda gradient, _: step(gradient), landscape, start, steps)
    return Trajectory(label, positions, _landscapes.values_of(landscape, positions))
