"""The sum of squares of Adagrad, which only grows, and the running average of RMSprop."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_rmsprop import _drawing
from keras_rmsprop._drawing import GREY, positive
from keras_rmsprop.reference import Reference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


def accumulators(
    gradients: ArrayLike | None = None,
    *,
    learning_rate: float = 0.01,
    rho: float = 0.9,
    epsilon: float = 1e-7,
) -> "Figure":
    """Draw what Adagrad and RMSprop remember of one sequence of gradients, and their steps.

    For gradients g_1, g_2, ... of one weight, the accumulators above and the steps beneath are

        Adagrad:  a_t = a_{t-1} + g_t**2                      lr * |g_t| / sqrt(a_t + epsilon)
        RMSprop:  s_t = rho * s_{t-1} + (1 - rho) * g_t**2    lr * |g_t| / sqrt(s_t + epsilon)

    with a_0 = s_0 = 0. Once gradients become small, Adagrad's steps do and stay so, because its sum
    never forgets the large ones; RMSprop's are as long as before after about 1 / (1 - rho) steps
    for each factor of e between the squares.

    Sources: Duchi, Hazan and Singer, Journal of Machine Learning Research 12 (2011) 2121-2159;
    Hinton, "Neural Networks for Machine Learning", lecture 6e (2012).

    Args:
        gradients: one number for each step, shape (steps,). By default 50 of about 1, then 100 of
            about 0.03, with noise.
        learning_rate: lr of both, > 0.
        rho: decay rate of the running average, in [0, 1).
        epsilon: added to both accumulators, >= 0.

    Returns: a new figure.

    Raises:
        ValueError: if `gradients` is not a sequence of numbers.
        ImportError: if matplotlib is not installed.

    Example:
    >>> from keras_rmsprop import plots
    >>> figure = plots.accumulators([1.0, 1.0, 0.1, 0.1])
    >>> figure.axes[0].lines[1].get_ydata().round(2)        # the sum
    array([1.  , 2.  , 2.01, 2.02])
    """
    given = _default_gradients() if gradients is None else np.asarray(gradients, np.float64)
    if given.ndim != 1 or not given.size:
        raise ValueError(
            f"`gradients` must be one number for each step, received the shape {given.shape}."
        )
    sums = np.cumsum(given**2)
    averages = _averages(given, rho)
    figure = _drawing.new_figure(9.0, 6.0)
    above, beneath = figure.subplots(2, 1, sharex=True)
    steps = np.arange(1, given.size + 1)
    adagrad = {"color": _drawing.COLOURS[1], "linestyle": "--", "linewidth": 2.0}
    rmsprop = {"color": _drawing.COLOURS[0], "linestyle": "-", "linewidth": 2.0}
    above.plot(steps, positive(given**2), ".", color="#8c8c8c", ms=4, label="squared gradient")
    above.plot(steps, positive(sums), label="Adagrad: their sum", **adagrad)
    label = f"RMSprop: their running average, rho {rho:g}"
    above.plot(steps, positive(averages), label=label, **rmsprop)
    above.set_title("Adagrad's sum only grows, RMSprop's average forgets", loc="left")
    above.set_ylabel("accumulator (gradient²)")
    for name, accumulator, style in (("Adagrad", sums, adagrad), ("RMSprop", averages, rmsprop)):
        with np.errstate(invalid="ignore"):
            lengths = learning_rate * np.abs(given) / np.sqrt(accumulator + epsilon)
        beneath.plot(steps, positive(lengths), label=name, **style)
    beneath.axhline(learning_rate, color=GREY, ls=":", lw=1.2, label=f"lr, {learning_rate:g}")
    beneath.set(xlabel="step", ylabel="length of the step (unit of the weight)")
    for panel in (above, beneath):
        panel.set_yscale("log")
        _drawing.tidy(panel)
        panel.legend(fontsize=9, loc="best")
    return figure


def _default_gradients() -> Array:
    noise = np.random.default_rng(0).uniform(0.6, 1.4, 150)
    return np.concatenate([np.full(50, 1.0), np.full(100, 0.03)]) * noise


def _averages(gradients: Array, rho: float) -> Array:
    reference = Reference([0.0], rho=rho)
    averages = []
    for gradient in gradients:
        reference.apply([gradient], learning_rate=0.0)
        averages.append(float(reference.parameters[0].square_average))
    return np.array(averages)
