"""What a step does to each variable, in NumPy float64, one line per definition.

This is what the statistics of the optimizer are compared with, so it shares nothing with them but
the form of the result. A step is given by what it finds: weights, slots, gradients and settings.
The statistics of several variables together are those of all their elements in one vector.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from keras_rmsprop._diagnostics._report import Histograms, Statistics

Array = NDArray[Any]

HALF_PRECISION = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a variable, under the names of `keras_rmsprop.RMSprop`."""

    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False
    nesterov: bool = False
    epsilon_inside_sqrt: bool = True
    lr_in_momentum: bool = True
    bias_correction: bool = False
    maximize: bool = False
    l2: float = 0.0
    # 0 also for a variable that is excluded from it.
    weight_decay: float = 0.0
    transform: Callable[[Array, Array], Array] | None = None
    # By which the variable's group multiplies the learning rate.
    rate_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable as a step finds it; all arrays have the weight's shape."""

    weight: Array
    # As it is given to the optimizer; None if the variable has none.
    gradient: Array | None
    square_average: Array
    # Zeros where there are none.
    gradient_average: Array | float = 0.0
    momentum: Array | float = 0.0
    # The sum of the unscaled gradients that wait for this one.
    accumulator: Array | float = 0.0
    # The dtype of the weight, which decides whether an update is rounded off.
    dtype: str = "float32"
    settings: Settings = Settings()
    # Of a lazy table, which rows count, (rows,) bool; None for all.
    rows: Array | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """What holds for all variables of a step."""

    # 1 for the first step.
    number: int
    learning_rate: float
    # "value", "norm", "global_norm" or None, and the limit.
    clip: str | None = None
    limit: float = math.inf
    loss_scale: float = 1.0
    accumulation_steps: int = 1


class Elements(NamedTuple):
    """What a step does to each element that counts, all of shape (elements,)."""

    gradient: Array
    clipped: Array
    weight: Array
    update: Array
    rate: Array
    epsilon_decides: Array
    is_frozen: Array
    is_stuck: Array
    learning_rate: Array
    is_clipped: Array


def statistics_of(
    step: Step,
    variables: Mapping[str, Variable],
    before: Mapping[str | None, Statistics] | None = None,
) -> dict[str | None, Statistics]:
    """Return the statistics after a sampled step.

    Args:
        step: what holds for all variables.
        variables: those of the optimizer by path.
        before: what this function returned for the previous sampled step; None for the first.

    Returns: by path, and under None those of all variables together.
    """
    elements = elements_of(step, variables)
    after = dict(before or dict.fromkeys([*variables, None], Statistics()))
    for path, own in elements.items():
        after[path] = _after(step, after[path], [own])
    if elements:
        after[None] = _after(step, after[None], list(elements.values()))
    return after


def after_skipped(
    variables: Mapping[str, Variable], before: Mapping[str | None, Statistics]
) -> dict[str | None, Statistics]:
    """Return the statistics after a sampled call that `skip_nonfinite` has skipped.

    It counts for the variables that have a gradient in it, and for all together.
    """
    with_gradient = {path for path, own in variables.items() if own.gradient is not None}
    return {
        path: own._replace(skipped=own.skipped + 1) if path in {*with_gradient, None} else own
        for path, own in before.items()
    }


def _after(step: Step, before: Statistics, parts: Sequence[Elements]) -> Statistics:
    """Return the statistics of variables after a step, given those before it."""
    e = Elements(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    rate = float(e.learning_rate[0]) if np.ptp(e.learning_rate) == 0.0 else math.nan
    largest_rate = _larger(before.largest_learning_rate, rate)
    with np.errstate(all="ignore"):
        return Statistics(
            gradient_norm=_norm(e.gradient),
            clipped_gradient_norm=_norm(e.clipped),
            largest_gradient=float(np.max(np.abs(e.gradient))),
            zero_gradient_share=float(np.mean(e.gradient == 0.0)),
            weight_norm=_norm(e.weight),
            update_norm=_norm(e.update),
            largest_update=float(np.max(np.abs(e.update))),
            smallest_rate=float(np.min(e.rate)),
            mean_rate=float(np.exp(np.mean(np.log(e.rate)))),
            largest_rate=float(np.max(e.rate)),
            epsilon_share=float(np.mean(e.epsilon_decides)),
            frozen_share=float(np.mean(e.is_frozen)),
            stuck_share=float(np.mean(e.is_stuck)),
            learning_rate=rate,
            step=step.number,
            largest_learning_rate=largest_rate,
            largest_weight_norm=_larger(before.largest_weight_norm, _norm(e.weight)),
            sampled=before.sampled + 1,
            clipped=before.clipped + bool(np.any(e.is_clipped)),
            all_zero=before.all_zero + bool(np.all(e.gradient == 0.0)),
            at_rest=before.at_rest + bool(rate < 1e-4 * largest_rate),
            nonfinite=before.nonfinite + bool(np.any(~np.isfinite(e.gradient))),
            skipped=before.skipped,
        )


def _larger(largest: float, now: float) -> float:
    return float(np.fmax(largest, now)) if math.isfinite(now) else largest


def elements_of(step: Step, variables: Mapping[str, Variable]) -> dict[str, Elements]:
    """Return what a step does to the elements of the variables that have a gradient."""
    present = {path: own for path, own in variables.items() if own.gradient is not None}
    gradients = {path: _mean_gradient(step, own) for path, own in present.items()}
    clipped = _clipped(step, present, gradients)
    with np.errstate(all="ignore"):
        return {
            path: _elements(step, own, gradients[path], clipped[path])
            for path, own in present.items()
        }


def histograms_of(elements: Elements, edges: Sequence[float]) -> Histograms:
    """Count the elements of a variable between the edges; 0 / 0 counts as 0."""
    with np.errstate(all="ignore"):
        ratios = np.abs(elements.update) / np.abs(elements.weight)
    ratios = np.where(elements.update == 0.0, 0.0, ratios)

    def counts(values: Array) -> Array:
        return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)

    return Histograms(counts(elements.rate), counts(ratios))


def _mean_gradient(step: Step, variable: Variable) -> Array:
    gradient = np.asarray(variable.gradient, np.float64) / step.loss_scale
    return np.asarray((variable.accumulator + gradient) / step.accumulation_steps)


def _clipped(
    step: Step, variables: Mapping[str, Variable], gradients: Mapping[str, Array]
) -> dict[str, Array]:
    if step.clip is None:
        return dict(gradients)
    if step.clip == "value":
        return {path: np.clip(g, -step.limit, step.limit) for path, g in gradients.items()}
    squares = {p: float(np.sum(_counted(variables[p], g) ** 2)) for p, g in gradients.items()}
    dtypes = {path: _slot_dtype(variable) for path, variable in variables.items()}
    if step.clip == "global_norm":
        squares = dict.fromkeys(squares, sum(squares.values()))
        dtypes = dict.fromkeys(dtypes, min(dtypes.values(), key=["float64", "float32"].index))
    return {
        # Where the square of the norm overflows, there is no direction to keep.
        path: g * min(1.0, step.limit / max(math.sqrt(squares[path]), step.limit))
        if squares[path] <= np.finfo(dtypes[path]).max
        else np.full_like(g, math.nan)
        for path, g in gradients.items()
    }


def _elements(step: Step, variable: Variable, gradient: Array, clipped: Array) -> Elements:
    own, dtype = variable.settings, _slot_dtype(variable)
    lr = step.learning_rate * own.rate_factor
    weight = np.asarray(variable.weight, np.float64)

    g = clipped if own.transform is None else np.asarray(own.transform(clipped, weight))
    g = -g if own.maximize else g
    g = g + own.l2 * weight
    decayed = weight - lr * own.weight_decay * weight

    k = 1.0 - own.rho
    if own.bias_correction:
        k = k / (1.0 - own.rho**step.number)
    if own.centered:
        d = g - np.asarray(variable.gradient_average, np.float64)
        s = (1.0 - k) * (variable.square_average + k * _overflown(d**2, dtype))
    else:
        s = (1.0 - k) * np.asarray(variable.square_average, np.float64)
        s = s + k * _overflown(g**2, dtype)
    s = _overflown(s, dtype)

    r = np.sqrt(s + own.epsilon) if own.epsilon_inside_sqrt else np.sqrt(s) + own.epsilon
    u = np.where(r == 0.0, 0.0, g / r)
    if own.momentum == 0.0:
        update = lr * u
    elif own.lr_in_momentum:
        b = own.momentum * variable.momentum + lr * u
        update = own.momentum * b + lr * u if own.nesterov else b
    else:
        b = own.momentum * variable.momentum + u
        update = lr * (own.momentum * b + u if own.nesterov else b)

    epsilon_decides = own.epsilon > (s if own.epsilon_inside_sqrt else np.sqrt(s))
    is_stuck = (update != 0.0) & (_rounded(decayed - update, variable.dtype) == weight)
    columns = Elements(
        gradient=gradient,
        clipped=clipped,
        weight=weight,
        update=update,
        rate=lr / r,
        epsilon_decides=epsilon_decides,
        is_frozen=~np.isfinite(s),
        is_stuck=is_stuck,
        learning_rate=np.asarray(lr),
        is_clipped=(clipped != gradient) & ~(np.isnan(clipped) & np.isnan(gradient)),
    )
    return Elements(*(_counted(variable, np.broadcast_to(c, weight.shape)) for c in columns))


def _counted(variable: Variable, values: Array) -> Array:
    """Return the elements that count, as a vector."""
    return np.ravel(values if variable.rows is None else values[variable.rows])


def _slot_dtype(variable: Variable) -> str:
    return "float64" if variable.dtype == "float64" else "float32"


def _overflown(values: Array, dtype: str) -> Array:
    """Return values with those that are too large for the dtype replaced by infinity."""
    return np.where(values > np.finfo(dtype).max, math.inf, values)


def _rounded(values: Array, dtype: str) -> Array:
    """Return values as a weight of the dtype holds them."""
    if dtype in HALF_PRECISION:
        values = values.astype(np.float32).astype(HALF_PRECISION[dtype])
    return values.astype(dtype if dtype not in HALF_PRECISION else np.float64).astype(np.float64)


def _norm(values: Array) -> float:
    return math.sqrt(float(np.sum(values**2)))
