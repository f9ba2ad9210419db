"""The stages of an in-place step, named as in `_math._step` and `_math._rule`."""

import collections
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch

from keras_rmsprop._execution.torch._layout import Block, Tensors, pieces_of
from keras_rmsprop._execution.torch._narrow import update_narrow
from keras_rmsprop._execution.torch._values import WIDE, dtype_of
from keras_rmsprop._math import _step
from keras_rmsprop._math._rule import Form, Parameter, StepCoefficients

# The grain size (see `_layout.GRAIN`) of square roots, which torch delegates to another library.
ROOT_GRAIN = 2**11

# Norms are computed over pieces of this many elements and combined in float64. torch sums squares
# sequentially in float32, with an error of 1e-6 over one piece, and 8e-4 over 16 million elements.
NORM_BLOCK = 2**14


def unscale(plan: _step.Plan, numbers: _step.Numbers, gradients: Tensors) -> Tensors:
    """Widen gradients to float32, and divide them by the loss scale."""
    if not WIDE.issuperset(map(dtype_of, gradients)):
        gradients = [g if g.dtype in WIDE else _step.widen(g) for g in gradients]
    return torch._foreach_div(gradients, numbers.loss_scale) if plan.scaled_loss else gradients


def accumulate(
    plan: _step.Plan, parameters: list[Parameter], gradients: Tensors, *, writes: bool = True
) -> Tensors:
    """Return the means so far, including these gradients; update the sums if `writes`."""
    sums = [p.accumulator for p in parameters]
    same = [g.to(s.dtype) for g, s in zip(gradients, sums, strict=True)]
    if not writes:
        return torch._foreach_div(torch._foreach_add(sums, same), plan.accumulation_steps)
    torch._foreach_add_(sums, same)
    return torch._foreach_div(sums, plan.accumulation_steps)


def clip_scales(
    plan: _step.Plan, numbers: _step.Numbers, gradients: Tensors
) -> torch.Tensor | None:
    """Return the float64 factor that clips each gradient's norm; None if norms are not clipped."""
    if plan.clip not in ("norm", "global_norm") or not gradients:
        return None
    if plan.clip == "global_norm" and len({g.dtype for g in gradients}) > 1:
        # One norm scales all gradients, including the widest.
        gradients = [g.to(torch.float64) for g in gradients]
    # One vector for all norms, so that the scales take a few operations in total.
    pieces = [pieces_of(g, NORM_BLOCK) for g in gradients]
    norms = torch._foreach_norm(list(itertools.chain.from_iterable(pieces)))
    squares = torch.stack([norm.to(norms[0].device, torch.float64) for norm in norms]).square_()
    if plan.clip == "global_norm":
        lengths = squares.sum().sqrt().expand(len(gradients))
    else:
        counts = torch.tensor([len(split) for split in pieces], device=squares.device)
        lengths = torch.segment_reduce(squares, "sum", lengths=counts).sqrt()
    # lengths - lengths is 0 for finite norms and NaN otherwise.
    return torch.where(lengths > numbers.clip, numbers.clip / lengths, 1.0) + (lengths - lengths)


def clip(
    plan: _step.Plan,
    numbers: _step.Numbers,
    gradients: Tensors,
    places: list[int],
    scales: torch.Tensor | None,
) -> Tensors:
    """Clip gradients of one device and dtype, by value or by the scales at `places`."""
    if plan.clip == "value":
        clipped = torch._foreach_clamp_min(gradients, -numbers.clip)
        torch._foreach_clamp_max_(clipped, numbers.clip)
        return clipped
    if scales is None:
        return gradients
    # A wider 0-d scale would promote a gradient that is also 0-d.
    chosen = scales[places].to(gradients[0].device, gradients[0].dtype)
    return torch._foreach_mul(gradients, chosen.unbind())


def transform(
    plan: _step.Plan,
    numbers: _step.Numbers,
    parameters: list[Parameter],
    present: tuple[int, ...],
    gradients: Tensors,
    scales: torch.Tensor | None,
) -> Tensors:
    """Clip and transform the gradients that have a transform, each as a whole."""
    results = list(gradients)
    for place, i in enumerate(present):
        group = plan.groups[plan.members[i]]
        if group.transform is not None:
            (clipped,) = clip(plan, numbers, (gradients[place],), [place], scales)
            results[place] = _step.transform(group, parameters[i], clipped)
    return results


def advance(
    plan: _step.Plan,
    numbers: _step.Numbers,
    step: StepCoefficients,
    block: Block,
    gradients: Tensors,
    done: int,
) -> None:
    """Take a block through negation, penalty, decay and update, after `done` steps."""
    kind = block.kind
    group, own = plan.groups[kind.group], numbers.groups[kind.group]
    narrow = block.weights[0].dtype != kind.dtype
    stored = block.weights
    weights = [w.to(kind.dtype) for w in stored] if narrow else stored
    if group.maximize:
        gradients = torch._foreach_neg(gradients)
    if group.l2:
        gradients = torch._foreach_add(gradients, weights, alpha=own.l2)
    if kind.decayed:
        # Not times 1 - decay: rounding that to float32 changes a decay of 4e-6 by 1%.
        decay = step.learning_rate * own.weight_decay
        torch._foreach_add_(weights, weights, alpha=-decay)
    block = block._replace(weights=weights)
    if kind.narrow:
        update_narrow(functools.partial(_update, group.form, step), block, gradients, done)
    else:
        _update(group.form, step, block, gradients)
    if narrow:
        torch._foreach_copy_(stored, weights)


def _update(form: Form, step: StepCoefficients, block: Block, g: Tensors) -> None:
    """`_rule.update` for a block, in place."""
    w, s = block.weights, block.square_averages
    m, b = block.gradient_averages, block.momentums
    lr, keep, weight, momentum, epsilon = step
    if m:
        deviation = torch._foreach_sub(g, m)
        torch._foreach_add_(m, deviation, alpha=weight)
        torch._foreach_addcmul_(s, deviation, deviation, weight)
        _scale(s, keep)
    else:
        _scale(s, keep)
        torch._foreach_addcmul_(s, g, g, weight)

    r = _roots(form, epsilon, block)
    # Divide by the roots, or multiply by their inverses.
    add_quotient = torch._foreach_addcdiv_
    if _inverts(form, block):
        add_quotient = torch._foreach_addcmul_
    if not b:
        add_quotient(w, g, r, -lr)
        return
    inside, outside = (lr, 1.0) if form.lr_in_momentum else (1.0, lr)
    _scale(b, momentum)
    add_quotient(b, g, r, inside)
    if form.nesterov:
        torch._foreach_add_(w, b, alpha=-outside * momentum)
        add_quotient(w, g, r, -lr)
    else:
        torch._foreach_add_(w, b, alpha=-outside)


def _inverts(form: Form, block: Block) -> bool:
    """Whether the update multiplies by 1 / r rather than divides by r.

    On a CPU torch computes 1 / r in one operation, correctly rounded and within `GRAIN`. It
    delegates r to a library that rounds roots inconsistently and uses several threads.
    """
    return form.epsilon_inside_sqrt and bool(block.roots)


def _roots(form: Form, epsilon: float, block: Block) -> Tensors:
    """Compute `_rule.root` for a block, or its inverse (see `_inverts`).

    If r can be zero, a zero becomes infinity (and its inverse zero), so that g / r is zero.
    """
    averages, inside = block.square_averages, form.epsilon_inside_sqrt
    roots: Tensors = block.roots
    # The tensors that the operations process one by one.
    memories: Tensors = block.joined or block.roots
    if not block.roots and inside:
        roots = memories = torch._foreach_add(averages, epsilon)
        torch._foreach_sqrt_(roots)
    elif not block.roots:
        roots = memories = torch._foreach_sqrt(averages)
        torch._foreach_add_(roots, epsilon)
    elif block.joined:
        torch._foreach_copy_(roots, averages)
        if inside:
            torch._foreach_add_(memories, epsilon)
            _each(torch.Tensor.rsqrt_, memories)
        else:
            for memory in memories:
                _each(torch.Tensor.sqrt_, memory.view(-1).split(ROOT_GRAIN))
            torch._foreach_add_(memories, epsilon)
    else:
        for average, root in zip(averages, roots, strict=True):
            if inside:
                torch.add(average, epsilon, out=root).rsqrt_()
            else:
                torch.sqrt(average, out=root).add_(epsilon)
    if form.guards_zero_root:
        singular, instead = (torch.inf, 0.0) if _inverts(form, block) else (0.0, torch.inf)
        for memory in memories:
            memory.masked_fill_(memory == singular, instead)
    return roots


def _each(operation: Callable[[torch.Tensor], torch.Tensor], tensors: Tensors) -> None:
    """Apply an in-place operation to each tensor, without Python code in between."""
    collections.deque(map(operation, tensors), maxlen=0)


def average_weights(
    plan: _step.Plan,
    numbers: _step.Numbers,
    done: int,
    weights: list[torch.Tensor],
    averages: list[torch.Tensor],
) -> None:
    """Advance moving averages of one dtype; the first step copies the weights."""
    if done == 0:
        torch._foreach_copy_(averages, weights)
    else:
        _scale(averages, numbers.ema_momentum)
        dtype = averages[0].dtype
        wide = [w if w.dtype is dtype else w.to(dtype) for w in weights]
        torch._foreach_add_(averages, wide, alpha=numbers.one_minus_ema_momentum)
    if plan.ema_overwrite_frequency and (done + 1) % plan.ema_overwrite_frequency == 0:
        torch._foreach_copy_(weights, averages)


def _scale(tensors: Tensors, factor: float) -> None:
    """Multiply tensors of one device and dtype by a number, in place."""
    first = tensors[0]
    if first.device.type != "cpu":
        torch._foreach_mul_(tensors, factor)
    else:
        # torch would convert a number to a tensor once per list element, which takes twice as
        # long as multiplying a small one.
        dtype = torch.promote_types(first.dtype, torch.float32)
        torch._foreach_mul_(tensors, _scalar(factor, dtype))


@functools.lru_cache(maxsize=64)
def _scalar(value: float, dtype: torch.dtype) -> torch.Tensor:
    """Return the value as a tensor on the CPU, which takes as long to make as a small step."""
    # The default device may be another one. An inference tensor could not be used elsewhere.
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device="cpu")


def constrain(constraint: Any, parameter: Parameter) -> None:
    """Apply a constraint to the weight."""
    parameter.weight.copy_(constraint(parameter.weight))
