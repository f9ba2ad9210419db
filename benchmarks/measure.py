"""Time contenders side by side: check that they agree, warm up, then take turns.

    A B C  B C A  C A B ...

All run in one process; each turn is a block of calls that ends when the device has finished. Ratios
are taken within a round, so that a temporary slowdown of the machine affects both sides. Each turn
of single steps starts with an untimed one, so that no contender pays for what the previous turn
left in the caches.

If a target is close to one, medians that differ by 3 % must be distinguished. So ours and that peer
take more turns, without the others, until the median of their ratio is known within `PRECISION`, or
lies so far from the target that more turns decide nothing, or `close_seconds` are over. Meanwhile
they are rebuilt repeatedly: the memory placement of the arrays can change the time by 10 %.
"""

import collections
import dataclasses
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import OURS, Line, lines_of, quartiles

Array = NDArray[np.float32]

# Targets in this range are so close to one that noise could decide.
CLOSE = (0.5, 2.0)
# A block should be long relative to the clock's resolution, and short relative to slowdowns.
BLOCK_SECONDS = 0.02
# The standard error of a ratio with a close target: a quarter of the 3 % in question.
PRECISION = 0.0075
# A ratio this many standard errors from its target is on that side of it. Asked again after every
# sitting, a smaller number would often decide by chance.
FAR = 5.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much time a run may take."""

    quick: bool = False
    # Per row: the minimum time and the minimum number of rounds.
    seconds: float = 2.0
    rounds: int = 7
    # The factor on `seconds` for rows with a target.
    patience: int = 4
    # For targets close to one: the maximum time with the two alone, the minimum number of rebuilds,
    # and the time for each.
    close_seconds: float = 180.0
    builds: int = 4
    sitting_seconds: float = 8.0
    # Fresh processes per contender, if each gives only one value.
    processes: int = 2


QUICK = Settings(
    quick=True, seconds=0.1, rounds=3, patience=1, close_seconds=0.0, builds=0, processes=1
)


class Contender(NamedTuple):
    """Something that makes steps."""

    step: Callable[[], object]
    # Returns when the device has finished its work.
    wait: Callable[[], object]
    # None for a bound that only moves as many bytes as a step.
    weights: Callable[[], Sequence[Array]] | None
    steps_per_call: int = 1


# For each contender's name a function that creates it.
Builders = Mapping[str, Callable[[], Contender]]

# Returns the deviation of a contender's weights from the expected ones, as a fraction of the
# distance travelled, after making steps. Raises `DisagreementError` if it is too large.
Check = Callable[[str, Contender], float]


class NotComparableError(Exception):
    """This contender cannot make the steps of this row; the message says why."""


class DisagreementError(Exception):
    """This contender makes wrong steps, so its speed is meaningless."""


def compare(
    builders: Builders,
    check: Check,
    settings: Settings,
    targets: Mapping[str, float] | None = None,
) -> list[Line]:
    """Build, check and time contenders; one that fails stays in the result with its reason.

    Args:
        builders: creates each contender; ours is called `OURS`.
        check: checks that a contender makes the right steps.
        settings: how long to measure.
        targets: by the peer's name, how many times faster ours has to be.
    """
    targets = targets or {}
    close = {peer for peer, target in targets.items() if CLOSE[0] <= target <= CLOSE[1]}
    deviations: dict[str, float] = {}
    failures: dict[str, str] = {}

    def build(names: Iterable[str]) -> dict[str, Contender]:
        contenders = {}
        for name in names:
            try:
                contender = builders[name]()
                deviations[name] = max(check(name, contender), deviations.get(name, 0.0))
                contenders[name] = contender
            except Exception as error:  # the failure is a result
                failures[name] = describe(error)
        return contenders

    seconds = settings.seconds * (settings.patience if targets else 1)
    sittings = [take_turns(build(builders), settings.rounds, seconds)]
    order = collections.deque(name for name in builders if name == OURS or name in close)
    deadline = time.perf_counter() + settings.close_seconds
    for built in itertools.count():
        # Rotate, because the first one built gets the memory that was freed last.
        order.rotate(-1)
        left = [name for name in order if name not in failures]
        if OURS not in left or len(left) < 2:
            break
        settled = all(
            is_settled(ratios(sittings, name), targets[name]) for name in left if name != OURS
        )
        if built >= settings.builds and (settled or time.perf_counter() >= deadline):
            break
        gc.collect()
        sittings.append(take_turns(build(left), settings.rounds, settings.sitting_seconds))

    outcomes: dict[str, Sequence[float] | str] = {}
    compared = {}
    for name in builders:
        if name in failures:
            outcomes[name] = failures[name]
            continue
        outcomes[name] = [1e3 * t for sitting in sittings for t in sitting.get(name, ())]
        if name != OURS and OURS in builders.keys() - failures.keys():
            compared[name] = ratios(sittings, name)
    return lines_of("ms", outcomes, compared, targets=targets, deviations=deviations)


def ratios(sittings: Sequence[Mapping[str, Sequence[float]]], peer: str) -> list[float]:
    """Divide a peer's time by ours, for each round of the sittings that include both."""
    return [
        theirs / ours
        for sitting in sittings
        if OURS in sitting and peer in sitting
        for theirs, ours in zip(sitting[peer], sitting[OURS], strict=True)
    ]


def is_settled(values: Sequence[float], target: float) -> bool:
    """Whether the median is known precisely, or at least on which side of the target it lies."""
    error = uncertainty(values)
    _, median, _ = quartiles(values)
    return error <= PRECISION or abs(median - target) > FAR * error * median


def uncertainty(values: Sequence[float]) -> float:
    """Return the relative standard error of the median, estimated from the quartiles.

    As for the notches of a box plot: McGill, Tukey and Larsen, "Variations of Box Plots", The
    American Statistician 32 (1978).
    """
    low, median, high = quartiles(values)
    return 1.25 * (high - low) / (1.35 * math.sqrt(len(values)) * median)


def take_turns(
    contenders: Mapping[str, Contender], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return seconds per step for each contender and round, until both limits are reached."""
    calls = {name: _calls_per_block(contender) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    deadline = time.perf_counter() + seconds
    order = collections.deque(contenders)
    done = 0
    while contenders and (done < rounds or time.perf_counter() < deadline):
        for name in order:
            if contenders[name].steps_per_call == 1:
                contenders[name].step()
            times[name].append(seconds_per_step(contenders[name], calls[name]))
        order.rotate(-1)
        done += 1
    return times


def seconds_per_step(contender: Contender, calls: int) -> float:
    """Time a block of calls until the device has finished, with garbage collection disabled."""
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
    """Return the reason for a failure in one line."""
    text = " ".join(str(error).split()) or "no message"
    if not isinstance(error, NotComparableError):
        text = f"{type(error).__name__}: {text}"
    return text[:200]


def _calls_per_block(contender: Contender) -> int:
    seconds_per_step(contender, 1)  # warm-up, in addition to the check's
    seconds = seconds_per_step(contender, 1) * contender.steps_per_call
    return max(1, min(1000, round(BLOCK_SECONDS / seconds)))
