"""How a published learning rate changes, and the schedule that follows for a training."""

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from keras.optimizers import schedules

from keras_rmsprop.conventions import TimeDecay
from keras_rmsprop.recipes._schedules import (
    AtLeast,
    ColdStart,
    LinearDecay,
    PerEpoch,
    StaircaseDecay,
    WarmUp,
)

# A number, or a schedule.
Rate: TypeAlias = Any

# The sizes of a training, by name.
Sizes: TypeAlias = Mapping[str, int]

# What the caller gave because the source does not, by name.
Given: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """A rate that does not change."""

    needs = ()

    def __str__(self) -> str:
        return "constant"

    def of(self, rate: float, sizes: Sizes, given: Given) -> Rate:
        """Return the rate or schedule of a training."""
        del sizes, given
        return rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearToZero:
    """A rate that falls linearly to 0 over the whole training."""

    needs = ("total_steps",)

    def __str__(self) -> str:
        return "linear to 0"

    def of(self, rate: float, sizes: Sizes, given: Given) -> Rate:
        """Return the rate or schedule of a training."""
        del given
        return LinearDecay(rate, sizes["total_steps"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseTime:
    """A rate that is divided by 1 + decay * (number of steps so far)."""

    decay: float

    needs = ()

    def __str__(self) -> str:
        return f"/ (1 + {number(self.decay)} n) after n steps"

    def of(self, rate: float, sizes: Sizes, given: Given) -> Rate:
        """Return the rate or schedule of a training."""
        del sizes, given
        return TimeDecay(rate, self.decay)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Staircase:
    """A rate that is multiplied by a factor every so many epochs, possibly after a warm-up.

    Epochs count from the first step, unless the caller gives `decay_counts_from`.

    Attributes:
        factor: None if the caller gives it as `decay_rate`.
        epochs: the number of epochs between two decays.
        whole_steps: whether the source rounds the steps between two decays down to an integer.
        delay_epochs: the number of epochs before the first of those that count.
        warmup_epochs: 0 for no warm-up, None if the caller gives it.
        warmup_start: the rate of the first step of the warm-up.
        warmup_meets: whether the warm-up rises to the rate at its end, rather than to the first.
        by_epoch: whether the rate changes between epochs only, also during the warm-up.
        cold_epochs: the number of first epochs that have the rate `cold_rate` instead.
        cold_rate: that rate.
        floor: the least rate, as a share of the first.
    """

    factor: float | None
    epochs: float
    whole_steps: bool = False
    delay_epochs: int = 0
    warmup_epochs: int | None = 0
    warmup_start: float = 0.0
    warmup_meets: bool = False
    by_epoch: bool = False
    cold_epochs: int = 0
    cold_rate: float = 0.0
    floor: float = 0.0

    needs = ("steps_per_epoch",)

    def __str__(self) -> str:
        parts = []
        if self.cold_epochs:
            parts.append(f"{number(self.cold_rate)} for {_epochs(self.cold_epochs)}")
        if self.warmup_epochs != 0:
            length = "? epochs" if self.warmup_epochs is None else _epochs(self.warmup_epochs)
            by_epoch = " by epoch" if self.by_epoch else ""
            parts.append(f"warm-up of {length} from {number(self.warmup_start)}{by_epoch}")
        every = "epoch" if self.epochs == 1 else f"{number(self.epochs)} epochs"
        after = f" after {_epochs(self.delay_epochs)}" if self.delay_epochs else ""
        parts.append(f"x {number_or_unknown(self.factor)} every {every}{after}")
        if self.floor:
            parts.append(f"at least {number(self.floor)} of the first rate")
        return ", ".join(parts)

    def of(self, rate: float, sizes: Sizes, given: Given) -> Rate:
        """Return the rate or schedule of a training."""
        per_epoch = sizes["steps_per_epoch"]
        # What the schedules below count: epochs or steps.
        unit = 1 if self.by_epoch else per_epoch
        warmup = given["warmup_epochs"] if self.warmup_epochs is None else self.warmup_epochs
        delay = self.delay_epochs
        if given.get("decay_counts_from") == "end of warm-up":
            delay += warmup
        period = Fraction(str(self.epochs)) * unit
        schedule: schedules.LearningRateSchedule = StaircaseDecay(
            rate,
            given["decay_rate"] if self.factor is None else self.factor,
            decay_steps=max(1, int(period)) if self.whole_steps else float(period),
            delay=delay * unit,
        )
        if warmup:
            peak = None if self.warmup_meets else rate
            schedule = WarmUp(schedule, warmup * unit, peak=peak, start=self.warmup_start)
        if self.cold_epochs:
            schedule = ColdStart(schedule, self.cold_epochs * unit, self.cold_rate)
        if self.floor:
            schedule = AtLeast(schedule, self.floor * rate)
        return PerEpoch(schedule, per_epoch) if self.by_epoch else schedule


Change: TypeAlias = Constant | LinearToZero | InverseTime | Staircase


def number(value: float) -> str:
    """Return a number as text, in at most four digits."""
    return f"{value:.4g}".replace("e-0", "e-")


def number_or_unknown(value: float | None) -> str:
    """Return a number as text, and "?" for one that is not published."""
    return "?" if value is None else number(value)


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
