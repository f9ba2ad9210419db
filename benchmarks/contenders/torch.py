"""Contenders on torch: keras, and torch.optim one tensor at a time, together, compiled."""

import functools
from typing import Any

import torch

from benchmarks import limit
from benchmarks.contenders import OPTIMIZERS, Builders, build, tensors
from benchmarks.measure import Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem
from yardsticks.resident import forget_peak, peak

__all__ = ["MODES", "builders", "device", "forget_peak", "peak"]

MODES = ("eager",)

CUDA = torch.cuda.is_available()


def device() -> str:
    """Name the device."""
    return torch.cuda.get_device_name() if CUDA else "cpu"


def builders(mode: str, problem: Problem) -> Builders:
    """Return for each contender's name a function that makes it."""
    assert mode in MODES

    gradients = functools.cache(lambda: tensors(problem.gradients))

    def keras_contender(name: str) -> Contender:
        built, batch = build(name, problem), gradients()
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

    return {
        **{name: functools.partial(keras_contender, name) for name in OPTIMIZERS},
        "torch": functools.partial(torch_contender, foreach=False),
        "torch foreach": functools.partial(torch_contender, foreach=True),
        "torch compiled": functools.partial(torch_contender, foreach=True, compiled=True),
        **(
            {limit.COPY: functools.partial(_device_copy, problem)}
            if CUDA
            else {limit.LOOP: functools.partial(limit.fused_loop, problem)}
        ),
    }


def _wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def _device_copy(problem: Problem) -> Contender:
    """The limit on an accelerator."""
    source = torch.zeros(limit.copied_numbers(problem), device="cuda")
    destination = torch.empty_like(source)
    return Contender(lambda: destination.copy_(source), _wait, weights=None)
