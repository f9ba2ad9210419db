"""Contenders on torch: keras, and torch.optim with a loop, with foreach, and compiled."""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import limit
from benchmarks.contenders import OPTIMIZERS, built, compiled
from benchmarks.measure import Builders, Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.results import BARE, OURS
from yardsticks import peers
from yardsticks.resident import forget_peak, peak

__all__ = ["MODES", "builders", "device", "forget_peak", "peak"]

# In "compiled", our step is compiled as well.
MODES = ("eager", "compiled")

CUDA = torch.cuda.is_available()


def device() -> str:
    """Name the device."""
    return torch.cuda.get_device_name() if CUDA else "cpu"


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that creates it."""
    assert mode in MODES

    place = "cuda" if CUDA else "cpu"
    gradients = functools.cache(lambda: [torch.tensor(g, device=place) for g in problem.gradients])

    def of_keras(name: str) -> Contender:
        peer, batch = built(name, problem), gradients()
        if name == OURS and mode == "compiled":
            peer.optimizer.jit_compile = True
        return Contender(lambda: peer.step(batch), _wait, peer.weights)

    def of_torch(*, foreach: bool, compiles: bool = False) -> Contender:
        if problem.options:
            raise NotComparableError("has neither decoupled decay nor clipping nor an average")
        numbers = {"lr": LEARNING_RATE, "alpha": 0.9, "eps": EPSILON}
        peer = peers.Torch(problem.start, device=place, foreach=foreach, **numbers)
        peer.give(gradients())
        step: Any = peer.optimizer.step
        if compiles:
            # After eight compilations of one function torch would go on without compiling.
            torch.compiler.reset()
            step = torch.compile(step)
        return Contender(step, _wait, peer.weights)

    return {
        **{name: functools.partial(of_keras, name) for name in OPTIMIZERS},
        "torch": functools.partial(of_torch, foreach=False),
        "torch foreach": functools.partial(of_torch, foreach=True),
        "torch compiled": functools.partial(of_torch, foreach=True, compiles=True),
        **limit.bound(problem, _device_copy if CUDA else None),
    }


def bare(problem: Problem) -> Builders:
    """Return the multi-tensor operations that an eager step runs."""
    from keras_rmsprop._execution.torch import _layout, _stages
    from keras_rmsprop._math import _rule

    def called() -> Contender:
        peer, batch = compiled(problem)
        step = peer.optimizer._next_step()
        layout = _layout.layout_of(step.roster, step.plan)
        blocks = layout.select(layout.all_positions).blocks
        pieces = [_layout.pieces_of(g, _layout.PIECE) for g in batch]
        members = [[pieces[place][k] for place, k in block.sources] for block in blocks]
        (group,), (own,) = step.plan.groups, step.numbers.groups
        scalars = _rule.step_coefficients(group.form, own.coefficients, LEARNING_RATE, 1, "float64")

        @torch.no_grad()
        def call() -> None:
            for block, gradients in zip(blocks, members, strict=True):
                _stages.advance(step.plan, step.numbers, scalars, block, gradients, 1)

        return Contender(call, _wait, peer.weights)

    return {BARE: called}


def wait(variables: Sequence[Any]) -> None:
    """Return when these variables have the values of all steps so far."""
    del variables
    _wait()


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def _device_copy(count: int) -> Contender:
    source = torch.zeros(count, device="cuda")
    destination = torch.empty_like(source)
    return Contender(lambda: destination.copy_(source), _wait, weights=None)
