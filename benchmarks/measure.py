"""How contenders are timed side by side: check that they agree, warm up, then in turn.

    A B C  B C A  C A B ...

in one process, each turn a block of calls that ends when the device has finished. A ratio is
taken within a round, so that what slows the machine for a while slows both sides of it. Each turn
begins with a call that is not timed, so that none pays for what the one before it left in the
caches. Where in memory a contender's arrays happened to come to lie can make a tenth of its time,
for as long as it lives: where a target is close to one, all are built anew several times.
"""

import collections
import dataclasses
import gc
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import OURS, Comparison, Entry, Figure, Result

Array = NDArray[np.float32]

# Ratios so close to one that where the arrays happen to lie could decide.
CLOSE = (0.5, 1.0)
# A block should outlast the clock's and the scheduler's grain.
BLOCK_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much time a run may take."""

    quick: bool = False
    # Per row: time to fill with rounds, once every contender had `rounds` turns.
    seconds: float = 2.0
    # So many times longer where a target is to be judged, and where that is close to one: there
    # two medians are to be told apart that differ by 3 %, so all contenders are built several
    # times as well.
    patience: int = 4
    close_patience: int = 16
    builds: int = 3
    rounds: int = 7
    # Fresh processes per contender, where each gives one value only.
    processes: int = 2


QUICK = Settings(
    quick=True, seconds=0.1, patience=1, close_patience=1, builds=1, rounds=3, processes=1
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something that makes steps."""

    step: Callable[[], object]
    # Returns when the device has finished what was asked of it.
    wait: Callable[[], object]
    # None for a bound that only moves as many bytes as a step would.
    weights: Callable[[], Sequence[Array]] | None
    steps_per_call: int = 1


# How far the contender's weights are from the expected ones, as a fraction of the distance
# travelled; it may make steps to find out. Raises `Disagreement` where that is too far.
Check = Callable[[str, Contender], float]


class NotComparableError(Exception):
    """This contender cannot make the steps of this row; the message says why."""


class DisagreementError(Exception):
    """This contender makes other steps than it should, so its speed means nothing."""


def compare(
    builders: Mapping[str, Callable[[], Contender]],
    check: Check,
    settings: Settings,
    targets: Mapping[str, float] | None = None,
) -> Result:
    """Build, check and time contenders; one that fails stays in the result with its reason.

    Args:
        builders: makes each contender; ours is called `OURS`.
        check: whether a contender makes the right steps.
        settings: how long to measure.
        targets: for a peer's name, how many times faster ours has to be.
    """
    builds, patience = 1, settings.patience if targets else 1
    if any(CLOSE[0] <= target <= CLOSE[1] for target in (targets or {}).values()):
        builds, patience = settings.builds, settings.close_patience
    order = collections.deque(builders)
    deviations: dict[str, float] = {}
    failures: dict[str, str] = {}
    times: dict[str, list[float]] = {name: [] for name in builders}
    for _ in range(builds):
        contenders: dict[str, Contender] = {}
        for name in order:
            if name not in failures:
                try:
                    contenders[name], deviation = _checked(builders[name], name, check)
                    deviations[name] = max(deviation, deviations.get(name, 0.0))
                except Exception as error:  # the failure is a result
                    failures[name] = describe(error)
        turns = take_turns(contenders, settings.rounds, settings.seconds * patience / builds)
        for name, seconds in turns.items():
            times[name] += seconds
        contenders.clear()
        gc.collect()
        # The first one built gets the memory that was freed last.
        order.rotate(-1)
    timed = {name: values for name, values in times.items() if name not in failures}
    entries = {name: Entry(failure=failure) for name, failure in failures.items()} | {
        name: Entry(Figure.of([1e3 * t for t in values]), deviation=deviations[name])
        for name, values in timed.items()
    }
    in_order = {name: entries[name] for name in builders}
    return Result("ms", in_order, ratios(timed, targets or {}))


def _checked(build: Callable[[], Contender], name: str, check: Check) -> tuple[Contender, float]:
    contender = build()
    return contender, check(name, contender)


def ratios(times: Mapping[str, Sequence[float]], targets: Mapping[str, float]) -> list[Comparison]:
    """Compare ours with each peer, round by round."""
    if OURS not in times:
        return []
    return [
        Comparison(
            peer,
            Figure.of([theirs / ours for theirs, ours in zip(values, times[OURS], strict=True)]),
            target=targets.get(peer),
        )
        for peer, values in times.items()
        if peer != OURS
    ]


def take_turns(
    contenders: Mapping[str, Contender], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return seconds per step for each round of each contender: so many rounds, or so long."""
    calls = {name: _calls_per_block(contender) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    deadline = time.perf_counter() + seconds
    order = collections.deque(contenders)
    done = 0
    while contenders and (done < rounds or time.perf_counter() < deadline):
        for name in order:
            contenders[name].step()
            times[name].append(seconds_per_step(contenders[name], calls[name]))
        order.rotate(-1)
        done += 1
    return times


def seconds_per_step(contender: Contender, calls: int) -> float:
    """Time a block of calls to its end on the device, without the garbage collector's pauses."""
    contender.wait()
    gc.disable()
    start = time.perf_counter()
    for _ in range(calls):
        contender.step()
    contender.wait()
    elapsed = time.perf_counter() - start
    gc.enable()
    return elapsed / (calls * contender.steps_per_call)


def describe(error: BaseException) -> str:
    """The reason of a failure in one line."""
    text = " ".join(str(error).split()) or "no message"
    if not isinstance(error, NotComparableError):
        text = f"{type(error).__name__}: {text}"
    return text[:200]


def _calls_per_block(contender: Contender) -> int:
    seconds_per_step(contender, 1)  # warm-up, after that of the check
    seconds = seconds_per_step(contender, 1) * contender.steps_per_call
    return max(1, min(1000, round(BLOCK_SECONDS / seconds)))
