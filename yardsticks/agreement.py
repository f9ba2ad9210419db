"""Measure how far the optimizer deviates from the float64 reference, side by side.

"The same" means |difference| <= tolerance * distance travelled + one ulp(w) per step. Rounding the
weight alone costs an ulp, which a tolerance on the distance does not cover.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

import keras_rmsprop
from keras_rmsprop.reference import Reference, ReferenceParameter
from yardsticks.peers import Snapshot
from yardsticks.variants import Variant

Array = NDArray[Any]

TOLERANCE = {"float64": 1e-13, "float32": 2e-6}

# The reference's names of weight and slots, in the order of `optimizer._roster.parameters`.
SLOTS = ("weight", "square_average", "gradient_average", "momentum", "accumulator", "average")


# The settings of single weights, by position.
Groups = Mapping[int, Mapping[str, Any]]


class Problem(NamedTuple):
    """Initial weights, learning rates and gradients."""

    # Each with the shape and dtype of its variable.
    starts: list[Array]
    # For each step a learning rate, exact in float32, and for each weight a gradient or None.
    rates: list[float]
    gradients: list[list[Array | None]]


RANKS: tuple[tuple[int, ...], ...] = ((), (2, 3), (2, 2, 2))


def make_problem(*weights: tuple[tuple[int, ...], str], steps: int = 32) -> Problem:
    """Return weights of the given shapes and dtypes, noisy gradients and a changing rate.

    The sizes of the gradients span two decades, the last weight but one has no gradient at some
    steps, one learning rate is zero, and the rate falls to a third half-way.
    """
    rng = np.random.default_rng(0)
    starts = [np.asarray(rng.normal(0.0, 1.0, shape), dtype) for shape, dtype in weights]
    scales = [np.asarray(10.0 ** rng.uniform(-1.0, 1.0, shape)) for shape, _ in weights]
    gradients: list[list[Array | None]] = [
        [
            np.asarray(scale * rng.normal(0.3, 1.0, scale.shape), dtype)
            for scale, (_, dtype) in zip(scales, weights, strict=True)
        ]
        for _ in range(steps)
    ]
    for t in range(4, steps, 6):
        gradients[t][-2] = None
    rates = 0.02 * (1.0 + 0.5 * np.sin(np.arange(steps)))
    rates[steps // 2 :] /= 3.0
    rates[7] = 0.0
    return Problem(starts, rates.astype(np.float32).tolist(), gradients)


class Difference(NamedTuple):
    """The largest deviation of one kind of tensor, over all steps and weights."""

    # |difference| relative to what "the same" allows; at most 1 to pass.
    share: float = 0.0
    # |difference| relative to the distance travelled (for averages, to the largest value seen).
    relative: float = 0.0

    def or_worse(self, other: "Difference") -> "Difference":
        """Return the worse of the two, each figure separately."""
        return Difference(max(self.share, other.share), max(self.relative, other.relative))


def differences(
    variant: Variant,
    problem: Problem,
    tolerance: Mapping[str, float] = TOLERANCE,
    *,
    jit_compile: Any = False,
    groups: Groups | None = None,
) -> dict[tuple[str, str], Difference]:
    """Run the optimizer and the reference through the problem, side by side.

    Args:
        variant: the configuration of both.
        problem: the initial weights, learning rates and gradients.
        tolerance: for each dtype, relative to the distance travelled.
        jit_compile: of the optimizer; op by op by default, because compiling takes seconds.
        groups: the settings of single weights, by position.

    Returns: the worst difference for each dtype and kind of tensor.
    """
    driver = Driver(variant, problem, jit_compile, groups)
    reference = reference_of(variant, problem, groups)
    worst: dict[tuple[str, str], Difference] = {}
    travelled = [np.zeros(start.shape) for start in problem.starts]
    largest: dict[tuple[int, str], float] = {}
    last = len(problem.rates) - 1
    for t, (rate, gradients) in enumerate(zip(problem.rates, problem.gradients, strict=True)):
        before = reference.weights
        reference.apply(gradients, rate)
        driver.apply(t)
        sizes = {}
        for i, want in enumerate(reference.parameters):
            travelled[i] = travelled[i] + np.abs(want.weight - before[i])
            for name in SLOTS:
                size = float(np.max(np.abs(_size(want, name))))
                sizes[i, name] = largest[i, name] = max(size, largest.get((i, name), 0.0))
        # Reading takes as long as a step, and errors persist for more than 8 steps.
        if t % 8 != 7 and t != last:
            continue
        for i, (want, got) in enumerate(zip(reference.parameters, driver.state(), strict=True)):
            dtype = problem.starts[i].dtype
            ulps = (t + 1) * float(np.max(np.spacing(np.abs(want.weight).astype(dtype))))
            for name, value in got.items():
                moves = name in ("weight", "average")
                key = (dtype.name, name)
                difference = _difference(
                    value,
                    getattr(want, name),
                    scale=float(np.max(travelled[i])) if moves else sizes[i, name],
                    rounding=ulps if moves else 0.0,
                    tolerance=tolerance[dtype.name],
                )
                worst[key] = worst.get(key, Difference()).or_worse(difference)
    return worst


def _size(parameter: ReferenceParameter, name: str) -> Array:
    """Return the values whose rounding causes a slot's error."""
    if name == "square_average":
        # E[g²] = s + m²: however small the variance s is, a clipped gradient has a rounding error
        # proportional to the gradient.
        return parameter.square_average + parameter.gradient_average**2
    return np.asarray(getattr(parameter, name))


def _difference(
    got: Array, want: Array, *, scale: float, rounding: float, tolerance: float
) -> Difference:
    off = float(np.max(np.abs(got.astype(np.float64) - want)))
    if off == 0.0:
        return Difference()
    allowed = tolerance * scale + rounding
    if not (off < np.inf and allowed > 0.0):
        return Difference(np.inf, np.inf)  # NaN on either side counts as infinitely far.
    return Difference(off / allowed, off / scale if scale else np.inf)


def compare_runs(
    got: Sequence[Snapshot], want: Sequence[Snapshot], starts: Sequence[Array], tolerance: float
) -> dict[tuple[str, int], Difference]:
    """Compare two runs from the same weights element by element, after every step.

    Slot errors are relative to the largest value seen; for the centered average, to the raw average
    of squares, from which the frameworks subtract.

    Returns: for each kind of tensor and each weight the worst share of what "the same" allows, and
        the relative difference at the end.
    """
    found = {}
    for i, start in enumerate(starts):
        weights = np.array([start, *(theirs.weights[i] for theirs in want)])
        travelled = np.cumsum(np.abs(np.diff(weights, axis=0)), axis=0)
        steps = np.arange(1, len(want) + 1).reshape(-1, *[1] * start.ndim)
        rounding = steps * np.spacing(np.maximum(np.abs(weights[1:]), np.abs(weights[:-1])))
        mine = np.array([snapshot.weights[i] for snapshot in got])
        off = np.abs(mine - weights[1:])
        found["weight", i] = _worst(off, tolerance * travelled + rounding, travelled)
        for name in want[-1].slots:
            values = np.array([theirs.slots[name][i] for theirs in want])
            sizes = np.abs(values)
            if name == "square_average" and "gradient_average" in want[-1].slots:
                sizes += np.array([theirs.slots["gradient_average"][i] ** 2 for theirs in want])
            largest = np.maximum.accumulate(sizes, axis=0)
            off = np.abs(np.array([snapshot.slots[name][i] for snapshot in got]) - values)
            found[name, i] = _worst(off, tolerance * largest, largest)
    return found


def _worst(off: Array, allowed: Array, scale: Array) -> Difference:
    shares = np.divide(off, allowed, out=np.where(off == 0.0, 0.0, np.inf), where=allowed > 0.0)
    # np.max propagates NaN, which counts as infinitely far.
    worst = np.array([np.max(shares), np.max(off[-1]) / np.max(scale[-1])])
    return Difference(*np.where(np.isnan(worst), np.inf, worst).tolist())


class NonNegative(keras.constraints.Constraint):
    """A replacement for Keras's NonNeg, whose `ops.maximum` rounds float64 on torch."""

    def __call__(self, w: Any) -> Any:
        """Return w with negative elements set to zero."""
        return ops.relu(w)


class Driver:
    """A run of a variant's `keras_rmsprop.RMSprop` through a problem, step by step."""

    def __init__(
        self, variant: Variant, problem: Problem, jit_compile: Any, groups: Groups | None = None
    ) -> None:
        self.problem = problem
        self.levels = variant.levels
        self.rate = problem.rates[0]
        self.variables = [
            keras.Variable(start, dtype=start.dtype.name, name=f"weight_{i}")
            for i, start in enumerate(problem.starts)
        ]
        if self.levels.get("constraint") == "constrained":
            self.variables[-1].constraint = NonNegative()
        self.optimizer = rmsprop(
            learning_rate=self._learning_rate(),
            jit_compile=jit_compile,
            groups={f"weight_{i}": own for i, own in (groups or {}).items()} or None,
            **variant.arguments,
        )
        if self.levels.get("decay") == "decay_but_one":
            self.optimizer.exclude_from_weight_decay(var_names=["weight_1"])
        self.optimizer.build(self.variables)

    def apply(self, t: int) -> None:
        """Make step `t`, 0 for the first."""
        self.rate = self.problem.rates[t]
        if self.levels.get("rate", "assigned") == "assigned":
            self.optimizer.learning_rate = self.rate
        gradients = [
            None if g is None else ops.convert_to_tensor(g) for g in self.problem.gradients[t]
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            self.optimizer.apply(gradients, self.variables)

    def state(self) -> list[dict[str, Array]]:
        """Return each weight with its slots, as NumPy arrays."""
        return [
            {
                name: ops.convert_to_numpy(ops.convert_to_tensor(owner))
                for name, owner in zip(SLOTS, owners, strict=True)
                if owner is not None
            }
            for owners in self.optimizer._roster.parameters
        ]

    def _learning_rate(self) -> Any:
        match self.levels.get("rate"):
            case "schedule":
                return ListSchedule(self.problem.rates)
            case "callable":
                return lambda: self.rate
        return self.rate


class ListSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that reads its rates from a list."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = np.asarray(rates, np.float32)

    def __call__(self, step: Any) -> Any:
        """Return the rate after `step` calls."""
        return ops.take(ops.convert_to_tensor(self.rates), step)


def rmsprop(**arguments: Any) -> keras_rmsprop.RMSprop:
    """Return the optimizer, without the warning about centered and bias-corrected averages."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*makes the first variance exactly")
        return keras_rmsprop.RMSprop(**arguments)


def reference_of(variant: Variant, problem: Problem, groups: Groups | None = None) -> Reference:
    """Return the reference of a variant, for the weights of a problem."""
    levels = variant.levels
    count = len(problem.starts)
    constrained = levels.get("constraint") == "constrained"
    return Reference(
        problem.starts,
        decayed=[i != 1 or levels.get("decay") != "decay_but_one" for i in range(count)],
        constraints=[
            (lambda w: np.maximum(w, 0.0)) if constrained and i == count - 1 else None
            for i in range(count)
        ],
        groups=[(groups or {}).get(i) for i in range(count)],
        **variant.arguments,
    )
