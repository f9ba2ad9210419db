"""Make half of a training in one optimizer and the other half in another.

    there --- bring ---> here          here --- take ---> there

The whole training in the framework's own optimizer is what both must equal.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from yardsticks import peers
from yardsticks.agreement import TOLERANCE, compare_runs
from yardsticks.peers import Array, Peer, Snapshot

STEPS, HALF = 20, 10
# Exact in float32, to which TensorFlow's older optimizers round them.
RATE = 2.0**-6


class Problem(NamedTuple):
    """Initial weights, and for each step the gradients and the rate.

    Without rates, the optimizers have a schedule.
    """

    starts: list[Array]
    gradients: list[list[Array]]
    rates: list[float] | None


def make_problem(*shapes: tuple[int, ...], moving: bool, dtype: str = "float64") -> Problem:
    """Return noisy gradients whose sizes span two decades.

    Args:
        *shapes: those of the weights.
        moving: whether the rate changes from step to step.
        dtype: of weights and gradients.
    """
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    sizes = [10.0 ** rng.uniform(-1.0, 1.0, start.shape) for start in starts]
    gradients = [
        [(size * rng.normal(0.3, 1.0, size.shape)).astype(dtype) for size in sizes]
        for _ in range(STEPS)
    ]
    rates = RATE * (1.0 + 0.5 * np.sin(np.arange(STEPS))) if moving else np.full(STEPS, RATE)
    return Problem(starts, gradients, rates.astype("float32").tolist())


def steps(peer: Peer, problem: Problem, first: int, last: int) -> list[Snapshot]:
    """Make the steps from `first` up to `last`, and return weights and state after each."""
    snapshots = []
    for t in range(first, last):
        _set_rate(peer, problem, t)
        peer.step(peer.tensors(problem.gradients[t]))
        snapshots.append(peer.snapshot())
    return snapshots


def _set_rate(peer: Peer, problem: Problem, t: int) -> None:
    if problem.rates is not None:
        peer.set_rate(problem.rates[t])


def there_then_here(
    peer: Peer, bring: Callable[[Any, list[Any]], Any], problem: Problem
) -> list[Snapshot]:
    """Begin with a peer, and go on with what `bring(peer, variables)` returns.

    Returns: weights and state after each step of the second half.
    """
    steps(peer, problem, 0, HALF)
    _set_rate(peer, problem, HALF)
    ours = peers.Ours(None, peer.weights())
    ours.optimizer = bring(peer, ours.variables)
    ours.optimizer.jit_compile = False
    return steps(ours, problem, HALF, STEPS)


def here_then_there(
    optimizer: Any,
    peer_of: Callable[[Sequence[Array]], Peer],
    take: Callable[[Any, Any, list[Any]], None],
    problem: Problem,
) -> list[Snapshot]:
    """Begin with `optimizer`, and go on with a peer after `take(optimizer, peer, variables)`."""
    ours = peers.Ours(optimizer, problem.starts)
    optimizer.jit_compile = False
    steps(ours, problem, 0, HALF)
    _set_rate(ours, problem, HALF)
    peer = peer_of(ours.weights())
    take(optimizer, peer, ours.variables)
    return steps(peer, problem, HALF, STEPS)


def assert_same(
    got: Sequence[Snapshot],
    want: Sequence[Snapshot],
    problem: Problem,
    tolerance: float = TOLERANCE["float64"],
) -> None:
    """Fail unless weights and state are the same after each step of the second half.

    Args:
        got: the second half.
        want: the whole training.
        problem: what was trained.
        tolerance: relative to the distance travelled.
    """
    assert len(got) == STEPS - HALF
    assert len(want) == STEPS
    assert got[-1].slots.keys() == want[-1].slots.keys()
    found = compare_runs(got, want[HALF:], problem.starts, tolerance)
    assert {key: d for key, d in found.items() if not d.share <= 1.0} == {}
    for start, end in zip(problem.starts, want[-1].weights, strict=True):
        assert np.all(start != end), "nothing moved, so agreement proves nothing"
