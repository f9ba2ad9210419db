"""Functions to minimise, with their gradients, and the walk of an optimizer on them.

Values and gradients are analytic, in NumPy float64, so that every backend walks on the same ground.
Sources: Rosenbrock, The Computer Journal 3 (1960) 175-184; Beale, Technical Report 25, Statistical
Techniques Research Group, Princeton (1958); Rastrigin, Systems of Extremal Control, Nauka (1974);
Himmelblau, Applied Nonlinear Programming, McGraw-Hill (1972).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Landscape(NamedTuple):
    """A function to minimise, with settings that suit RMSprop."""

    formula: str
    start: tuple[float, ...]
    learning_rate: float
    steps: int
    # Where it is lowest, one or more points.
    minima: tuple[tuple[float, ...], ...]
    # What a picture shows, the limits of each dimension.
    window: tuple[tuple[float, float], ...]
    # Of points, (dimensions, ...), the values, (...).
    value: Callable[[Array], Array]
    # At a point, and after a number of steps, on which noise depends.
    gradient: Callable[[Array, int], Array]

    @property
    def lowest(self) -> float:
        """The value at the minima."""
        return float(self.value(np.array(self.minima[0])))


def _quadratic(at: Array) -> Array:
    return np.asarray(0.5 * (at[0] ** 2 + 100.0 * at[1] ** 2))


def _quadratic_gradient(at: Array, _: int) -> Array:
    return np.array([at[0], 100.0 * at[1]])


def _noisy_gradient(at: Array, step: int) -> Array:
    """Return the gradient with noise as large as it is at the start, the same for every run."""
    noise = np.random.default_rng([0, step]).normal(size=2)
    return _quadratic_gradient(at, step) + noise * np.array([1.0, 100.0])


def _rosenbrock(at: Array) -> Array:
    x, y = at
    return np.asarray((1.0 - x) ** 2 + 100.0 * (y - x**2) ** 2)


def _rosenbrock_gradient(at: Array, _: int) -> Array:
    x, y = at
    return np.array([-2.0 * (1.0 - x) - 400.0 * x * (y - x**2), 200.0 * (y - x**2)])


_BEALE = ((1, 1.5), (2, 2.25), (3, 2.625))


def _beale(at: Array) -> Array:
    x, y = at
    return np.asarray(sum((c - x + x * y**power) ** 2 for power, c in _BEALE))


def _beale_gradient(at: Array, _: int) -> Array:
    x, y = at
    terms = [(power, c - x + x * y**power) for power, c in _BEALE]
    return np.array(
        [
            sum(2.0 * term * (y**power - 1.0) for power, term in terms),
            sum(2.0 * term * x * power * y ** (power - 1) for power, term in terms),
        ]
    )


def _rastrigin(at: Array) -> Array:
    return np.asarray(np.sum(10.0 + at**2 - 10.0 * np.cos(2.0 * np.pi * at), axis=0))


def _rastrigin_gradient(at: Array, _: int) -> Array:
    return np.asarray(2.0 * at + 20.0 * np.pi * np.sin(2.0 * np.pi * at))


def _himmelblau(at: Array) -> Array:
    x, y = at
    return np.asarray((x**2 + y - 11.0) ** 2 + (x + y**2 - 7.0) ** 2)


def _himmelblau_gradient(at: Array, _: int) -> Array:
    x, y = at
    first, second = x**2 + y - 11.0, x + y**2 - 7.0
    return np.array([4.0 * x * first + 2.0 * second, 2.0 * first + 4.0 * y * second])


def _x_over_log_x(at: Array) -> Array:
    return np.asarray(at[0] / np.log(at[0]))


def _x_over_log_x_gradient(at: Array, _: int) -> Array:
    log = np.log(at)
    return np.asarray(1.0 / log - 1.0 / log**2)


LANDSCAPES: dict[str, Landscape] = {
    "quadratic": Landscape(
        formula="(x**2 + 100 * y**2) / 2",
        start=(1.0, 1.0),
        learning_rate=0.01,
        steps=300,
        minima=((0.0, 0.0),),
        window=((-0.4, 1.2), (-1.2, 1.2)),
        value=_quadratic,
        gradient=_quadratic_gradient,
    ),
    "rosenbrock": Landscape(
        formula="(1 - x)**2 + 100 * (y - x**2)**2",
        start=(-1.2, 1.0),
        learning_rate=0.01,
        steps=1000,
        minima=((1.0, 1.0),),
        window=((-1.7, 1.5), (-0.6, 1.9)),
        value=_rosenbrock,
        gradient=_rosenbrock_gradient,
    ),
    "noisy_quadratic": Landscape(
        formula="(x**2 + 100 * y**2) / 2, its gradient with noise",
        start=(1.0, 1.0),
        learning_rate=0.01,
        steps=300,
        minima=((0.0, 0.0),),
        window=((-0.4, 1.2), (-1.2, 1.2)),
        value=_quadratic,
        gradient=_noisy_gradient,
    ),
    "beale": Landscape(
        formula="(1.5 - x + x*y)**2 + (2.25 - x + x*y**2)**2 + (2.625 - x + x*y**3)**2",
        start=(1.0, 1.5),
        learning_rate=0.02,
        steps=300,
        minima=((3.0, 0.5),),
        window=((-0.5, 4.0), (-0.8, 1.8)),
        value=_beale,
        gradient=_beale_gradient,
    ),
    "rastrigin": Landscape(
        formula="20 + x**2 + y**2 - 10 * (cos(2 * pi * x) + cos(2 * pi * y))",
        start=(-2.2, 1.4),
        learning_rate=0.1,
        steps=100,
        minima=((0.0, 0.0),),
        window=((-2.7, 2.7), (-2.7, 2.7)),
        value=_rastrigin,
        gradient=_rastrigin_gradient,
    ),
    "himmelblau": Landscape(
        formula="(x**2 + y - 11)**2 + (x + y**2 - 7)**2",
        start=(-1.0, -0.5),
        learning_rate=0.1,
        steps=100,
        minima=(
            (3.0, 2.0),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.283185991286170),
            (3.584428340330492, -1.848126526964404),
        ),
        window=((-5.5, 5.5), (-5.0, 5.0)),
        value=_himmelblau,
        gradient=_himmelblau_gradient,
    ),
    "xlogx": Landscape(
        formula="x / log(x)",
        start=(364.0,),
        learning_rate=0.3,
        steps=1500,
        minima=((float(np.e),),),
        window=((1.2, 380.0),),
        value=_x_over_log_x,
        gradient=_x_over_log_x_gradient,
    ),
}


def walk(
    make_step: Callable[[Array, int], Array], landscape: Landscape, start: Array, steps: int
) -> Array:
    """Return the start and the positions after each step, (steps + 1, dimensions).

    Args:
        make_step: a function of a gradient and of the number of steps so far, which makes a step
            and returns the new position.
        landscape: the function to minimise.
        start: the first position.
        steps: how many.
    """
    positions = [start]
    # A walk that leaves the function's domain goes on with NaN.
    with np.errstate(all="ignore"):
        for step in range(steps):
            positions.append(make_step(landscape.gradient(positions[-1], step), step))
    return np.array(positions)


def values_of(landscape: Landscape, positions: Array) -> Array:
    """Return the values at positions, (n, dimensions), with NaN outside the function's domain."""
    with np.errstate(all="ignore"):
        return landscape.value(positions.T)


def stepper(optimizer: Any, start: Array) -> Callable[[Array], Array]:
    """Return a function of a gradient that makes a step with a Keras optimizer.

    Args:
        optimizer: not built. It works in Keras's `floatx`.
        start: the first position.
    """
    weight = keras.Variable(start, dtype=keras.config.floatx(), name="x")

    def step(gradient: Array) -> Array:
        optimizer.apply([ops.convert_to_tensor(gradient, dtype=weight.dtype)], [weight])
        return np.array(ops.convert_to_numpy(weight.value), np.float64)

    return step
