"""Settings of groups of variables.

A group consists of the variables whose path matches a pattern. Settings that it omits are the
optimizer's, including later changes.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_rmsprop._settings import _validation
from keras_rmsprop._settings._validation import HYPERPARAMETERS, Hyperparameter
from keras_rmsprop._variables._patterns import problem_of

# By pattern, the group's own settings.
SettingsByPattern = Mapping[str, Mapping[str, Any]]

OF_A_GROUP: dict[str, Hyperparameter] = {
    "learning_rate": Hyperparameter(
        "a finite number >= 0, the factor by which its variables take the optimizer's rate",
        _validation.factor,
        "A schedule or a callable belongs to the optimizer.",
    ),
    **{
        name: HYPERPARAMETERS[name]
        for name in (
            "rho",
            "momentum",
            "epsilon",
            "weight_decay",
            "l2",
            "maximize",
            "lazy",
            "transform",
        )
    },
}

# What can be read of a group: its own settings, and those of the optimizer.
_READABLE = {*HYPERPARAMETERS, *OF_A_GROUP}

_EXAMPLE = '{"backbone/.*": {"learning_rate": 0.1}}'


def checked_groups(value: Any) -> dict[str, dict[str, Any]]:
    """Validate the `groups` argument and return it with plain values.

    Raises: ValueError that says what was received, where, and what is accepted.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(
            "`groups` must be None or a mapping from patterns of variables' paths to settings, "
            f"such as {_EXAMPLE}, received groups={_validation.shown(value)}."
        )
    for pattern in value:
        _check_pattern(pattern)
    return {pattern: _checked_settings(pattern, own) for pattern, own in value.items()}


def _check_pattern(pattern: Any) -> None:
    problem = problem_of(pattern) if isinstance(pattern, str) else "it is not a string"
    if problem is not None:
        raise ValueError(
            "The keys of `groups` must be paths of variables, or regular expressions that match "
            f"whole paths, received {pattern!r}: {problem}."
        )


def _checked_settings(pattern: str, own: Any) -> dict[str, Any]:
    if not isinstance(own, Mapping):
        raise ValueError(
            f"The group {pattern!r} must be a mapping from settings to their values, such as "
            f"{_EXAMPLE}, received {_validation.shown(own)}."
        )
    return {name: checked(pattern, name, value) for name, value in own.items()}


def checked(pattern: str, name: Any, value: Any) -> Any:
    """Validate a setting of a group and return its plain value.

    Raises: ValueError that says for which group, what was received and what is accepted.
    """
    if name not in OF_A_GROUP:
        accepted = ", ".join(f"`{word}`" for word in OF_A_GROUP)
        if name in HYPERPARAMETERS:
            why = f"`{name}` is the same for all variables of an optimizer: pass it beside `groups`"
        else:
            why = _validation.hint(str(name), OF_A_GROUP).removesuffix(".")
        raise ValueError(
            f"The group {pattern!r} cannot have `{name}`, received "
            f"{name}={_validation.shown(value)}. {why}. A group can have {accepted}."
        )
    with _naming(pattern):
        return _validation.checked_as(name, OF_A_GROUP[name], value)


def check_together(settings: Mapping[str, Any], groups: SettingsByPattern) -> None:
    """Refuse contradictory hyperparameters, of the optimizer or of a group.

    Raises: ValueError with the reason, the remedy and the group.
    """
    _validation.check_together(settings)
    momentums = [settings["momentum"], *(own.get("momentum", 0.0) for own in groups.values())]
    if settings["nesterov"] and not any(momentums):
        _validation.refuse_nesterov()
    for pattern, own in groups.items():
        with _naming(pattern):
            _validation.check_together({**settings, **own})


@contextlib.contextmanager
def _naming(pattern: str) -> Iterator[None]:
    """Name the group in a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"In the group {pattern!r}: {error}") from None


def joined(own: SettingsByPattern, more: Any) -> dict[str, dict[str, Any]]:
    """Add groups to the existing ones; return all.

    Raises: ValueError if a new group is invalid or its pattern exists already.
    """
    added = checked_groups(more)
    for pattern in added:
        if pattern in own:
            raise ValueError(
                f"There is a group {pattern!r} already, received groups={_validation.shown(more)}. "
                f"Assign to the settings of `optimizer.groups[{pattern!r}]`."
            )
    return {**{pattern: dict(settings) for pattern, settings in own.items()}, **added}


class Group:
    """The settings in effect for the variables of one pattern.

    Attributes:
        learning_rate: factor of the optimizer's rate, >= 0; 1.0 unless set.
        rho, momentum, epsilon, weight_decay, l2, maximize, lazy, transform: as for the optimizer,
            whose values apply unless set here.

    An assignment is checked as the optimizer's are, and acts from the next step on, without a new
    compilation unless it switches an operation on or off; see `RMSprop.groups`.
    `learning_rate = 0.0` freezes: the averages go on, and with `lr_in_momentum=True` the steps that
    are in the momentum buffer run out.
    """

    def __init__(self, pattern: str, owner: "Groups") -> None:
        object.__setattr__(self, "_pattern", pattern)
        object.__setattr__(self, "_owner", owner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in _READABLE:
            raise AttributeError(
                f"A group of an optimizer has no `{name}`; it has {', '.join(OF_A_GROUP)}."
            )
        if name == "learning_rate":
            return self._owner.rate(self._pattern)
        own = self._owner.held.own[self._pattern]
        return own[name] if name in own else getattr(self._owner.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._owner.assign(self._pattern, name, value)

    def __repr__(self) -> str:
        names = {"learning_rate", *self._owner.held.own[self._pattern]}
        own = ", ".join(
            f"{name}={_validation.shown(getattr(self, name))}"
            for name in OF_A_GROUP
            if name in names
        )
        return f"Group({self._pattern!r}: {own})"


class Groups(Mapping[str, Group]):
    """The groups of an optimizer by pattern, with settings that can be read and assigned."""

    def __init__(
        self,
        optimizer: Any,
        rate: Callable[[str], float],
        assign: Callable[[str, str, Any], None],
    ) -> None:
        self.optimizer = optimizer
        self.rate, self.assign = rate, assign

    @property
    def held(self) -> "HeldGroups":
        """The groups' own settings; `add_variables` replaces them."""
        held: HeldGroups = self.optimizer._held_groups
        return held

    def __getitem__(self, pattern: str) -> Group:
        if pattern not in self.held.own:
            known = ", ".join(map(repr, self.held.own)) or "none"
            raise KeyError(f"There is no group {pattern!r}; there is {known}.")
        return Group(pattern, self)

    def __setitem__(self, pattern: str, settings: Any) -> None:
        raise TypeError(
            f"`optimizer.groups[{pattern!r}]` cannot be replaced, received "
            f"{_validation.shown(settings)}. Assign to its settings one by one, or pass a new "
            "group to `optimizer.add_variables(variables, groups={...})`."
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.held.own)

    def __len__(self) -> int:
        return len(self.held.own)

    def __repr__(self) -> str:
        return f"Groups({{{', '.join(repr(self[pattern]) for pattern in self)}}})"


class HeldGroups:
    """The groups' own settings, except the current learning rate factors.

    The build moves those to a variable. A plain object, so that neither Keras nor TensorFlow
    tracks what it holds. A change replaces the mapping and never modifies it, so that comparing
    two is cheap.
    """

    def __init__(self, own: SettingsByPattern) -> None:
        self.own = own

    def with_setting(self, pattern: str, name: str, value: Any) -> SettingsByPattern:
        """Return the groups' settings as they would be after an assignment."""
        return {**self.own, pattern: {**self.own[pattern], name: value}}

    def rates(self) -> list[float]:
        """Return the learning rate factors as given, 1.0 by default."""
        return [own.get("learning_rate", 1.0) for own in self.own.values()]
