"""The learning rate schedules of the recipes that `keras.optimizers.schedules` does not have.

They compute in `keras.config.floatx()`, and count in integers.
"""

import math
import numbers
from fractions import Fraction
from typing import Any, TypeVar

import keras
import numpy as np
from keras import config, ops
from keras.optimizers import schedules

from keras_rmsprop._math._rule import Tensor
from keras_rmsprop._settings._validation import checked_learning_rate, shown

# Counts are int32, as on JAX and torch, and no intermediate result may exceed it.
_LARGEST_COUNT = 2**31 - 1

_Wrapper = TypeVar("_Wrapper", bound="_OfSchedule")


@keras.saving.register_keras_serializable(package="keras_rmsprop")
class StaircaseDecay(schedules.LearningRateSchedule):
    """A rate that is multiplied by a factor again and again, after equal numbers of steps.

        rate after n steps = initial_learning_rate * decay_rate ** d
        d = floor((n - delay) / decay_steps), and 0 up to `delay`

    `keras.optimizers.schedules.ExponentialDecay(staircase=True)` is the same without `delay`, but
    uses `decay_rate` in float32 on TensorFlow, also if floatx is float64, and counts in floatx,
    which in float32 confuses steps beyond 2**24.

    Args:
        initial_learning_rate: the first rate, >= 0.
        decay_rate: the factor, finite and > 0.
        decay_steps: the number of steps between two decays, finite and > 0; not necessarily an
            integer. It is replaced by the nearest fraction with a small denominator, which is
            exact for numbers such as 2.4 * 313.
        delay: the number of steps from which on the steps are counted, an integer >= 0. Default 0.

    Raises: ValueError if an argument is out of range.

    Example:
    >>> from keras_rmsprop import recipes
    >>> schedule = recipes.StaircaseDecay(0.5, decay_rate=0.5, decay_steps=2.5)
    >>> [float(schedule(n)) for n in range(6)]
    [0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_rate: float,
        decay_steps: float,
        delay: int = 0,
    ) -> None:
        self.initial_learning_rate = _checked_rate("initial_learning_rate", initial_learning_rate)
        self.decay_rate = _checked_positive("decay_rate", decay_rate)
        self.decay_steps = _checked_positive("decay_steps", decay_steps)
        self.delay = _checked_count("delay", delay, least=0)
        if self.decay_steps > _LARGEST_COUNT:
            raise ValueError(
                f"`decay_steps` must be less than 2**31, received decay_steps={decay_steps!r}."
            )
        # `__call__` multiplies the denominator by less than the numerator.
        largest = max(1, min(1000, math.isqrt(int(_LARGEST_COUNT / self.decay_steps))))
        period = Fraction(self.decay_steps).limit_denominator(largest)
        if period == 0:
            raise ValueError(
                f"`decay_steps` must be at least 0.001, received decay_steps={decay_steps!r}."
            )
        self._numerator, self._denominator = period.numerator, period.denominator

    def __call__(self, step: Any) -> Tensor:
        """Return the rate after `step` steps."""
        count = _count(step)
        if self.delay:
            count = ops.maximum(count - self.delay, 0)
        whole, rest = count // self._numerator, count % self._numerator
        decays = self._denominator * whole + (self._denominator * rest) // self._numerator
        # Operators, because ops.multiply and ops.power round Python numbers to float32 on
        # TensorFlow.
        return self.initial_learning_rate * self.decay_rate ** ops.cast(decays, config.floatx())

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_rate": self.decay_rate,
            "decay_steps": self.decay_steps,
            "delay": self.delay,
        }


@keras.saving.register_keras_serializable(package="keras_rmsprop")
class LinearDecay(schedules.LearningRateSchedule):
    """A rate that falls linearly to 0.

        rate after n steps = initial_learning_rate * (decay_steps - n) / decay_steps, or 0

    `keras.optimizers.schedules.PolynomialDecay` is the same, but computes in float32 on torch, and
    on TensorFlow also if floatx is float64; and it subtracts n / decay_steps from 1, so that in
    float32 the last rates before 0 are rounded, the last of 1e6 by 1.3 %.

    Args:
        initial_learning_rate: the first rate, >= 0.
        decay_steps: the number of steps after which the rate is 0, an integer >= 1.

    Raises: ValueError if an argument is out of range.

    Example:
    >>> from keras_rmsprop import recipes
    >>> schedule = recipes.LinearDecay(0.5, decay_steps=4)
    >>> [float(schedule(n)) for n in range(6)]
    [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    def __init__(self, initial_learning_rate: float, decay_steps: int) -> None:
        self.initial_learning_rate = _checked_rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = _checked_count("decay_steps", decay_steps, least=1)

    def __call__(self, step: Any) -> Tensor:
        """Return the rate after `step` steps."""
        left = ops.maximum(self.decay_steps - _count(step), 0)
        return self.initial_learning_rate * ops.cast(left, config.floatx()) / self.decay_steps

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
        }


class _OfSchedule(schedules.LearningRateSchedule):
    """A schedule that changes another one."""

    def __init__(self, schedule: schedules.LearningRateSchedule) -> None:
        if not isinstance(schedule, schedules.LearningRateSchedule):
            raise ValueError(
                "`schedule` must be a `keras.optimizers.schedules.LearningRateSchedule`, received "
                f"schedule={shown(schedule)}."
            )
        self.schedule = schedule

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the config of `schedule`."""
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)}

    @classmethod
    def from_config(
        cls: type[_Wrapper],
        config: dict[str, Any],
        custom_objects: dict[str, Any] | None = None,
    ) -> _Wrapper:
        """Create a schedule from its config."""
        schedule = keras.saving.deserialize_keras_object(
            config["schedule"], custom_objects=custom_objects
        )
        return cls(**{**config, "schedule": schedule})


@keras.saving.register_keras_serializable(package="keras_rmsprop")
class WarmUp(_OfSchedule):
    """A schedule whose first steps rise linearly.

        rate after n steps = start + (peak - start) * n / warmup_steps       n < warmup_steps
                             schedule(n)                                     otherwise

    The schedule is not delayed: it has counted the warm-up's steps when its turn comes.

    Args:
        schedule: the schedule after the warm-up.
        warmup_steps: the number of steps of the warm-up, an integer >= 1.
        peak: None, or the rate that the warm-up rises towards, >= 0. Default None, the schedule's
            rate after `warmup_steps` steps, which makes the two meet.
        start: the rate of the first step, >= 0. Default 0.0.

    Raises: ValueError if an argument is out of range.

    Example:
    >>> from keras_rmsprop import recipes
    >>> decay = recipes.StaircaseDecay(0.5, decay_rate=0.5, decay_steps=2)
    >>> schedule = recipes.WarmUp(decay, warmup_steps=4, peak=0.5)
    >>> [float(schedule(n)) for n in range(6)]
    [0.0, 0.125, 0.25, 0.375, 0.125, 0.125]
    """

    def __init__(
        self,
        schedule: schedules.LearningRateSchedule,
        warmup_steps: int,
        peak: float | None = None,
        start: float = 0.0,
    ) -> None:
        super().__init__(schedule)
        self.warmup_steps = _checked_count("warmup_steps", warmup_steps, least=1)
        self.peak = None if peak is None else _checked_rate("peak", peak)
        self.start = _checked_rate("start", start)

    def __call__(self, step: Any) -> Tensor:
        """Return the rate after `step` steps."""
        count = _count(step)
        peak = _rate(self.schedule, self.warmup_steps) if self.peak is None else self.peak
        steps = ops.cast(count, config.floatx())
        rising = (peak - self.start) * steps / self.warmup_steps + self.start
        return ops.where(count < self.warmup_steps, rising, _rate(self.schedule, count))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the config of `schedule`."""
        own = {"warmup_steps": self.warmup_steps, "peak": self.peak, "start": self.start}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_rmsprop")
class ColdStart(_OfSchedule):
    """A schedule whose first steps have a rate of their own.

        rate after n steps = cold_learning_rate                              n < cold_steps
                             schedule(n)                                     otherwise

    Args:
        schedule: the schedule afterwards, which has counted the first steps, too.
        cold_steps: the number of first steps, an integer >= 1.
        cold_learning_rate: their rate, >= 0.

    Raises: ValueError if an argument is out of range.

    Example:
    >>> from keras_rmsprop import recipes
    >>> decay = recipes.StaircaseDecay(0.5, decay_rate=0.5, decay_steps=2)
    >>> schedule = recipes.ColdStart(decay, cold_steps=1, cold_learning_rate=0.125)
    >>> [float(schedule(n)) for n in range(4)]
    [0.125, 0.5, 0.25, 0.25]
    """

    def __init__(
        self,
        schedule: schedules.LearningRateSchedule,
        cold_steps: int,
        cold_learning_rate: float,
    ) -> None:
        super().__init__(schedule)
        self.cold_steps = _checked_count("cold_steps", cold_steps, least=1)
        self.cold_learning_rate = _checked_rate("cold_learning_rate", cold_learning_rate)

    def __call__(self, step: Any) -> Tensor:
        """Return the rate after `step` steps."""
        count = _count(step)
        cold = _number(self.cold_learning_rate)
        return ops.where(count < self.cold_steps, cold, _rate(self.schedule, count))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the config of `schedule`."""
        own = {"cold_steps": self.cold_steps, "cold_learning_rate": self.cold_learning_rate}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_rmsprop")
class PerEpoch(_OfSchedule):
    """A schedule that counts epochs, so that the rate is the same throughout an epoch.

        rate after n steps = schedule(floor(n / steps_per_epoch))

    Args:
        schedule: a schedule of the number of completed epochs.
        steps_per_epoch: an integer >= 1.

    Raises: ValueError if an argument is out of range.

    Example:
    >>> from keras_rmsprop import recipes
    >>> decay = recipes.StaircaseDecay(0.5, decay_rate=0.5, decay_steps=1)
    >>> schedule = recipes.PerEpoch(decay, steps_per_epoch=2)
    >>> [float(schedule(n)) for n in range(6)]
    [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    """

    def __init__(self, schedule: schedules.LearningRateSchedule, steps_per_epoch: int) -> None:
        super().__init__(schedule)
        self.steps_per_epoch = _checked_count("steps_per_epoch", steps_per_epoch, least=1)

    def __call__(self, step: Any) -> Tensor:
        """Return the rate after `step` steps."""
        return _rate(self.schedule, _count(step) // self.steps_per_epoch)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the config of `schedule`."""
        return {**super().get_config(), "steps_per_epoch": self.steps_per_epoch}


@keras.saving.register_keras_serializable(package="keras_rmsprop")
class AtLeast(_OfSchedule):
    """A schedule that does not fall below a rate.

        rate after n steps = max(schedule(n), minimum)

    Args:
        schedule: any schedule.
        minimum: the least rate, >= 0.

    Raises: ValueError if an argument is out of range.

    Example:
    >>> from keras_rmsprop import recipes
    >>> decay = recipes.StaircaseDecay(0.5, decay_rate=0.5, decay_steps=1)
    >>> schedule = recipes.AtLeast(decay, minimum=0.25)
    >>> [float(schedule(n)) for n in range(4)]
    [0.5, 0.25, 0.25, 0.25]
    """

    def __init__(self, schedule: schedules.LearningRateSchedule, minimum: float) -> None:
        super().__init__(schedule)
        self.minimum = _checked_rate("minimum", minimum)

    def __call__(self, step: Any) -> Tensor:
        """Return the rate after `step` steps."""
        rate, minimum = _rate(self.schedule, step), _number(self.minimum)
        # Not ops.maximum, which returns float32 on torch.
        return ops.where(rate < minimum, minimum, rate)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the config of `schedule`."""
        return {**super().get_config(), "minimum": self.minimum}


def _count(step: Any) -> Tensor:
    """Return a number of steps as an int32 tensor."""
    return ops.cast(ops.convert_to_tensor(step), "int32")


def _rate(schedule: schedules.LearningRateSchedule, step: Any) -> Tensor:
    """Return a schedule's rate in floatx."""
    return ops.convert_to_tensor(schedule(step), dtype=config.floatx())


def _number(number: float) -> Tensor:
    """Return a number in floatx, without the rounding of `ops.cast` on TensorFlow."""
    return ops.convert_to_tensor(np.asarray(number, config.floatx()))


def _checked_rate(name: str, value: Any) -> float:
    """Return a constant rate as a float.

    Raises: ValueError if it is not a finite number >= 0.
    """
    rate = None if callable(value) else value
    try:
        return float(checked_learning_rate(rate))
    except ValueError:
        raise ValueError(
            f"`{name}` must be a finite number >= 0, received {name}={shown(value)}."
        ) from None


def _checked_positive(name: str, value: Any) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0.0 < float(value) < math.inf:
        raise ValueError(f"`{name}` must be finite and > 0, received {name}={shown(value)}.")
    return float(value)


def _checked_count(name: str, value: Any, *, least: int) -> int:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not least <= int(value) <= _LARGEST_COUNT:
        raise ValueError(f"`{name}` must be an integer >= {least}, received {name}={shown(value)}.")
    return int(value)
