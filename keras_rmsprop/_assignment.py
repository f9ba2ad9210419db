"""Assign and read the settings of an optimizer and of its groups.

An assignment is checked against the other settings and the existing slots before anything changes.
A change of `rho` first makes up for the decay that rows of lazy tables have missed, which uses the
old value.

A traced function sees a change only of variables. So an optimizer with groups has two: the factors
by which the groups take the learning rate, which are state like the rate itself, and a copy of the
other numbers of a step, which belong to the settings.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from keras import saving

from keras_rmsprop import _state
from keras_rmsprop._execution import _interrupts, engine
from keras_rmsprop._math._step import Numbers
from keras_rmsprop._private import in_stateless_scope
from keras_rmsprop._settings import _groups, _plan, _validation
from keras_rmsprop._settings._groups import HeldGroups
from keras_rmsprop._variables._gate import Gate
from keras_rmsprop._variables._roster import Roster

# The settings that are numbers of a step, and differ between groups.
NUMBERS = frozenset({"rho", "momentum", "epsilon", "l2", "weight_decay"})


class Optimizer(Protocol):
    """What an assignment uses of an optimizer."""

    built: bool
    _roster: Roster
    _held_groups: HeldGroups
    _gate: Gate
    _momentums: Sequence[Any]

    def _settings(self) -> dict[str, Any]: ...

    def _derive(self) -> _plan.Derived: ...

    def _settle(self, position: int) -> None: ...


def assign_setting(
    optimizer: Optimizer, name: str, value: Any, store: Callable[[Any], None]
) -> None:
    """Assign a hyperparameter of the optimizer.

    Args:
        optimizer: the optimizer.
        name: the hyperparameter.
        value: the new value; it is validated here.
        store: sets the attribute to the plain value.
    """
    value = _validation.checked(name, value)
    try:
        settings = optimizer._settings()
    except AttributeError:
        # The constructor is still setting them, and has checked them together.
        store(value)
        return
    own: list[Mapping[str, Any]] = [{}, *optimizer._held_groups.own.values()]
    roster = optimizer._roster
    concerned = [i for i, group in enumerate(roster.members) if name not in own[group]]
    if optimizer.built:
        _check_slots_follow(optimizer, name, settings[name], value, concerned)
    _groups.check_together({**settings, name: value}, optimizer._held_groups.own)
    with _between_steps(optimizer):
        if name == "rho" and settings[name] != value:
            _settle(optimizer, concerned)
        with _numbers_follow(optimizer, name, stacklevel=5):
            store(value)


def assign_to_group(optimizer: Optimizer, pattern: str, name: str, value: Any) -> None:
    """Assign a setting of a group."""
    value = _groups.checked(pattern, name, value)
    with _between_steps(optimizer):
        _assign_to_group(optimizer, pattern, name, value)


def _between_steps(optimizer: Optimizer) -> AbstractContextManager[Any]:
    """Return a context in which no other thread makes a step or an assignment."""
    if engine.is_capturing_python() or not optimizer.built:
        return contextlib.nullcontext()
    return optimizer._gate.read()


def _assign_to_group(optimizer: Optimizer, pattern: str, name: str, value: Any) -> None:
    held, roster = optimizer._held_groups, optimizer._roster
    settings = optimizer._settings()
    number = list(held.own).index(pattern)
    concerned = [i for i, group in enumerate(roster.members) if group == number + 1]
    old = held.own[pattern].get(name, settings.get(name))
    if optimizer.built:
        _check_slots_follow(optimizer, name, old, value, concerned)
    own = held.with_setting(pattern, name, value)
    _groups.check_together(settings, own)
    if name == "rho" and old != value:
        _settle(optimizer, concerned)
    rates = roster.counters.rates
    if name == "learning_rate" and rates is not None:
        factors = _array_outside_trace(rates, name)
        factors[number] = value
        rates.assign(factors)
    with _numbers_follow(optimizer, name, stacklevel=6):
        held.own = own


def _check_slots_follow(
    optimizer: Optimizer, name: str, old: Any, new: Any, positions: Sequence[int]
) -> None:
    """Refuse a changed setting that would not match the slots of these variables."""
    roster = optimizer._roster
    slots = [roster.parameters[i] for i in positions]
    _validation.check_change(
        name,
        old,
        new,
        has_momentum_buffer=all(
            p.momentum is not None for p in slots if p.square_average is not None
        )
        and bool(optimizer._momentums),
        counts_rows=any(roster.progress[i] is not None for i in positions),
    )


def _settle(optimizer: Optimizer, positions: Sequence[int]) -> None:
    with engine.outside_trace():
        for position in positions:
            optimizer._settle(position)


@contextlib.contextmanager
def _numbers_follow(optimizer: Optimizer, name: str, stacklevel: int) -> Iterator[None]:
    """Return a context for a change of a setting, which the copy of the numbers then follows."""
    roster = optimizer._roster
    if roster.counters.rates is None:
        yield
        return
    copy = roster.group_numbers
    if copy is not None and name in NUMBERS:
        _array_outside_trace(copy, name)
    before = optimizer._derive()
    plan, numbers = before.plan(), before.numbers
    with _interrupts.deferred():
        yield
        derived = optimizer._derive()
        if copy is not None and name in NUMBERS:
            copy.follow(_plan.table_of(derived.numbers))
    acts = not roster.was_traced_before
    if roster.traced_plan is not None:
        if copy is not None:
            # Those of the groups act at once.
            numbers = numbers._replace(groups=derived.numbers.groups)
        acts = numbers == derived.numbers and (
            derived.plan() == plan or _plan.covers(roster.traced_plan, derived.plan())
        )
    if not acts:
        warnings.warn(
            f"The new `{name}` does not act yet in functions that have been traced, such as that "
            "of `fit`: it does once they are traced again, as after `model.compile`.",
            stacklevel=stacklevel,
        )


def _array_outside_trace(variable: Any, name: str) -> Any:
    """Return the array in a variable.

    Raises: RuntimeError in a function that is being traced, where there is none yet.
    """
    reason = (
        f"`{name}` of an optimizer with groups cannot be assigned while a function is being "
        "traced, in a stateless scope, or while `fit` on JAX holds the optimizer's variables. "
        "Assign it between steps; in a callback of Keras's, to `self.model.optimizer` or its "
        "groups."
    )
    if in_stateless_scope():
        raise RuntimeError(reason)
    try:
        return _state.array_of(variable)
    except Warning:
        raise
    except Exception as error:
        # Each backend has an error of its own for this.
        raise RuntimeError(reason) from error


def numbers_in_trace(optimizer: Optimizer, numbers: Numbers) -> Numbers:
    """Return the numbers of a step that is being traced, those of groups as tensors.

    Anywhere else, and without groups, they are returned unchanged.
    """
    roster = optimizer._roster
    has_groups, captures = roster.counters.rates is not None, engine.TRACED_VARIABLES == "captured"
    if not (has_groups or captures) or not engine.is_traced(roster.counters.calls):
        return numbers
    roster.traced_plan, roster.was_traced_before = optimizer._derive().plan(), False
    if roster.group_numbers is None:
        return numbers
    return _plan.from_table(roster.traced_plan, numbers, engine.read(roster.group_numbers))


def rate_of_group(optimizer: Optimizer, pattern: str) -> Any:
    """Return the factor by which a group takes the learning rate; in a trace a tensor."""
    own = optimizer._held_groups.own
    given, rates = own[pattern].get("learning_rate", 1.0), optimizer._roster.counters.rates
    if rates is None:
        return float(given)
    number = list(own).index(pattern)
    try:
        factor = _state.array_of(rates)[number]
    except Exception:
        # Inside a trace it has no value yet, for which each backend has an error of its own.
        return engine.read(rates)[number]
    # The digits that it was given with, unless it has been loaded since.
    return float(given if np.asarray(given, factor.dtype) == factor else factor)


def groups_in_use(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Return the groups' own settings, with the current learning rate factors."""
    groups = {}
    for pattern, own in optimizer._held_groups.own.items():
        rate = rate_of_group(optimizer, pattern)
        is_given = "learning_rate" in own or rate != 1.0
        groups[pattern] = {**own, "learning_rate": rate} if is_given else dict(own)
    return groups


def groups_in_config(optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Return `groups_in_use` with transforms by the names under which they are registered."""
    groups = groups_in_use(optimizer)
    for settings in groups.values():
        with_registered_name(settings)
    return groups


def with_registered_name(settings: dict[str, Any]) -> None:
    """Replace the transform in settings, if there is one, by its registered name."""
    if settings.get("transform") is not None:
        settings["transform"] = saving.get_registered_name(settings["transform"])
