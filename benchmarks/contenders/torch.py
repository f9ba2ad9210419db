"""Contenders on torch: keras, and torch.optim one tensor at a time, together, compiled."""

import functools
from typing import Any

import keras
import torch

from benchmarks import limit
from benchmarks.contenders import Builders, _keras
from benchmarks.measure import Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from benchmarks.resident import forget_peak, peak

__all__ = ["MODES", "builders", "device", "forget_peak", "peak"]

MODES = ("eager",)

CUDA = torch.cuda.is_available()


def device() -> str:
    """Name the device."""
    return torch.cuda.get_device_name() if CUDA else "cpu"


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that makes it."""
    assert mode in MODES

    @functools.cache
    def gradients() -> list[torch.Tensor]:
        return [keras.ops.convert_to_tensor(g) for g in problem.gradients]

    def keras_contender(name: str) -> Contender:
        built, batch = _keras.build(name, problem), gradients()
        return Contender(
            lambda: built.optimizer.apply(batch, built.variables), _wait, built.weights
        )

    def torch_contender(*, foreach: bool, compiled: bool = False) -> Contender:
        if problem.options:
            raise NotComparableError("has neither decoupled decay nor clipping nor an average")
        place = gradients()[0].device
        parameters = [torch.nn.Parameter(torch.tensor(w, device=place)) for w in problem.start]
        for parameter, gradient in zip(parameters, gradients(), strict=True):
            parameter.grad = gradient
        optimizer = torch.optim.RMSprop(
            parameters, lr=LEARNING_RATE, alpha=0.9, eps=EPSILON, foreach=foreach
        )
        step: Any = torch.compile(optimizer.step) if compiled else optimizer.step
        return Contender(step, _wait, lambda: [p.detach().cpu().numpy() for p in parameters])

    bound = _device_copy if CUDA else limit.fused_loop
    return {
        **{name: functools.partial(keras_contender, name) for name in _keras.OPTIMIZERS},
        "torch": functools.partial(torch_contender, foreach=False),
        "torch foreach": functools.partial(torch_contender, foreach=True),
        "torch compiled": functools.partial(torch_contender, foreach=True, compiled=True),
        "device copy" if CUDA else limit.NAME: functools.partial(bound, problem),
    }


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def _device_copy(problem: Problem) -> Contender:
    """The limit on an accelerator: 10 bytes per parameter read and as many written."""
    if problem.options:
        raise NotComparableError("the copy stands for the plain step only")
    source = torch.zeros(max(1, 5 * problem.parameters // 2), device="cuda")
    destination = torch.empty_like(source)
    return Contender(lambda: destination.copy_(source), _wait, weights=None)
