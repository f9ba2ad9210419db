"""The stages of a whole step, from gradients to weights.

    unscale -> (sum over replicas) -> all_finite -> accumulate -> clip -> transform -> advance:
    negate if maximizing, add l2 * w, decoupled decay, update -> average_weights -> constrain ->
    counter

Each stage is a function of that name; `advance` has the four parts listed, the last of which is
`_rule.update`. (The engine sums over replicas, and does so first; this commutes with unscaling.)

`step` is a pure function of tensors that uses `where` instead of branches, so that it can be traced
as a whole. `_execution` reads the variables, runs it and writes the results back.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

from keras_rmsprop._math import _rounding, _rule
from keras_rmsprop._math._rule import (
    Coefficients,
    Form,
    Number,
    Parameter,
    Slot,
    StepCoefficients,
    Tensor,
)

# A keras.constraints.Constraint, or any other function of the weight.
Constraint = Any

# (gradient, weight), both dense and in the dtype of the slots -> the gradient to use.
Transform = Callable[[Tensor, Tensor], Tensor]


class GroupPlan(NamedTuple):
    """What a step does with the variables of one group, apart from the numbers."""

    form: Form
    maximize: bool
    l2: bool
    transform: Transform | None


class Plan(NamedTuple):
    """What a step does, apart from its numbers: the static part of a trace.

    Tuples have one entry per built variable, except `groups`.
    """

    # The first entry is for the variables that no pattern matches.
    groups: tuple[GroupPlan, ...]
    skip_nonfinite: bool
    clip: str | None  # "value", "norm", "global_norm"
    scaled_loss: bool
    accumulation_steps: int
    use_ema: bool
    ema_overwrite_frequency: int | None
    # The index in `groups` of each variable's group.
    members: tuple[int, ...]
    decayed: tuple[bool, ...]
    # Which variables take their gradient as their value, as float8 scales do.
    overwritten: tuple[bool, ...]
    constraints: tuple[Constraint | None, ...]


class GroupNumbers(NamedTuple):
    """The numbers for the variables of one group; those that the plan does not use are 0."""

    coefficients: Coefficients
    l2: Number
    weight_decay: Number


class Numbers(NamedTuple):
    """The numbers of a step; those that the plan does not use are 0."""

    groups: tuple[GroupNumbers, ...]
    loss_scale: Number
    clip: Number
    ema_momentum: Number
    one_minus_ema_momentum: Number


def like_numbers(groups: int, leaf: Any) -> Numbers:
    """Return `Numbers` for `groups` groups, with `leaf` in place of each number."""
    coefficients = Coefficients(*[leaf] * len(Coefficients._fields))
    group = GroupNumbers(coefficients, *[leaf] * (len(GroupNumbers._fields) - 1))
    return Numbers((group,) * groups, *[leaf] * (len(Numbers._fields) - 1))


class Counters(NamedTuple):
    """The optimizer's state besides its slots: integers that a step increments, and factors."""

    # Calls of `apply` that were not skipped, whether or not they completed a step.
    calls: Tensor
    # Calls that `skip_nonfinite` skipped; None without that option.
    skipped: Slot = None
    # The learning rate factors of the groups after the first, shape (groups - 1,). A step only
    # reads them; they are in a tensor so that a traced function sees changes.
    rates: Slot = None


# Updates one parameter: (index among the built variables, coefficients of the step, parameter,
# gradient) -> parameter after the update.
Update = Callable[[int, StepCoefficients, Parameter, Tensor], Parameter]

# By position, a scalar bool that says whether a parameter has a gradient.
Flags = Mapping[int, Tensor]

# Wraps a function of tensors so that it is traced once for all arguments of the same shapes and
# dtypes, as `jax.jit` does. Without it, 500 tensors mean 500 copies of the update.
TraceOnce = Callable[[Callable[..., Any]], Callable[..., Any]]


class Scalars(NamedTuple):
    """The scalars that advancing one parameter needs, in one dtype."""

    step: StepCoefficients
    l2: Number
    # The learning rate times the weight decay.
    decay: Number


class _AverageScalars(NamedTuple):
    """The scalars that `average_weights` needs, all of one dtype."""

    ema_momentum: Number
    one_minus_ema_momentum: Number
    # Whether this is the first step, and whether it overwrites the weights with their average.
    first: Slot
    overwrites: Slot


def step(
    plan: Plan,
    numbers: Numbers,
    counters: Counters,
    learning_rate: Number,
    parameters: Sequence[Parameter],
    gradients: Sequence[Tensor | None],
    update: Update | None = None,
    row_masks: Mapping[int, Tensor] | None = None,
    flags: Flags | None = None,
    trace_once: TraceOnce | None = None,
) -> tuple[list[Parameter], Counters]:
    """Compute one whole step.

    Args:
        plan: what the step does.
        numbers: the numbers of the step.
        counters: the counts so far.
        learning_rate: the rate of this step, a float or a scalar tensor.
        parameters: the built variables with their slots.
        gradients: for each parameter a dense tensor of its shape, or None.
        update: updates one parameter; by default `_rule.update`. It is not called if the step is
            already known to have no effect.
        row_masks: by parameter, for parameters that are rows of a table, which rows count in sums
            over all rows: 1, or 0 for repeats. By default all of them do.
        flags: by parameter, a scalar bool that says whether it has a gradient, if that is known
            only when the compiled step runs. If False, the gradient must be zeros, and the
            result is as if it were None.
        trace_once: lets parameters of one shape share the trace of their update. Not used with
            `update`: a subclass's hook must see each variable.

    Returns: the parameters and the counters after the step.
    """
    flags = flags or {}
    has_effect = known_value if update is not None else _unknown
    calls = counters.calls
    done = calls // plan.accumulation_steps if plan.accumulation_steps > 1 else calls
    present = {i: g for i, g in enumerate(gradients) if g is not None}
    results = list(parameters)

    values = {i: present.pop(i) for i in list(present) if plan.overwritten[i]}
    present = {i: unscale(plan, numbers, parameters[i], g) for i, g in present.items()}

    masks = [(row_masks or {}).get(i) for i in present]
    finite: Tensor | None = None
    if plan.skip_nonfinite:
        owners = [parameters[i] for i in present]
        finite = all_finite(plan, list(present.values()), owners, masks)
        for value in values.values():
            finite = ops.logical_and(finite, ops.all(ops.isfinite(value)))
        if has_effect(finite) is False:
            return list(parameters), counters._replace(skipped=counters.skipped + 1)
    completes: Tensor | None = None
    if plan.accumulation_steps > 1:
        completes = (calls + 1) % plan.accumulation_steps == 0
        for i, g in present.items():
            # Without a gradient in the completing call, a variable keeps its sum.
            taken = completes if i not in flags else ops.logical_and(completes, flags[i])
            results[i], mean = accumulate(plan, parameters[i], g, taken)
            # A sum that waits is not part of this step's global norm.
            present[i] = mean if i not in flags else ops.where(flags[i], mean, ops.zeros_like(mean))

    for i, value in values.items():
        taken = take_as_value(parameters[i], value, completes)
        results[i] = select(flags[i], taken, parameters[i]) if i in flags else taken

    # torch.compile warns about `functools.cache`.
    made: dict[tuple[int, str], Scalars] = {}
    made_for_averages: dict[str, _AverageScalars] = {}

    def scalars(group: int, dtype: str) -> Scalars:
        if (group, dtype) not in made:
            made[group, dtype] = scalars_of(
                plan, numbers, counters, done, learning_rate, group, dtype
            )
        return made[group, dtype]

    def average_scalars(dtype: str) -> _AverageScalars:
        if dtype not in made_for_averages:
            made_for_averages[dtype] = _average_scalars(plan, numbers, done, dtype)
        return made_for_averages[dtype]

    advancing: dict[int, Tensor] = {}
    if completes is None or has_effect(completes) is not False:
        clipped = clip(plan, numbers, list(present.values()), masks)
        advancing = dict(zip(present, clipped, strict=True))
    advance_one = _advancing(plan, trace_once if update is None else None)
    rounds = any(_rounding.is_narrow(results[i]) for i in advancing)
    key = _rounding.key_of_step(done) if rounds else None
    for i, gradient in advancing.items():
        before = results[i]
        group = plan.groups[plan.members[i]]
        gradient = transform(group, before, gradient)
        hook = None if update is None else functools.partial(update, i)
        conditions = [c for c in (completes, flags.get(i)) if c is not None]
        after = advance_one(group._replace(transform=None), plan.decayed[i], hook)(
            scalars(plan.members[i], arithmetic_dtype(before)),
            # Passed through the trace, these would be written back.
            before._replace(accumulator=None, average=None),
            gradient,
            conditions,
            _rounding.key_of(key, i) if _rounding.is_narrow(before) else None,
        )
        results[i] = after._replace(accumulator=before.accumulator, average=before.average)
    if plan.use_ema:
        average: Callable[[_AverageScalars, Parameter], Parameter]
        average = average_weights if trace_once is None else trace_once(average_weights)
        results = [
            p if p.average is None else average(average_scalars(dtype_of(p.average)), p)
            for p in results
        ]
    for i in present:
        constraint = plan.constraints[i]
        if constraint is not None:
            results[i] = constrain(constraint, results[i], flags.get(i))
    counted = counters._replace(calls=calls + 1)
    if finite is None:
        return results, counted
    # Select the old values; with zeroed gradients the averages would still decay.
    kept = [select(finite, new, old) for new, old in zip(results, parameters, strict=True)]
    return kept, counters._replace(
        calls=ops.where(finite, calls + 1, calls),
        skipped=ops.where(finite, counters.skipped, counters.skipped + 1),
    )


def known_value(condition: Tensor) -> bool | None:
    """Return the value of a scalar condition, or None while it is being traced."""
    try:
        return bool(condition)
    except TypeError:
        return None


def _unknown(_: Tensor) -> bool | None:
    """Replace `known_value` where its answer does not matter, to avoid waiting for the device."""
    return None


def unscale(plan: Plan, numbers: Numbers, parameter: Parameter, gradient: Tensor) -> Tensor:
    """Widen a gradient to float32, and divide it by the loss scale."""
    gradient = widen(gradient, parameter.weight)
    if not plan.scaled_loss:
        return gradient
    return gradient / _rule.number_in(numbers.loss_scale, dtype_of(gradient))


def all_finite(
    plan: Plan,
    gradients: Sequence[Tensor],
    parameters: Sequence[Parameter],
    row_masks: Sequence[Tensor | None],
) -> Tensor:
    """Whether a step with these gradients keeps every number finite.

    NaN or infinity would make the weights NaN. A square that overflows would freeze the weight for
    good, and a norm that overflows leaves no direction to clip to.

    Args:
        plan: what the step does.
        gradients: dense tensors, or rows of a table.
        parameters: for each gradient the weight with its slots.
        row_masks: for each gradient the mask of its rows in sums (see `step`).
    """
    verdict: Tensor = True
    for g, parameter in zip(gradients, parameters, strict=True):
        # A gradient may have a wider dtype than its square average.
        dtypes = {dtype_of(g), arithmetic_dtype(parameter)}
        limit = math.sqrt(min(float(np.finfo(dtype).max) for dtype in dtypes))
        if parameter.gradient_average is not None:
            # The deviation from the mean can be twice as large as any gradient.
            limit /= 2.0
        verdict = ops.logical_and(verdict, ops.all(ops.abs(g) <= limit))
    if plan.clip in ("norm", "global_norm") and gradients:
        for square in _squared_norms(plan, gradients, row_masks):
            verdict = ops.logical_and(verdict, ops.isfinite(square))
    return verdict


def accumulate(
    plan: Plan, parameter: Parameter, gradient: Tensor, taken: Tensor
) -> tuple[Parameter, Tensor]:
    """Add a gradient to the accumulator, which is reset to zero if `taken`.

    Returns: the parameter with its new accumulator, and the mean gradient so far.
    """
    total = parameter.accumulator + ops.cast(gradient, dtype_of(parameter.accumulator))
    emptied = ops.where(taken, ops.zeros_like(total), total)
    return parameter._replace(accumulator=emptied), total / plan.accumulation_steps


def clip(
    plan: Plan, numbers: Numbers, gradients: list[Tensor], row_masks: Sequence[Tensor | None]
) -> list[Tensor]:
    """Clip gradients by value, by their own norms, or by their global norm.

    A norm that is not finite makes the clipped gradients NaN, as in Keras.
    """
    if plan.clip is None or not gradients:
        return gradients
    if plan.clip == "value":
        # As tensors, because `ops.clip` would convert Python numbers to floatx.
        bounds = [
            ops.zeros((), dtype_of(g)) + _rule.number_in(numbers.clip, dtype_of(g))
            for g in gradients
        ]
        return [ops.clip(g, -bound, bound) for g, bound in zip(gradients, bounds, strict=True)]
    squares = _squared_norms(plan, gradients, row_masks)
    if plan.clip == "global_norm":
        squares *= len(gradients)
    return [
        g * _clip_scale(numbers.clip, square, dtype_of(g))
        for g, square in zip(gradients, squares, strict=True)
    ]


def _squared_norms(
    plan: Plan, gradients: Sequence[Tensor], row_masks: Sequence[Tensor | None]
) -> list[Tensor]:
    """Return the squares of the norms to clip: one for each gradient, or one for all.

    A global norm is computed in the widest of the dtypes, because it scales the widest gradients
    too.
    """
    if plan.clip != "global_norm":
        return [_sum_of_squares(g, mask) for g, mask in zip(gradients, row_masks, strict=True)]
    widest = widest_dtype(gradients)
    first, *others = (
        _sum_of_squares(ops.cast(g, widest), mask)
        for g, mask in zip(gradients, row_masks, strict=True)
    )
    return [sum(others, first)]


def _sum_of_squares(gradient: Tensor, row_mask: Tensor | None) -> Tensor:
    squares = ops.square(gradient)
    if row_mask is None:
        return ops.sum(squares)
    rows = ops.sum(squares, axis=tuple(range(1, len(squares.shape))))
    return ops.sum(ops.cast(row_mask, dtype_of(rows)) * rows)


def _clip_scale(limit: Number, square: Tensor, dtype: str) -> Tensor:
    length = _rule.sqrt(square)
    limit = _rule.number_in(limit, dtype_of(length))
    one = ops.ones_like(length)
    is_long = length > limit
    # The unselected quotient must be differentiable, too.
    scale = ops.where(is_long, limit / ops.where(is_long, length, one), one)
    # length - length is 0 for a finite norm and NaN otherwise.
    return ops.cast(scale + (length - length), dtype)


def transform(group: GroupPlan, parameter: Parameter, gradient: Tensor) -> Tensor:
    """Apply the group's transform, if any, to a gradient.

    Raises: TransformError if the result cannot be used as the gradient.
    """
    if group.transform is None:
        return gradient
    dtype = arithmetic_dtype(parameter)
    gradient = ops.cast(gradient, dtype)
    transformed = group.transform(gradient, ops.cast(parameter.weight, dtype))
    check_transformed(group.transform, transformed, gradient)
    return transformed


class TransformError(ValueError):
    """The result of a transform cannot be used as the gradient."""


def check_transformed(function: Transform, transformed: Any, gradient: Tensor) -> None:
    """Check that the result of a transform can be used as the gradient.

    Raises: TransformError if it is not a tensor of the gradient's shape and dtype.
    """
    wanted = f"{dtype_of(gradient)}{tuple(gradient.shape)}"
    if not ops.is_tensor(transformed):
        received = f"received {transformed!r:.80} of type {type(transformed).__name__}"
    else:
        received = f"received {dtype_of(transformed)}{tuple(transformed.shape)}"
    if received != f"received {wanted}":
        name = getattr(function, "__name__", repr(function))
        raise TransformError(
            f"The transform `{name}` must return a tensor of its gradient's shape and dtype, "
            f"{wanted}, {received}. Nothing has changed."
        )


def scalars_of(
    plan: Plan,
    numbers: Numbers,
    counters: Counters,
    done: Tensor,
    learning_rate: Number,
    group: int,
    dtype: str,
) -> Scalars:
    """Compute the scalars of a step for all tensors of a group and dtype, after `done` steps."""
    own = numbers.groups[group]
    rate = _rule.number_in(learning_rate, dtype)
    if group:
        rate = rate * _rule.number_in(counters.rates[group - 1], dtype)
    form = plan.groups[group].form
    step = _rule.step_coefficients(form, own.coefficients, rate, done + 1, dtype)
    return Scalars(
        step=step,
        l2=_rule.number_in(own.l2, dtype),
        decay=rate * _rule.number_in(own.weight_decay, dtype),
    )


def _average_scalars(plan: Plan, numbers: Numbers, done: Tensor, dtype: str) -> _AverageScalars:
    frequency = plan.ema_overwrite_frequency
    return _AverageScalars(
        ema_momentum=_rule.number_in(numbers.ema_momentum, dtype),
        one_minus_ema_momentum=_rule.number_in(numbers.one_minus_ema_momentum, dtype),
        first=done == 0,
        overwrites=None if frequency is None else (done + 1) % frequency == 0,
    )


def _advancing(plan: Plan, trace_once: TraceOnce | None) -> Callable[..., Callable[..., Parameter]]:
    """Return a function (group, decayed, hook) -> `advance` with these bound."""
    if trace_once is None:
        return functools.partial(functools.partial, advance)
    # The transform is a separate stage, so that groups that differ only in it share a trace.
    groups = [plan.groups[group]._replace(transform=None) for group in plan.members]
    kinds = dict.fromkeys(zip(groups, plan.decayed, strict=True))
    nested = {kind: trace_once(functools.partial(advance, *kind, None)) for kind in kinds}
    return lambda group, decayed, _: nested[group, decayed]


def advance(
    group: GroupPlan,
    decayed: bool,
    hook: Callable[[StepCoefficients, Parameter, Tensor], Parameter] | None,
    scalars: Scalars,
    before: Parameter,
    gradient: Tensor,
    conditions: Sequence[Tensor],
    key: Slot = None,
) -> Parameter:
    """Take one parameter through negation, penalty, decay and update.

    If one of the conditions is false, the parameter is unchanged. Everything here, including the
    rule, is elementwise: element i of the output depends only on the elements i of the inputs, and,
    if slots are rounded, on i and the key. The torch engine relies on this when it cuts large
    tensors into pieces and joins small ones.

    Args:
        group: what the step does with the variable's group.
        decayed: whether weight decay applies.
        hook: updates the parameter; by default `_rule.update`.
        scalars: the scalars of the step.
        before: the parameter.
        gradient: its gradient, clipped and transformed.
        conditions: scalar bools.
        key: what the rounding of bfloat16 slots depends on (see `_rounding`); None without them.
    """
    stored, before = before, _rounding.widened(before)
    dtype = dtype_of(before.square_average)
    gradient, weight = prepared(group, decayed, scalars, before, ops.cast(gradient, dtype))

    update = hook or functools.partial(_rule.update, group.form)
    after = update(scalars.step, before._replace(weight=weight), gradient)
    after = after._replace(weight=ops.cast(after.weight, dtype_of(before.weight)))
    if key is not None:
        after = _rounding.narrowed(after, key)
    for condition in conditions:
        after = select(condition, after, stored)
    return after


def prepared(
    group: GroupPlan, decayed: bool, scalars: Scalars, before: Parameter, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return gradient and weight as the update gets them: after negation, penalty and decay.

    Args:
        group: what the step does with the variable's group.
        decayed: whether weight decay applies.
        scalars: the scalars of the step.
        before: the parameter.
        gradient: its gradient, clipped and transformed, in the dtype of the arithmetic.
    """
    weight = before.weight
    dtype = dtype_of(gradient)
    if group.maximize:
        gradient = -gradient
    if group.l2:
        gradient = gradient + scalars.l2 * ops.cast(weight, dtype)
    if decayed:
        # Kept in the wider dtype, so that the weight is rounded only once, after the update.
        weight = ops.cast(weight, dtype)
        weight = weight - scalars.decay * weight
    return gradient, weight


def take_as_value(parameter: Parameter, gradient: Tensor, completes: Tensor | None) -> Parameter:
    """Set a variable to its gradient; with accumulation, to the largest of its gradients."""
    weight, accumulator = parameter.weight, parameter.accumulator
    if completes is None:
        return parameter._replace(weight=ops.cast(gradient, dtype_of(weight)))
    gradient = ops.cast(gradient, dtype_of(accumulator))
    # NaN propagates, as in `ops.maximum`, which would round float64 on torch.
    largest = ops.where(accumulator > gradient, accumulator, gradient)
    return parameter._replace(
        weight=ops.where(completes, ops.cast(largest, dtype_of(weight)), weight),
        accumulator=ops.where(completes, ops.zeros_like(largest), largest),
    )


def average_weights(scalars: _AverageScalars, parameter: Parameter) -> Parameter:
    """Advance the moving average of the weights; the first step copies them."""
    weight = ops.cast(parameter.weight, dtype_of(parameter.average))
    average = scalars.ema_momentum * parameter.average + scalars.one_minus_ema_momentum * weight
    average = ops.where(scalars.first, weight, average)
    parameter = parameter._replace(average=average)
    if scalars.overwrites is not None:
        value = ops.cast(average, dtype_of(parameter.weight))
        parameter = parameter._replace(
            weight=ops.where(scalars.overwrites, value, parameter.weight)
        )
    return parameter


def constrain(constraint: Constraint, parameter: Parameter, flag: Tensor | None) -> Parameter:
    """Apply a constraint to the weight, unless the flag is False (no gradient)."""
    weight = parameter.weight
    constrained = ops.cast(constraint(weight), dtype_of(weight))
    if flag is not None:
        constrained = ops.where(flag, constrained, weight)
    return parameter._replace(weight=constrained)


def select(condition: Tensor, new: Parameter, old: Parameter) -> Parameter:
    """Return `new` if the scalar `condition` is true, else `old`, by `where` on each tensor."""
    return Parameter(
        *(
            a if a is None or a is b else ops.where(condition, a, b)
            for a, b in zip(new, old, strict=True)
        )
    )


def dtype_of(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype, the same on every backend."""
    return backend.standardize_dtype(tensor.dtype)


def arithmetic_dtype(parameter: Parameter) -> str:
    """Return the dtype that the rule computes in: that of the slots, but at least float32."""
    return accumulator_dtype(dtype_of(parameter.square_average))


def accumulator_dtype(dtype: str) -> str:
    """Return the dtype of the slots of a variable of `dtype`: at least float32.

    Without `state_dtype`; accumulators and moving averages are never narrower.
    """
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def is_floating(dtype: str) -> bool:
    """Whether a dtype is floating-point rather than integer or bool."""
    return "float" in dtype


def widen(tensor: Tensor, like: Tensor = None) -> Tensor:
    """Cast a half-precision tensor to float32; leave wider ones alone.

    Args:
        tensor: a gradient.
        like: the weight, whose slot dtype integer gradients are cast to; default float32.
    """
    dtype = dtype_of(tensor)
    if not is_floating(dtype):
        wide = accumulator_dtype("float32" if like is None else dtype_of(like))
    else:
        wide = accumulator_dtype(dtype)
    return tensor if wide == dtype else ops.cast(tensor, wide)


def widest_dtype(tensors: Sequence[Tensor]) -> str:
    """Return the widest floating dtype among the tensors."""
    return "float64" if any(dtype_of(t) == "float64" for t in tensors) else "float32"
