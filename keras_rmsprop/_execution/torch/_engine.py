"""Run a step on torch: in place with multi-tensor operations, or op by op."""

from collections.abc import Sequence

import torch

from keras_rmsprop._execution import _interrupts, _plain
from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._plain import assign, run_plainly, run_with_hook
from keras_rmsprop._execution.torch import _layout
from keras_rmsprop._execution.torch._host import learning_rate, remember, value_of
from keras_rmsprop._execution.torch._layout import (
    Choice,
    Layout,
    Tensors,
    layout_of,
    pieces_of,
)
from keras_rmsprop._execution.torch._stages import (
    accumulate,
    advance,
    average_weights,
    clip,
    clip_scales,
    constrain,
    unscale,
)
from keras_rmsprop._execution.torch._values import check_writable, copied, read, write
from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import StepCoefficients
from keras_rmsprop._private import in_stateless_scope
from keras_rmsprop._variables._roster import Roster


@torch.no_grad()
def run(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step."""
    if in_stateless_scope() or torch.compiler.is_compiling():
        # The caller decides what happens to the values. Inside torch.compile, using the counter's
        # value as a Python number would recompile at every step.
        rate = step.rate.ask()
        if step.hook is not None:
            run_with_hook(step, gradients, rate, copied, assign)
        else:
            write(run_plainly(step, gradients, rate, read))
        return
    reason = None
    if step.mode is not False:
        reason = _plain.why_op_by_op(step)
        if reason is None:
            _run_in_place(step, gradients)
            return
        if step.mode is True:
            _plain.refuse(reason)
    _run_op_by_op(step, gradients)


def _run_op_by_op(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Compute a whole step, then write it."""
    _check_devices(step.roster, gradients)
    check_writable(step.roster.variables)
    rate = step.rate.ask()
    if step.hook is not None:
        # A subclass's `update_step` writes variables itself, before the step is complete.
        run_with_hook(step, gradients, rate, copied, assign)
    else:
        pairs = run_plainly(step, gradients, rate, read)
        _plain.write_whole(pairs, copied, assign)


def _check_devices(roster: Roster, gradients: Sequence[torch.Tensor | None]) -> None:
    """Refuse gradients that are not on their variables' devices."""
    for variable, gradient in zip(roster.weights, gradients, strict=True):
        if gradient is not None and gradient.device != variable.value.device:
            raise ValueError(
                f"The gradient of {variable.path!r} is on the device {gradient.device}, but the "
                f"variable is on {variable.value.device}."
            )


def _run_in_place(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step in place, with the stages of `_step.step`.

    Everything that can fail or wait comes first; then all writes happen with interrupts deferred.
    """
    plan, numbers, roster = step.plan, step.numbers, step.roster
    layout = layout_of(roster, plan)
    given = {i: g for i, g in enumerate(gradients) if g is not None}
    values = {i: given.pop(i) for i in list(given) if plan.overwritten[i]}
    chosen = layout.choose(tuple(given))
    present = list(given.values())
    if [g.device for g in present] != chosen.devices:
        _check_devices(roster, gradients)
    batch = unscale(plan, numbers, layout.apart(present))
    calls = int(value_of(roster, "calls", read(roster.counters.calls)))

    # Ask for the rate on every call, even one that makes no step: a callable may count.
    rate = learning_rate(step, calls)
    if plan.skip_nonfinite:
        owners = [layout.parameters[i] for i in chosen.present]
        finite = _step.all_finite(plan, batch, owners, [None] * len(owners))
        if not all(map(bool, (finite, *(v.isfinite().all() for v in values.values())))):
            read(roster.counters.skipped).add_(1)
            return
    done = calls // plan.accumulation_steps
    scalars = _rule.step_coefficients(plan.form, numbers.coefficients, rate, done + 1, "float64")
    completes = (calls + 1) % plan.accumulation_steps == 0 if plan.accumulation_steps > 1 else None
    taken = {
        i: _step.take_as_value(layout.parameters[i], value, completes)
        for i, value in values.items()
    }
    with _interrupts.deferred():
        for i, after in taken.items():
            for tensor, new in zip(layout.parameters[i], after, strict=True):
                if new is not tensor:
                    tensor.copy_(new)
        _write_step(plan, numbers, scalars, layout, chosen, calls, batch)
        counter = read(roster.counters.calls)
        counter.add_(1)
        remember(roster, "calls", counter, calls + 1)


def _write_step(
    plan: _step.Plan,
    numbers: _step.Numbers,
    step: StepCoefficients,
    layout: "Layout",
    chosen: "Choice",
    calls: int,
    batch: Tensors,
) -> None:
    """Run the stages that write, from unscaled gradients that have passed `all_finite`."""
    parameters = layout.parameters
    if plan.accumulation_steps > 1:
        batch = accumulate(plan, [parameters[i] for i in chosen.present], batch)
    if (calls + 1) % plan.accumulation_steps == 0:
        scales = clip_scales(plan, numbers, batch)
        pieces: list[Tensors] = [(g,) for g in batch]
        for place in chosen.split:
            pieces[place] = pieces_of(batch[place], _layout.PIECE)
        for block in chosen.blocks:
            members = [pieces[place][k] for place, k in block.sources]
            members = [g if g.dtype is block.dtype else g.to(block.dtype) for g in members]
            advance(plan, numbers, step, block, clip(plan, numbers, block, members, scales))
        if plan.accumulation_steps > 1:
            torch._foreach_zero_([parameters[i].accumulator for i in chosen.present])

    if plan.use_ema:
        done = calls // plan.accumulation_steps
        for weights, averages in layout.averaged:
            average_weights(plan, numbers, done, weights, averages)
    for i in chosen.present:
        if plan.constraints[i] is not None:
            constrain(plan.constraints[i], parameters[i])
