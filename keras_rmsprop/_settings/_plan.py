"""Derive the plan and the numbers of a step from the settings."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_rmsprop._math import _rule
from keras_rmsprop._math._rule import Coefficients, Form, Tensor
from keras_rmsprop._math._step import GroupNumbers, GroupPlan, Numbers, Plan
from keras_rmsprop._variables._roster import Roster, Variable

# Any object with an attribute for each hyperparameter: an optimizer or a group of variables.
Settings = Any


def form_of(settings: Settings) -> Form:
    """Return the choices that shape the equations."""
    return Form(
        nesterov=settings.nesterov,
        epsilon_inside_sqrt=settings.epsilon_inside_sqrt,
        lr_in_momentum=settings.lr_in_momentum,
        bias_correction=settings.bias_correction,
        guards_zero_root=settings.epsilon < _rule.SMALLEST_EPSILON,
    )


def coefficients_of(settings: Settings) -> Coefficients:
    """Return the numbers in the equations."""
    return Coefficients.of(rho=settings.rho, momentum=settings.momentum, epsilon=settings.epsilon)


def numbers_of(settings: Settings, groups: Sequence[Settings]) -> Numbers:
    """Return the numbers of a step."""
    return Numbers(
        groups=tuple([_group_numbers(each) for each in (settings, *groups)]),
        loss_scale=settings.loss_scale_factor or 0.0,
        clip=settings.clipvalue or settings.clipnorm or settings.global_clipnorm or 0.0,
        ema_momentum=settings.ema_momentum,
        one_minus_ema_momentum=1.0 - settings.ema_momentum,
    )


def _group_numbers(settings: Settings) -> GroupNumbers:
    return GroupNumbers(
        coefficients=coefficients_of(settings),
        l2=settings.l2,
        weight_decay=settings.weight_decay or 0.0,
    )


def table_of(numbers: Numbers) -> np.ndarray[Any, Any]:
    """Return the numbers of the groups as an array of shape (groups, numbers of a group)."""
    return np.array([[*group.coefficients, *group[1:]] for group in numbers.groups])


def from_table(plan: Plan, numbers: Numbers, table: Tensor) -> Numbers:
    """Return numbers in which those of the groups are scalar tensors taken from a table."""
    flat = iter(ops.unstack(ops.reshape(table, (-1,))))

    def group(form: Form) -> GroupNumbers:
        coefficients = Coefficients(*(next(flat) for _ in Coefficients._fields))
        if not form.guards_zero_root:
            # The epsilon may become 0 later, when the plan can no longer change. Then this keeps
            # steps below the learning rate where the average of squares has underflowed.
            least = _rule.SMALLEST_EPSILON
            least = least if form.epsilon_inside_sqrt else math.sqrt(least)
            epsilon = coefficients.epsilon
            least = ops.full_like(epsilon, least)
            coefficients = coefficients._replace(epsilon=ops.where(epsilon < least, least, epsilon))
        return GroupNumbers(coefficients, *(next(flat) for _ in GroupNumbers._fields[1:]))

    return numbers._replace(groups=tuple([group(each.form) for each in plan.groups]))


def covers(traced: Plan, plan: Plan) -> bool:
    """Whether a function traced with one plan makes the steps of another, given its numbers.

    An operation that has been switched off goes on with the number 0.
    """
    groups = tuple(
        [
            now._replace(
                l2=now.l2 or then.l2,
                form=now.form._replace(guards_zero_root=then.form.guards_zero_root),
            )
            for now, then in zip(plan.groups, traced.groups, strict=False)
        ]
    )
    decayed = tuple([a or b for a, b in zip(plan.decayed, traced.decayed, strict=False)])
    return plan._replace(groups=groups, decayed=decayed) == traced


def _group_plan(settings: Settings) -> GroupPlan:
    return GroupPlan(
        form=form_of(settings),
        maximize=settings.maximize,
        l2=settings.l2 > 0.0,
        transform=settings.transform,
    )


def plan_of(
    settings: Settings,
    groups: Sequence[Settings],
    roster: Roster,
    decays: Callable[[Variable], bool],
) -> Plan:
    """Return the plan of a step.

    Args:
        settings: the hyperparameters.
        groups: those of each group.
        roster: the variables.
        decays: whether weight decay, if any, applies to a variable.
    """
    clips = {
        "value": settings.clipvalue,
        "norm": settings.clipnorm,
        "global_norm": settings.global_clipnorm,
    }
    overwrites_every = settings.ema_overwrite_frequency or None
    all_groups = (settings, *groups)
    decayed = [bool(all_groups[group].weight_decay) for group in roster.members]
    return Plan(
        groups=tuple([_group_plan(group) for group in all_groups]),
        skip_nonfinite=settings.skip_nonfinite,
        clip=next((kind for kind, limit in clips.items() if limit), None),
        scaled_loss=settings.loss_scale_factor is not None,
        accumulation_steps=settings.gradient_accumulation_steps or 1,
        use_ema=settings.use_ema,
        ema_overwrite_frequency=overwrites_every if settings.use_ema else None,
        members=roster.members,
        decayed=tuple([d and decays(v) for d, v in zip(decayed, roster.weights, strict=True)]),
        overwritten=roster.overwritten,
        constraints=_constraints(roster),
    )


def _constraints(roster: Roster) -> tuple[Any, ...]:
    try:
        return tuple(map(_get_constraint, roster.weights))
    except AttributeError:
        # A raw backend variable has none.
        return tuple([getattr(v, "constraint", None) for v in roster.weights])


# In C, as each step asks all variables.
_get_constraint = operator.attrgetter("constraint")


class Derived:
    """The plan and numbers that follow from the settings of a built optimizer.

    Valid as long as the settings equal `source`. A plain object, so that neither Keras nor
    TensorFlow tracks what it holds.
    """

    def __init__(
        self,
        settings: Settings,
        groups: Sequence[Settings],
        roster: Roster,
        decays: Callable[[Variable], bool],
        source: tuple[Any, ...] = (),
    ) -> None:
        self.source = source
        self._roster = roster
        self._plan = plan_of(settings, groups, roster, decays)
        self.numbers = numbers_of(settings, groups)

    def plan(self) -> Plan:
        """Return the plan of the next step."""
        # Nothing notifies the optimizer when a variable gets another constraint.
        constraints = _constraints(self._roster)
        if not all(map(operator.is_, constraints, self._plan.constraints)):
            self._plan = self._plan._replace(constraints=constraints)
        return self._plan
