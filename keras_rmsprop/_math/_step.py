"""The stages of a whole step, in their order: what happens between gradients and weights?

    unscale -> (sum over replicas) -> all_finite -> accumulate -> clip -> transform -> advance:
    negate if maximizing, add l2 * w, decoupled decay, update -> average_weights -> constrain ->
    counter

Each has its function of that name; `advance` has its four parts, and the last is `_rule.update`.
(The sum over replicas is a matter of the engine and comes first; it commutes with unscaling.)

`step` is a pure function over tensors, written with selection rather than branches, so that
it can be traced as a whole; `_execution` reads the variables, runs it and writes them back.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import backend, ops

from keras_rmsprop._math import _rule
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

# (gradient, weight), both dense and in the dtype of the slots -> the gradient to be used.
Transform = Callable[[Tensor, Tensor], Tensor]


class GroupPlan(NamedTuple):
    """What a step does with the variables of one group, as far as it does not depend on numbers."""

    form: Form
    maximize: bool
    l2: bool
    transform: Transform | None


class Plan(NamedTuple):
    """What a step does, as far as it does not depend on numbers: one plan, one trace.

    The tuples, but for `groups`, hold one entry for each variable the optimizer was built with.
    """

    # The variables that no pattern names come first.
    groups: tuple[GroupPlan, ...]
    skip_nonfinite: bool
    clip: str | None  # "value", "norm", "global_norm"
    scaled_loss: bool
    accumulation_steps: int
    use_ema: bool
    ema_overwrite_frequency: int | None
    # The position in `groups` of each variable's.
    members: tuple[int, ...]
    decayed: tuple[bool, ...]
    # Which take their gradient as their value, such as float8 scales.
    overwritten: tuple[bool, ...]
    constraints: tuple[Constraint | None, ...]


class GroupNumbers(NamedTuple):
    """The numbers of the variables of one group; a number that the plan does not use is 0."""

    coefficients: Coefficients
    l2: Number
    weight_decay: Number


class Numbers(NamedTuple):
    """The numbers of a step; a number that the plan does not use is 0."""

    groups: tuple[GroupNumbers, ...]
    loss_scale: Number
    clip: Number
    ema_momentum: Number
    one_minus_ema_momentum: Number


def like_numbers(groups: int, leaf: Any) -> Numbers:
    """Return `Numbers` of that many groups with `leaf` in the place of each number."""
    coefficients = Coefficients(*[leaf] * len(Coefficients._fields))
    group = GroupNumbers(coefficients, *[leaf] * (len(GroupNumbers._fields) - 1))
    return Numbers((group,) * groups, *[leaf] * (len(Numbers._fields) - 1))


class Counters(NamedTuple):
    """What an optimizer keeps beside its slots: integers that a step counts up, and factors."""

    # Calls of `apply` that were not skipped, whether or not they completed a step.
    calls: Tensor
    # Calls that `skip_nonfinite` left without effect; None without that option.
    skipped: Slot = None
    # The factors by which the groups, from the second on, take the learning rate, (groups - 1,).
    # A step only reads them, and tensors they are so that a traced function sees them change.
    rates: Slot = None


# How one parameter is advanced: (index among the built variables, its step's coefficients,
# the parameter, its gradient) -> the parameter after the update.
Update = Callable[[int, StepCoefficients, Parameter, Tensor], Parameter]

# Makes of a function of tensors one that a compiler traces once for all arguments of the same
# shapes and dtypes, such as `jax.jit`. Without it 500 tensors are 500 copies of the update.
Nest = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Scalars(NamedTuple):
    """What the advance of one parameter needs beside its tensors: scalars of one dtype."""

    step: StepCoefficients
    l2: Number
    # The learning rate times the weight decay.
    decay: Number


class _AverageScalars(NamedTuple):
    """What `average_weights` needs beside its tensors: scalars of one dtype."""

    ema_momentum: Number
    one_minus_ema_momentum: Number
    # Whether the first step, and one that overwrites the weights with their average, is due.
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
    shares: Mapping[int, Tensor] | None = None,
    flags: Mapping[int, Tensor] | None = None,
    nest: Nest | None = None,
) -> tuple[list[Parameter], Counters]:
    """Make one whole step.

    Args:
        plan: what the step does.
        numbers: with which numbers.
        counters: the counts so far.
        learning_rate: the rate of this step, a float or a scalar tensor.
        parameters: the built variables with their slots.
        gradients: for each parameter a dense tensor of its shape, or None.
        update: how one parameter is advanced; by default `_rule.update`. Where it is already
            known that the step will have no effect, it is not called.
        shares: for a parameter that is given as rows of a table, what each row counts in a sum
            over all: 0 where it repeats another. Every row counts 1 by default.
        flags: for a parameter of which only the running step knows whether it has a gradient,
            that as a scalar bool; where it is False the gradient must be zeros, and everything
            is as if it were None.
        nest: lets parameters of one shape share the trace of their update; not with an `update`
            of a subclass, which is to see each variable.

    Returns: the parameters and the counters after the step.
    """
    flags = flags or {}
    has_effect = known if update is not None else _not_asked
    calls = counters.calls
    done = calls // plan.accumulation_steps if plan.accumulation_steps > 1 else calls
    present = {i: g for i, g in enumerate(gradients) if g is not None}
    results = list(parameters)

    values = {i: present.pop(i) for i in list(present) if plan.overwritten[i]}
    present = {i: unscale(plan, numbers, parameters[i], g) for i, g in present.items()}

    counted_as = [(shares or {}).get(i) for i in present]
    finite: Tensor | None = None
    if plan.skip_nonfinite:
        owners = [parameters[i] for i in present]
        finite = all_finite(plan, list(present.values()), owners, counted_as)
        for value in values.values():
            finite = ops.logical_and(finite, ops.all(ops.isfinite(value)))
        if has_effect(finite) is False:
            return list(parameters), counters._replace(skipped=counters.skipped + 1)
    completes: Tensor | None = None
    if plan.accumulation_steps > 1:
        completes = (calls + 1) % plan.accumulation_steps == 0
        for i, g in present.items():
            # The sum of a variable without a gradient in the completing call waits for one.
            taken = completes if i not in flags else ops.logical_and(completes, flags[i])
            results[i], present[i] = accumulate(plan, parameters[i], g, taken)

    for i, value in values.items():
        taken = take_as_value(parameters[i], value, completes)
        results[i] = select(flags[i], taken, parameters[i]) if i in flags else taken

    # Not `functools.cache`, about which torch.compile warns.
    made: dict[tuple[int, str], _Scalars] = {}
    made_for_averages: dict[str, _AverageScalars] = {}

    def scalars(group: int, dtype: str) -> _Scalars:
        if (group, dtype) not in made:
            rate = _rule.number_in(learning_rate, dtype)
            if group:
                rate = rate * _rule.number_in(counters.rates[group - 1], dtype)
            made[group, dtype] = _scalars(
                plan.groups[group], numbers.groups[group], done, rate, dtype
            )
        return made[group, dtype]

    def average_scalars(dtype: str) -> _AverageScalars:
        if dtype not in made_for_averages:
            made_for_averages[dtype] = _average_scalars(plan, numbers, done, dtype)
        return made_for_averages[dtype]

    advancing: dict[int, Tensor] = {}
    if completes is None or has_effect(completes) is not False:
        clipped = clip(plan, numbers, list(present.values()), counted_as)
        advancing = dict(zip(present, clipped, strict=True))
    advance_one = _advancing(plan, nest if update is None else None)
    for i, gradient in advancing.items():
        before = results[i]
        group = plan.groups[plan.members[i]]
        gradient = transform(group, before, gradient)
        hook = None if update is None else functools.partial(update, i)
        conditions = [c for c in (completes, flags.get(i)) if c is not None]
        after = advance_one(group._replace(transform=None), plan.decayed[i], hook)(
            scalars(plan.members[i], dtype_of(before.square_average)),
            # What passes through would be written back.
            before._replace(accumulator=None, average=None),
            gradient,
            conditions,
        )
        results[i] = after._replace(accumulator=before.accumulator, average=before.average)
    if plan.use_ema:
        average: Callable[[_AverageScalars, Parameter], Parameter]
        average = average_weights if nest is None else nest(average_weights)
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
    # The old values are selected rather than the gradients zeroed: zeros would still decay.
    kept = [select(finite, new, old) for new, old in zip(results, parameters, strict=True)]
    return kept, counters._replace(
        calls=ops.where(finite, calls + 1, calls),
        skipped=ops.where(finite, counters.skipped, counters.skipped + 1),
    )


def known(condition: Tensor) -> bool | None:
    """The value of a scalar condition, None while the step is being traced."""
    try:
        return bool(condition)
    except TypeError:
        return None


def _not_asked(_: Tensor) -> bool | None:
    """Stand in for `known` where asking would wait for the device and nothing hangs on it."""
    return None


def unscale(plan: Plan, numbers: Numbers, parameter: Parameter, gradient: Tensor) -> Tensor:
    """Widen a gradient to float32, and divide it by the scale of the loss."""
    gradient = widen(gradient, parameter.weight)
    if not plan.scaled_loss:
        return gradient
    return gradient / _rule.number_in(numbers.loss_scale, dtype_of(gradient))


def all_finite(
    plan: Plan,
    gradients: Sequence[Tensor],
    parameters: Sequence[Parameter],
    shares: Sequence[Tensor | None],
) -> Tensor:
    """Whether a step with these gradients leaves every number finite.

    A NaN or an infinity would make weights NaN. A square that overflows its average would freeze
    the weight for good, and a norm that overflows leaves no direction to clip to.

    Args:
        plan: what the step does.
        gradients: dense tensors, or rows of a table.
        parameters: for each gradient the weight with its slots.
        shares: for each what its rows count in a sum, see `step`.
    """
    verdict: Tensor = True
    for g, parameter in zip(gradients, parameters, strict=True):
        # A gradient may be wider than the average that takes its square.
        dtypes = {dtype_of(g), dtype_of(parameter.square_average)}
        limit = math.sqrt(min(float(np.finfo(dtype).max) for dtype in dtypes))
        if parameter.gradient_average is not None:
            # The deviation from a mean can be twice as large as any of the gradients.
            limit /= 2.0
        verdict = ops.logical_and(verdict, ops.all(ops.abs(g) <= limit))
    if plan.clip in ("norm", "global_norm") and gradients:
        for square in _squared_norms(plan, gradients, shares):
            verdict = ops.logical_and(verdict, ops.isfinite(square))
    return verdict


def accumulate(
    plan: Plan, parameter: Parameter, gradient: Tensor, taken: Tensor
) -> tuple[Parameter, Tensor]:
    """Add a gradient to the sum, which is emptied where it is taken.

    Returns: the parameter with its sum, and the mean so far.
    """
    total = parameter.accumulator + ops.cast(gradient, dtype_of(parameter.accumulator))
    emptied = ops.where(taken, ops.zeros_like(total), total)
    return parameter._replace(accumulator=emptied), total / plan.accumulation_steps


def clip(
    plan: Plan, numbers: Numbers, gradients: list[Tensor], shares: Sequence[Tensor | None]
) -> list[Tensor]:
    """Clip gradients by value, by their own norm, or by the norm of all together.

    A norm that is not finite makes the clipped gradients NaN, as in Keras: there is no
    direction left to keep.
    """
    if plan.clip is None or not gradients:
        return gradients
    if plan.clip == "value":
        # Added to a tensor, because `ops.clip` would take a Python number through floatx.
        bounds = [
            ops.zeros((), dtype_of(g)) + _rule.number_in(numbers.clip, dtype_of(g))
            for g in gradients
        ]
        return [ops.clip(g, -bound, bound) for g, bound in zip(gradients, bounds, strict=True)]
    squares = _squared_norms(plan, gradients, shares)
    if plan.clip == "global_norm":
        squares *= len(gradients)
    return [
        g * _clip_scale(numbers.clip, square, dtype_of(g))
        for g, square in zip(gradients, squares, strict=True)
    ]


def _squared_norms(
    plan: Plan, gradients: Sequence[Tensor], shares: Sequence[Tensor | None]
) -> list[Tensor]:
    """The squares of the norms that are clipped: one for each gradient, or one for all.

    That of all is taken in the widest of their dtypes, for it scales the widest ones too.
    """
    if plan.clip != "global_norm":
        return [_sum_of_squares(g, share) for g, share in zip(gradients, shares, strict=True)]
    widest = widest_dtype(gradients)
    first, *others = (
        _sum_of_squares(ops.cast(g, widest), share)
        for g, share in zip(gradients, shares, strict=True)
    )
    return [sum(others, first)]


def _sum_of_squares(gradient: Tensor, share: Tensor | None) -> Tensor:
    squares = ops.square(gradient)
    if share is None:
        return ops.sum(squares)
    rows = ops.sum(squares, axis=tuple(range(1, len(squares.shape))))
    return ops.sum(ops.cast(share, dtype_of(rows)) * rows)


def _clip_scale(limit: Number, square: Tensor, dtype: str) -> Tensor:
    length = _rule.sqrt(square)
    limit = _rule.number_in(limit, dtype_of(length))
    one = ops.ones_like(length)
    is_long = length > limit
    # Also the quotient that is not taken must have a derivative.
    scale = ops.where(is_long, limit / ops.where(is_long, length, one), one)
    # length - length is 0 for a finite norm and NaN otherwise.
    return ops.cast(scale + (length - length), dtype)


def transform(group: GroupPlan, parameter: Parameter, gradient: Tensor) -> Tensor:
    """Put what the group's transform makes of a gradient in its place.

    Raises: TransformError if that is not a gradient of this weight.
    """
    if group.transform is None:
        return gradient
    dtype = dtype_of(parameter.square_average)
    gradient = ops.cast(gradient, dtype)
    transformed = group.transform(gradient, ops.cast(parameter.weight, dtype))
    check_transformed(group.transform, transformed, gradient)
    return transformed


class TransformError(ValueError):
    """What a transform returned cannot take the place of the gradient."""


def check_transformed(function: Transform, transformed: Any, gradient: Tensor) -> None:
    """Check that what a transform returned can take the place of the gradient.

    Raises: TransformError if it is no tensor of the gradient's shape and dtype.
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


def _scalars(
    group: GroupPlan, numbers: GroupNumbers, done: Tensor, rate: Number, dtype: str
) -> _Scalars:
    """Compute the scalars of a step once for all tensors of a group and dtype."""
    step = _rule.step_coefficients(group.form, numbers.coefficients, rate, done + 1, dtype)
    return _Scalars(
        step=step,
        l2=_rule.number_in(numbers.l2, dtype),
        decay=rate * _rule.number_in(numbers.weight_decay, dtype),
    )


def _average_scalars(plan: Plan, numbers: Numbers, done: Tensor, dtype: str) -> _AverageScalars:
    frequency = plan.ema_overwrite_frequency
    return _AverageScalars(
        ema_momentum=_rule.number_in(numbers.ema_momentum, dtype),
        one_minus_ema_momentum=_rule.number_in(numbers.one_minus_ema_momentum, dtype),
        first=done == 0,
        overwrites=None if frequency is None else (done + 1) % frequency == 0,
    )


def _advancing(plan: Plan, nest: Nest | None) -> Callable[..., Callable[..., Parameter]]:
    """Return what gives the advance of a parameter: by its group, whether it decays, the hook."""
    if nest is None:
        return functools.partial(functools.partial, advance)
    # The transform is a stage of its own, so that groups that differ in it alone share a trace.
    groups = [plan.groups[group]._replace(transform=None) for group in plan.members]
    kinds = dict.fromkeys(zip(groups, plan.decayed, strict=True))
    nested = {kind: nest(functools.partial(advance, *kind, None)) for kind in kinds}
    return lambda group, decayed, _: nested[group, decayed]


def advance(
    group: GroupPlan,
    decayed: bool,
    hook: Callable[[StepCoefficients, Parameter, Tensor], Parameter] | None,
    scalars: _Scalars,
    before: Parameter,
    gradient: Tensor,
    conditions: Sequence[Tensor],
) -> Parameter:
    """Take one parameter through negation, penalty, decay and update.

    Where one of the conditions fails it is left alone. All of this is elementwise, and so is the
    whole rule: element i of what comes out depends on the elements i of what goes in. torch's
    engine relies on it, which cuts large tensors into pieces and strings small ones together.
    """
    dtype = dtype_of(before.square_average)
    gradient = ops.cast(gradient, dtype)
    weight = before.weight

    if group.maximize:
        gradient = -gradient
    if group.l2:
        gradient = gradient + scalars.l2 * ops.cast(weight, dtype)
    if decayed:
        # Stays in the wider dtype until the update has rounded it once.
        weight = ops.cast(weight, dtype)
        weight = weight - scalars.decay * weight

    update = hook or functools.partial(_rule.update, group.form)
    after = update(scalars.step, before._replace(weight=weight), gradient)
    after = after._replace(weight=ops.cast(after.weight, dtype_of(before.weight)))
    for condition in conditions:
        after = select(condition, after, before)
    return after


def take_as_value(parameter: Parameter, gradient: Tensor, completes: Tensor | None) -> Parameter:
    """Give a variable its gradient as value; of several that are accumulated, the largest."""
    weight, accumulator = parameter.weight, parameter.accumulator
    if completes is None:
        return parameter._replace(weight=ops.cast(gradient, dtype_of(weight)))
    gradient = ops.cast(gradient, dtype_of(accumulator))
    # A NaN wins, as in `ops.maximum`, which rounds float64 on torch.
    largest = ops.where(accumulator > gradient, accumulator, gradient)
    return parameter._replace(
        weight=ops.where(completes, ops.cast(largest, dtype_of(weight)), weight),
        accumulator=ops.where(completes, ops.zeros_like(largest), largest),
    )


def average_weights(scalars: _AverageScalars, parameter: Parameter) -> Parameter:
    """Advance the moving average of the weights; the first one is a copy of them."""
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
    """Apply a constraint to the weight, unless the flag says that it has no gradient."""
    weight = parameter.weight
    constrained = ops.cast(constraint(weight), dtype_of(weight))
    if flag is not None:
        constrained = ops.where(flag, constrained, weight)
    return parameter._replace(weight=constrained)


def select(condition: Tensor, new: Parameter, old: Parameter) -> Parameter:
    """Take every tensor of `new` where the scalar `condition` holds, of `old` otherwise."""
    return Parameter(
        *(
            a if a is None or a is b else ops.where(condition, a, b)
            for a, b in zip(new, old, strict=True)
        )
    )


def dtype_of(tensor: Tensor) -> str:
    """The name of a tensor's dtype, the same on every backend."""
    return backend.standardize_dtype(tensor.dtype)


def accumulator_dtype(dtype: str) -> str:
    """The dtype in which a variable of `dtype` is averaged: never less than float32."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def is_floating(dtype: str) -> bool:
    """Whether a dtype holds real numbers rather than integers or truth values."""
    return "float" in dtype


def widen(tensor: Tensor, like: Tensor = None) -> Tensor:
    """Cast a half-precision tensor to float32; leave wider ones alone.

    Args:
        tensor: a gradient.
        like: the weight whose precision integers are taken to; float32 without.
    """
    dtype = dtype_of(tensor)
    if not is_floating(dtype):
        wide = accumulator_dtype("float32" if like is None else dtype_of(like))
    else:
        wide = accumulator_dtype(dtype)
    return tensor if wide == dtype else ops.cast(tensor, wide)


def widest_dtype(tensors: Sequence[Tensor]) -> str:
    """The widest floating dtype among the tensors."""
    return "float64" if any(dtype_of(t) == "float64" for t in tensors) else "float32"
