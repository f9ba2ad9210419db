"""Run a step on torch: compiled, in place with multi-tensor operations, or op by op."""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from keras_rmsprop._execution import _compilation, _interrupts, _op_by_op, _watching
from keras_rmsprop._execution._interface import Execution, Step
from keras_rmsprop._execution._op_by_op import assign, compute_op_by_op, run_with_hook
from keras_rmsprop._execution.torch import _layout, _samples
from keras_rmsprop._execution.torch._compiled import run_compiled
from keras_rmsprop._execution.torch._host import cache_value, learning_rate, value_of
from keras_rmsprop._execution.torch._layout import (
    Layout,
    Selection,
    Tensors,
    layout_of,
    overlap_of,
    pieces_of,
)
from keras_rmsprop._execution.torch._stages import (
    accumulate,
    advance,
    average_weights,
    clip,
    clip_scales,
    constrain,
    transform,
    unscale,
)
from keras_rmsprop._execution.torch._values import (
    check_devices,
    check_writable,
    copied,
    device_of,
    dtype_of,
    read,
    stored,
    write,
)
from keras_rmsprop._math import _rule, _step
from keras_rmsprop._math._rule import Coefficients, Form, StepCoefficients
from keras_rmsprop._private import in_stateless_scope
from keras_rmsprop._variables._watch import Watch


def run(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step."""
    with torch.no_grad():
        if step.watch is None:
            _run(step, gradients)
        else:
            _watching.run_watched(step, gradients, _run, _table_after, assign)


def _table_after(
    step: Step, watch: Watch, gradients: Sequence[torch.Tensor | None], rate: Any
) -> torch.Tensor | None:
    """Return the table of statistics after a step; None if it is not sampled."""
    roster = step.roster
    calls = roster.counters.calls._value
    if torch.compiler.is_compiling() or not _watching.is_due(
        step, watch, lambda: int(value_of(roster, "calls", calls))
    ):
        return None
    check_devices(roster.weights, gradients)
    if _compilation.why_op_by_op(step) is None and not in_stateless_scope():
        return _samples.table_after(step, watch, gradients, rate)
    return _watching.sampled_op_by_op(step, watch, gradients, rate, read)


def _run(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    if in_stateless_scope() or torch.compiler.is_compiling():
        # The caller decides what happens to the values. Inside torch.compile, using the counter's
        # value as a Python number would recompile at every step.
        rate = step.rate.get_next()
        if step.hook is not None:
            run_with_hook(step, gradients, rate, copied, assign)
        else:
            write(compute_op_by_op(step, gradients, rate, read))
        return
    reason = None
    if step.jit_compile is not False:
        reason = _compilation.why_op_by_op(step)
        if reason is None:
            (run_compiled if step.jit_compile is True else _run_in_place)(step, gradients)
            return
        if step.jit_compile is True:
            _compilation.raise_not_compilable(reason)
    _run_op_by_op(step, gradients)


def how_steps_run(step: Step, reason: str | None) -> Execution:
    """Say how steps such as this one are run."""
    compiled = (
        "run as one graph, compiled by TorchInductor"
        if step.jit_compile is True
        else "run in place with multi-tensor operations, not compiled"
    )
    reason = reason or _compilation.why_op_by_op(step)
    return Execution(
        _compilation.how_eager_steps_run(step, reason, compiled),
        "in `fit` they are eager, and inside `torch.compile` part of its graph",
    )


def _run_op_by_op(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Compute a whole step, then write it."""
    check_devices(step.roster.weights, gradients)
    check_writable(step.roster.variables)
    if step.hook is None and overlap_of(list(map(stored, step.roster.variables))) is not None:
        # Computed from the old values, one of two updates of the same memory would be lost.
        _run_in_place(step, gradients)
        return
    rate = step.rate.get_next()
    if step.hook is not None:
        # A subclass's `update_step` writes variables itself, before the step is complete.
        run_with_hook(step, gradients, rate, copied, assign)
    else:
        pairs = compute_op_by_op(step, gradients, rate, read)
        _op_by_op.write_all_or_nothing(pairs, copied, assign)


def _run_in_place(step: Step, gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step in place, with the stages of `_step.step`.

    Everything that can fail or wait comes first; then all writes happen with interrupts deferred.
    """
    plan, numbers, roster = step.plan, step.numbers, step.roster
    layout = layout_of(roster, plan)
    values: dict[int, torch.Tensor] = {}
    present: list[Any] = list(gradients)
    if any(plan.overwritten) or type(None) in map(type, gradients):
        given = {i: g for i, g in enumerate(gradients) if g is not None}
        values = {i: given.pop(i) for i in list(given) if plan.overwritten[i]}
        selection, present = layout.select(tuple(given)), list(given.values())
    else:
        selection = layout.select(layout.all_positions)
    if list(map(device_of, present)) != selection.devices:
        check_devices(roster.weights, gradients)
    batch = unscale(plan, numbers, layout.unaliased(present))
    counter = roster.counters.calls._value
    calls = int(value_of(roster, "calls", counter))

    # Ask for the rate on every call, even one that makes no step: a callable may count.
    rate = learning_rate(step, calls)
    if plan.skip_nonfinite:
        owners = [layout.parameters[i] for i in selection.present]
        finite = _step.all_finite(plan, batch, owners, [None] * len(owners))
        if not all(map(bool, (finite, *(v.isfinite().all() for v in values.values())))):
            read(roster.counters.skipped).add_(1)
            return
    done = calls // plan.accumulation_steps
    rates = [rate]
    if roster.counters.rates is not None:
        factors = value_of(roster, "rates", roster.counters.rates._value)
        rates += [rate * factor for factor in factors]
    scalars = [
        _step_coefficients(
            group.form,
            own.coefficients,
            own_rate,
            # Without the correction they do not depend on it.
            done + 1 if group.form.bias_correction else 1,
        )
        for group, own, own_rate in zip(plan.groups, numbers.groups, rates, strict=True)
    ]
    accumulates = plan.accumulation_steps > 1
    completes = (calls + 1) % plan.accumulation_steps == 0 if accumulates else None
    scales = None
    transforms = completes is not False and any(group.transform for group in plan.groups)
    if transforms:
        if accumulates:
            owners = [layout.parameters[i] for i in selection.present]
            batch = accumulate(plan, owners, batch, writes=False)
        scales = clip_scales(plan, numbers, batch)
        batch = transform(plan, numbers, layout.parameters, selection.present, batch, scales)
        # A transform may return the weight itself.
        batch = layout.unaliased(list(batch))
    taken = {
        i: _step.take_as_value(layout.parameters[i], value, completes)
        for i, value in values.items()
    }
    with _interrupts.deferred():
        for i, after in taken.items():
            for tensor, new in zip(layout.parameters[i], after, strict=True):
                if new is not tensor:
                    tensor.copy_(new)
        if not transforms:
            if accumulates:
                owners = [layout.parameters[i] for i in selection.present]
                batch = accumulate(plan, owners, batch)
            if completes is not False:
                scales = clip_scales(plan, numbers, batch)
        _write_step(plan, numbers, scalars, layout, selection, calls, batch, scales)
        # Takes a fourth of the time of `add_`.
        counter.fill_(calls + 1)
        cache_value(roster, "calls", counter, calls + 1)


@functools.lru_cache(maxsize=64)
def _step_coefficients(
    form: Form, coefficients: Coefficients, learning_rate: float, t: int
) -> StepCoefficients:
    """Compute the numbers of step `t` as Python floats."""
    return _rule.step_coefficients(form, coefficients, learning_rate, t, "float64")


def _write_step(
    plan: _step.Plan,
    numbers: _step.Numbers,
    steps: list[StepCoefficients],
    layout: Layout,
    selection: Selection,
    calls: int,
    batch: Tensors,
    scales: torch.Tensor | None,
) -> None:
    """Run the stages that write weights, from gradients that are already accumulated."""
    parameters = layout.parameters
    done = calls // plan.accumulation_steps
    if (calls + 1) % plan.accumulation_steps == 0:
        pieces = {place: pieces_of(batch[place], _layout.PIECE) for place in selection.split}
        for block in selection.blocks:
            kind = block.kind
            members: Tensors = [
                pieces[place][k] if place in pieces else batch[place] for place, k in block.sources
            ]
            if set(map(dtype_of, members)) != {kind.dtype}:
                members = [g.to(kind.dtype) for g in members]
            # Gradients with a transform were clipped before it.
            if plan.clip is not None and plan.groups[kind.group].transform is None:
                places = [place for place, _ in block.sources]
                members = clip(plan, numbers, members, places, scales)
            advance(plan, numbers, steps[kind.group], block, members, done)
        if plan.accumulation_steps > 1:
            torch._foreach_zero_([parameters[i].accumulator for i in selection.present])

    if plan.use_ema:
        for weights, averages in layout.averaged:
            average_weights(plan, numbers, done, weights, averages)
    for i in selection.present:
        if plan.constraints[i] is not None:
            constrain(plan.constraints[i], parameters[i])
