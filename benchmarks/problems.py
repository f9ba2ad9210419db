"""Benchmark problems: weights, gradients, options, and the expected weights.

The expected weights come from the float64 reference in each contender's own convention (torch adds
epsilon outside the root), so that peers with different rules can be compared in one table and each
is checked against the right result.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.measure import Array, Contender, DisagreementError
from keras_rmsprop.reference import Reference

LEARNING_RATE = 0.001
EPSILON = 1e-7
# Our first step runs op by op, later ones are compiled: check both.
CHECKED_STEPS = 3
# For float32, relative to the distance travelled, in addition to roundings of the weight itself.
TOLERANCE = 2e-6
# About how many elements of a tensor are compared, unless a norm depends on all of them.
SAMPLE = 1_000_000

_CONV_COUNTS = {16: 20, 32: 20, 64: 22, 128: 18}

CASES: dict[str, list[tuple[int, ...]]] = {
    "scalar": [()],
    "mlp": [(784, 256), (256,), (256, 128), (128,), (128, 10), (10,)],
    # Kernels and biases of 80 convolutions: 160 tensors, 3.7M parameters.
    "conv160": [
        shape
        for channels, count in _CONV_COUNTS.items()
        for shape in [(3, 3, channels, channels), (channels,)] * count
    ],
    "matrix": [(4096, 4096)],
}

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipnorm+decay": {"clipnorm": 1.0, "weight_decay": 0.004},
    "global_clipnorm+ema": {"global_clipnorm": 1.0, "use_ema": True, "ema_momentum": 0.99},
}


class Problem:
    """Tensors of given shapes, and the options of the steps to make on them."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], **options: Any) -> None:
        self.shapes = shapes
        self.options = options
        # The number of elements of all weights.
        self.parameters = sum(map(math.prod, shapes))
        # Cached, because it takes seconds for a large tensor.
        self.expected = functools.cache(self._after_checked_steps)

    @functools.cached_property
    def start(self) -> list[Array]:
        """The weights before the first step."""
        rng = np.random.default_rng(0)
        return [np.asarray(rng.standard_normal(shape, np.float32)) for shape in self.shapes]

    @functools.cached_property
    def gradients(self) -> list[Array]:
        """One gradient per weight, spanning four decades, so that epsilon matters for some."""
        rng = np.random.default_rng(1)
        decades = np.float32(-9.0)
        return [
            np.asarray(
                rng.standard_normal(shape, np.float32)
                * np.exp(decades * rng.random(shape, np.float32))
            )
            for shape in self.shapes
        ]

    def forget(self) -> None:
        """Free the arrays, so that only the contenders' own copies take memory."""
        for name in ("start", "gradients"):
            self.__dict__.pop(name, None)

    def _after_checked_steps(self, **convention: Any) -> list[Array]:
        return self.after([self.gradients] * CHECKED_STEPS, **convention)

    def after(self, batches: Iterable[Sequence[Array | None]], **convention: Any) -> list[Array]:
        """Return the reference's (sampled) weights after one step per batch of gradients."""
        start = [self._sample(w) for w in self.start]
        reference = Reference(start, epsilon=EPSILON, **self.options, **convention)
        for batch in batches:
            reference.apply([None if g is None else self._sample(g) for g in batch], LEARNING_RATE)
        return [np.asarray(w) for w in reference.weights]

    def check(self, contender: Contender, **convention: Any) -> float:
        """Make the checked steps and return the deviation of the resulting weights."""
        if contender.weights is None:
            return 0.0
        for _ in range(CHECKED_STEPS):
            contender.step()
        contender.wait()
        return self.judge(contender.weights(), self.expected(**convention))

    def judge(
        self, weights: Sequence[Any], expected: Sequence[Array], steps: int = CHECKED_STEPS
    ) -> float:
        """Return the deviation of the weights after the given number of steps.

        Raises: DisagreementError if it is too large.
        """
        got = [self._sample(np.asarray(w)) for w in weights]
        start = [self._sample(w) for w in self.start]
        # Decay and update both round the weight.
        roundings = steps * (2 if self.options.get("weight_decay") else 1)
        return held_to(largest_deviation(got, expected, start, roundings), TOLERANCE)

    def _sample(self, array: Array) -> Array:
        norms = "clipnorm" in self.options or "global_clipnorm" in self.options
        every = 1 if norms else max(1, array.size // SAMPLE)
        return array.ravel()[::every]


def held_to(deviation: float, tolerance: float) -> float:
    """Return the deviation if it is small enough.

    Raises: DisagreementError if it is too large, or NaN.
    """
    if not deviation <= tolerance:
        raise DisagreementError(
            f"off by {deviation:.1e} of the distance travelled, allowed {tolerance:.0e}"
        )
    return deviation


def largest_deviation(
    got: Sequence[Array], expected: Sequence[Array], start: Sequence[Array], roundings: int
) -> float:
    """Return the largest deviation over the tensors, as a fraction of the distance travelled.

    The given number of roundings of a float32 weight is allowed in addition.
    """
    fractions = []
    for a, b, w in zip(got, expected, start, strict=True):
        wide = np.asarray(b, np.float64)
        rounding = roundings * np.spacing(np.abs(wide).astype(np.float32))
        off = np.max(np.maximum(np.abs(a - wide) - rounding, 0.0), initial=0.0)
        fractions.append(off / max(float(np.max(np.abs(wide - w), initial=0.0)), 1e-30))
    # np.max propagates NaN.
    return float(np.max(fractions, initial=0.0))
