"""RMSprop in plain NumPy float64.

This module is for reading and teaching, and is the oracle of the tests. It prefers one line per
equation over speed, always works in float64, and imports nothing else of the package, so that it
cannot share the package's errors.

The equations, for step t = 1, 2, ... of one weight w with gradient g:

    k_t = 1 - rho                      or, bias corrected, (1 - rho) / (1 - rho**t)

    plain:     s_t = (1 - k_t) * s_{t-1} + k_t * g**2            s_0 = initial_square_average
    centered:  d   = g - m_{t-1}
               m_t = m_{t-1} + k_t * d                           m_0 = 0
               s_t = (1 - k_t) * (s_{t-1} + k_t * d**2)

    r_t = sqrt(s_t + epsilon)          or, epsilon outside, sqrt(s_t) + epsilon

    no momentum:       w <- w - lr * g / r_t
    lr in momentum:    b_t = momentum * b_{t-1} + lr * g / r_t
                       w <- w - b_t                  (nesterov: momentum * b_t + lr * g / r_t)
    lr outside:        b_t = momentum * b_{t-1} + g / r_t
                       w <- w - lr * b_t             (nesterov: momentum * b_t + g / r_t)

Sources: Hinton, "Neural Networks for Machine Learning", lecture 6e (2012), for the plain
form; Graves, arXiv:1308.0850 (2013), eq. 38-45, for the centered form with momentum; West,
Communications of the ACM 22 (1979) 532-535, for the update of the centered second moment.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# The settings that a weight may override; `learning_rate` is a factor of the step's rate.
OF_A_WEIGHT = (
    "learning_rate",
    "rho",
    "momentum",
    "epsilon",
    "weight_decay",
    "l2",
    "maximize",
    "transform",
)


@dataclasses.dataclass
class ReferenceParameter:
    """One weight with its slots; all arrays have the weight's shape."""

    weight: Array
    square_average: Array
    gradient_average: Array
    momentum: Array
    accumulator: Array
    average: Array


class Reference:
    """RMSprop over a list of arrays, one `apply` per batch.

    The arguments are those of `keras_rmsprop.RMSprop`, with the same meaning and defaults, except
    that `learning_rate` is passed to `apply`, so that a test can change it at every step.

    Args:
        weights: the initial weights, a sequence of array-likes of any shape.
        rho: decay rate of the running averages, in [0, 1).
        momentum: decay rate of the momentum buffer, in [0, 1); 0 for none.
        epsilon: added to s (unit: gradient squared), or to its root (unit: gradient).
        centered: whether s is the variance about the mean gradient.
        nesterov: whether the step looks ahead along the momentum buffer.
        epsilon_inside_sqrt: whether epsilon is under the root.
        lr_in_momentum: whether the buffer holds steps (True) or unscaled directions.
        bias_correction: whether k_t corrects for the averages' start from zero.
        initial_square_average: s_0, >= 0.
        l2: coefficient of the penalty l2 / 2 * |w|**2, added to the gradient as l2 * w.
        maximize: whether the steps ascend.
        weight_decay: decoupled decay, w <- w - lr * weight_decay * w, or None.
        decayed: for each weight, whether `weight_decay` applies to it; None for all.
        clipnorm, clipvalue, global_clipnorm: at most one of the three; None for none.
        use_ema, ema_momentum, ema_overwrite_frequency: moving average of the weights.
        loss_scale_factor: divides the gradients, or None.
        gradient_accumulation_steps: the number of gradients averaged for one step, or None.
        constraints: for each weight a function of it, or None.
        transform: a function of (gradient, weight), both after clipping, that returns the
            gradient to use, or None.
        state_dtype: None, or "bfloat16" to round the slots after each step, up or down with the
            random numbers of the package. They are rounded to float32 first.
        groups: for each weight a mapping of those settings that it has for itself (the keys are
            `OF_A_WEIGHT`), or None. Its `learning_rate` is a factor of the step's rate.

    Example:
    >>> import numpy as np
    >>> reference = Reference([[1.0, 2.0]], epsilon=0.0)
    >>> reference.apply([np.array([3.0, -4.0])], learning_rate=0.1)
    >>> reference.weights[0].round(6)         # the first step is lr / sqrt(1 - rho) long
    array([0.683772, 2.316228])
    """

    def __init__(
        self,
        weights: Sequence[ArrayLike],
        *,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        nesterov: bool = False,
        epsilon_inside_sqrt: bool = True,
        lr_in_momentum: bool = True,
        bias_correction: bool = False,
        initial_square_average: float = 0.0,
        l2: float = 0.0,
        maximize: bool = False,
        weight_decay: float | None = None,
        decayed: Sequence[bool] | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        constraints: Sequence[Callable[[Array], Array] | None] | None = None,
        transform: Callable[[Array, Array], Array] | None = None,
        state_dtype: str | None = None,
        groups: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        self.learning_rate = 1.0
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.nesterov = nesterov
        self.epsilon_inside_sqrt = epsilon_inside_sqrt
        self.lr_in_momentum = lr_in_momentum
        self.bias_correction = bias_correction
        self.l2 = l2
        self.maximize = maximize
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema = use_ema
        self.ema_momentum = ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.loss_scale_factor = loss_scale_factor
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.decayed = [True] * len(weights) if decayed is None else list(decayed)
        self.constraints = [None] * len(weights) if constraints is None else list(constraints)
        self.transform = transform
        self.state_dtype = state_dtype
        self.groups = [group or {} for group in groups or [None] * len(weights)]
        unknown = {name for group in self.groups for name in group} - set(OF_A_WEIGHT)
        if unknown or len(self.groups) != len(weights):
            raise ValueError(
                f"`groups` must hold a mapping of {', '.join(OF_A_WEIGHT)} for each of "
                f"{len(weights)} weights, received {groups!r}."
            )
        self.calls = 0
        self.parameters = [
            ReferenceParameter(
                weight=weight,
                square_average=np.full_like(weight, initial_square_average),
                gradient_average=np.zeros_like(weight),
                momentum=np.zeros_like(weight),
                accumulator=np.zeros_like(weight),
                average=np.zeros_like(weight),
            )
            for weight in (np.array(weight, np.float64) for weight in weights)
        ]

    @property
    def weights(self) -> list[Array]:
        """The current weights, one float64 array each."""
        return [parameter.weight for parameter in self.parameters]

    @property
    def iterations(self) -> int:
        """Steps made so far: calls of `apply` divided by the accumulation steps."""
        return self.calls // (self.gradient_accumulation_steps or 1)

    def apply(self, gradients: Sequence[ArrayLike | None], learning_rate: float) -> None:
        """Make one step; a weight whose gradient is None does not move.

        Args:
            gradients: for each weight an array-like of its shape, or None.
            learning_rate: lr, >= 0.
        """
        if len(gradients) != len(self.parameters):
            raise ValueError(f"{len(self.parameters)} weights, but {len(gradients)} gradients.")
        present = [i for i, g in enumerate(gradients) if g is not None]
        batch = [np.array(gradients[i], np.float64) for i in present]
        batch = [gradient / (self.loss_scale_factor or 1.0) for gradient in batch]

        steps = self.gradient_accumulation_steps or 1
        completes = (self.calls + 1) % steps == 0
        for place, i in enumerate(present):
            parameter = self.parameters[i]
            parameter.accumulator = parameter.accumulator + batch[place]
            batch[place] = parameter.accumulator / steps

        if completes:
            for i, gradient in zip(present, self._clip(batch), strict=True):
                self._update(i, gradient, learning_rate)
                # A weight without a gradient in this call keeps its sum.
                self.parameters[i].accumulator = np.zeros_like(self.parameters[i].weight)

        if self.use_ema:
            self._average()
        for parameter, given, constraint in zip(
            self.parameters, gradients, self.constraints, strict=True
        ):
            if constraint is not None and given is not None:
                parameter.weight = np.asarray(constraint(parameter.weight), np.float64)
        self.calls += 1

    def _update(self, i: int, gradient: Array, learning_rate: float) -> None:
        parameter = self.parameters[i]
        own = {name: self.groups[i].get(name, getattr(self, name)) for name in OF_A_WEIGHT}
        rho, momentum, epsilon = own["rho"], own["momentum"], own["epsilon"]
        g, w, lr = gradient, parameter.weight, learning_rate * own["learning_rate"]
        t = self.iterations + 1

        if own["transform"] is not None:
            g = np.asarray(own["transform"](g, w), np.float64)
        g = -g if own["maximize"] else g
        g = g + own["l2"] * w
        if self.decayed[i] and own["weight_decay"] is not None:
            w = w - lr * own["weight_decay"] * w

        k = 1.0 - rho
        if self.bias_correction and rho > 0.0:
            # 1 - rho**t, without cancellation for rho near 1.
            k = (1.0 - rho) / -math.expm1(t * math.log(rho))
        if self.bias_correction and t == 1:
            k = 1.0

        if self.centered:
            d = g - parameter.gradient_average
            m = parameter.gradient_average + k * d
            s = (1.0 - k) * (parameter.square_average + k * d**2)
        else:
            m = parameter.gradient_average
            s = (1.0 - k) * parameter.square_average + k * g**2

        r = np.sqrt(s + epsilon) if self.epsilon_inside_sqrt else np.sqrt(s) + epsilon
        r = np.where(r == 0.0, np.inf, r)  # where r is 0, g is 0, and the step must be 0

        b = parameter.momentum
        if momentum == 0.0:
            w = w - lr * g / r
        elif self.lr_in_momentum:
            b = momentum * b + lr * g / r
            w = w - (momentum * b + lr * g / r if self.nesterov else b)
        else:
            b = momentum * b + g / r
            w = w - lr * (momentum * b + g / r if self.nesterov else b)

        if self.state_dtype == "bfloat16":
            s, m, b = (
                to_bfloat16(slot, step=t, weight=i, kind=kind)
                for kind, slot in enumerate((s, m, b))
            )

        parameter.weight = w
        parameter.square_average = s
        parameter.gradient_average = m
        parameter.momentum = b

    def _clip(self, gradients: list[Array]) -> list[Array]:
        if self.clipvalue is not None:
            return [np.clip(g, -self.clipvalue, self.clipvalue) for g in gradients]
        if self.clipnorm is not None:
            return [g * self.clipnorm / max(norm(g), self.clipnorm) for g in gradients]
        if self.global_clipnorm is not None:
            total = math.sqrt(sum(norm(g) ** 2 for g in gradients))
            return [g * self.global_clipnorm / max(total, self.global_clipnorm) for g in gradients]
        return gradients

    def _average(self) -> None:
        # The first average is a copy of the weights, so that it starts unbiased.
        keep = self.ema_momentum if self.iterations > 0 else 0.0
        every = self.ema_overwrite_frequency
        overwrite = every is not None and (self.iterations + 1) % every == 0
        for parameter in self.parameters:
            parameter.average = keep * parameter.average + (1.0 - keep) * parameter.weight
            if overwrite:
                parameter.weight = parameter.average.copy()


def to_bfloat16(array: ArrayLike, *, step: int, weight: int, kind: int) -> Array:
    """Round an array to bfloat16 at random, without bias.

    The bits of each number in float32, of which bfloat16 is the upper half, are increased by a
    random integer below 2**16, and the lower half is cut off. The integer is a hash of the four
    numbers that say which element of the state it is for, and when.

    Args:
        array: float64, any shape; rounded to float32 first.
        step: t, 1 for the first.
        weight: the index of the weight.
        kind: 0 for the square average, 1 for the gradient average, 2 for the momentum buffer.

    >>> from collections import Counter
    >>> rounded = to_bfloat16(np.full(1000, 1.001953125), step=1, weight=0, kind=0)
    >>> sorted(Counter(rounded.tolist()).items())        # a quarter of the way to 1.0078125
    [(1.0, 744), (1.0078125, 256)]
    """
    with np.errstate(over="ignore"):
        bits = np.asarray(array).astype(np.float32).view(np.uint32)
    key = _mixed(np.uint64(_mixed(np.uint64(step - 1 + 0x3C6EF372)) + 3 * weight + kind))
    index = np.arange(bits.size, dtype=np.uint64).reshape(bits.shape)
    random = _scrambled(index + key) >> np.uint64(16)
    # Infinity, NaN, and what is beyond the largest bfloat16 number, are not increased.
    magnitude = bits & np.uint32(0x7FFFFFFF)
    random = np.where(magnitude < 0x7F7F0000, random, 0).astype(np.uint32)
    kept = (bits + random) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(np.float64)


def _mixed(x: Any) -> Any:
    x = x % 2**32
    x = _scrambled(x ^ (x >> 16))
    return x ^ (x >> 16)


def _scrambled(x: Any) -> Any:
    """A hash of 32 bits, of which the upper 16 are well mixed (C. Wellons, lowbias32, 2018)."""
    x = x * 0x7FEB352D % 2**32
    return (x ^ (x >> 15)) * 0x846CA68B % 2**32


def norm(array: Array) -> float:
    """Return the Euclidean norm of the array."""
    return math.sqrt(float(np.sum(array**2)))


def effective_learning_rate(
    square_average: ArrayLike,
    *,
    learning_rate: float,
    epsilon: float = 1e-7,
    epsilon_inside_sqrt: bool = True,
) -> Array:
    """Return the step per unit of gradient, lr / r_t, for a given running average of squares.

    >>> effective_learning_rate([4.0, 25.0], learning_rate=0.1, epsilon=0.0)
    array([0.05, 0.02])
    """
    s = np.asarray(square_average, np.float64)
    r = np.sqrt(s + epsilon) if epsilon_inside_sqrt else np.sqrt(s) + epsilon
    return np.asarray(learning_rate / r)
