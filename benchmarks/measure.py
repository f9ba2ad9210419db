"""How contenders are timed side by side: check that they agree, warm up, then in turn.

    A B C  B C A  C A B ...

in one process, each turn a block of calls that ends when the device has finished. A ratio is
taken within a round, so that what slows the machine for a while slows both sides of it. Each turn
begins with a call that is not timed, so that none pays for what the one before it left in the
caches.

Where a target is close to one, two medians are to be told apart that differ by 3 %. So ours and
that peer then take many more turns, without the others between them, and are built anew several
times: where in memory the arrays happened to come to lie can make a tenth of the time.
"""

import collections
import dataclasses
import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import OURS, Comparison, Entry, Figure, Result

Array = NDArray[np.float32]

# Targets that are so close to one, or to what was seen, that chance could decide.
CLOSE = (0.5, 2.0)
# A block should outlast the clock's grain, and be short beside what slows the machine for a while.
BLOCK_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much time a run may take."""

    quick: bool = False
    # Per row: time to fill with rounds, once every contender had `rounds` turns.
    seconds: float = 2.0
    rounds: int = 7
    # So many times longer where a target is to be judged.
    patience: int = 4
    # Where that is close to one: seconds for the two alone, and how often they are built.
    close_seconds: float = 30.0
    builds: int = 4
    # Fresh processes per contender, where each gives one value only.
    processes: int = 2


QUICK = Settings(quick=True, seconds=0.1, rounds=3, patience=1, builds=0, processes=1)


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
    two = collections.deque(
        name for name in builders if name not in failures and (name == OURS or name in close)
    )
    for _ in range(settings.builds if len(two) > 1 and OURS in two else 0):
        gc.collect()
        # The first one built gets the memory that was freed last.
        two.rotate(-1)
        left = [name for name in two if name not in failures]
        seconds = settings.close_seconds / settings.builds
        sittings.append(take_turns(build(left), settings.rounds, seconds))

    entries = {}
    for name in builders:
        times = [t for sitting in sittings for t in sitting.get(name, ())]
        entries[name] = (
            Entry(failure=failures[name])
            if name in failures
            else Entry(Figure.of([1e3 * t for t in times]), deviation=deviations[name])
        )
    peers = [name for name in builders if name != OURS and name not in failures]
    timed = peers if OURS in builders and OURS not in failures else []
    return Result("ms", entries, [ratio(sittings, peer, targets.get(peer)) for peer in timed])


def ratio(
    sittings: Sequence[Mapping[str, Sequence[float]]], peer: str, target: float | None
) -> Comparison:
    """Compare ours with a peer, round by round of the sittings that both took part in."""
    values = [
        theirs / ours
        for sitting in sittings
        if OURS in sitting and peer in sitting
        for theirs, ours in zip(sitting[peer], sitting[OURS], strict=True)
    ]
    return Comparison(peer, Figure.of(values), target=target)


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
