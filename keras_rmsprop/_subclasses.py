"""The code of a subclass that takes part in a step."""

import inspect
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_rmsprop import _state
from keras_rmsprop._execution import engine
from keras_rmsprop._execution._interface import Hook
from keras_rmsprop._math._rule import Parameter, StepCoefficients, Tensor
from keras_rmsprop._settings._validation import HYPERPARAMETERS
from keras_rmsprop._variables._roster import Roster

# Undocumented stages of Keras's `apply` that subclasses override. Our stages are not methods, so a
# step of such a subclass runs through Keras's stages.
KERAS_STAGES = (
    "_apply_weight_decay",
    "_backend_apply_gradients",
    "_backend_update_step",
    "_clip_gradients",
    "_filter_empty_gradients",
    "_overwrite_variables_directly_with_gradients",
    "_update_model_variables_moving_average",
)

# Methods whose overrides run once per variable and step.
HOOKS = ("update_step", "assign", "assign_sub")

# Methods that give the learning rate.
RATES = ("learning_rate", "_get_current_learning_rate")

# All methods that take part in a step.
METHODS = (*KERAS_STAGES, *HOOKS, *RATES, "_use_weight_decay")


def check_names(optimizer: Any, base: type) -> None:
    """Refuse methods of a subclass that have the name of a setting, which would hide them.

    Raises: TypeError with the name.
    """
    for name in HYPERPARAMETERS:
        if inspect.isroutine(getattr(type(optimizer), name, None)):
            raise TypeError(
                f"{type(optimizer).__name__} has a method `{name}`, but that is a setting of "
                f"{base.__name__}. Rename the method."
            )


def overrides(optimizer: Any, base: type, *names: str) -> bool:
    """Whether a subclass of `base`, or this instance of it, overrides one of these methods."""
    if not optimizer.__dict__.keys().isdisjoint(names):
        return True
    cls = type(optimizer)
    # A release of Keras may lack one.
    return cls is not base and any(
        getattr(cls, name, None) is not getattr(base, name, None) for name in names
    )


def hook_of(optimizer: Any, base: type, roster: Roster, decayed: Sequence[bool]) -> Hook | None:
    """Return the subclass's code that runs inside a step, or None.

    Args:
        optimizer: the optimizer.
        base: the class whose subclasses may override methods.
        roster: the variables.
        decayed: for each variable, whether weight decay applies.
    """
    if not overrides(optimizer, base, *HOOKS):
        return None

    def update(index: int, step: StepCoefficients, before: Parameter, g: Tensor) -> Parameter:
        owners = roster.parameters[index]
        if decayed[index]:
            # Decoupled decay comes before the update.
            engine.write([(owners.weight, ops.cast(before.weight, owners.weight.dtype))])
        optimizer.update_step(g, owners.weight, step.learning_rate)
        after = owners.read(engine.read)
        return after._replace(accumulator=before.accumulator, average=before.average)

    own = _state.subclass_variables(optimizer._parts())
    return Hook(update, own, [*roster.weights, *optimizer.variables], type(optimizer).__name__)


def check_keras_stages_suffice(optimizer: Any, base: type, given: Sequence[str]) -> None:
    """Refuse settings that Keras's own stages, some of which a subclass overrides, do not know.

    Args:
        optimizer: the optimizer.
        base: the class whose subclasses may override stages.
        given: the settings in use that go beyond Keras's.

    Raises: ValueError that names the stages and the settings.
    """
    if given:
        raise ValueError(
            f"{why_as_keras(optimizer, base)}. They do not support {', '.join(given)}. Leave one "
            "of the two out, or override `update_step` or `apply` instead."
        )


def why_as_keras(optimizer: Any, base: type) -> str | None:
    """Return why Keras's own stages make the step, op by op; None if they do not."""
    stages = [name for name in KERAS_STAGES if overrides(optimizer, base, name)]
    if not stages:
        return None
    name = type(optimizer).__name__
    return f"{name} overrides {', '.join(stages)}, so Keras's own stages make the step"


def overridden(optimizer: Any, base: type) -> list[str]:
    """Say which methods of a subclass may change what a step computes."""
    names = (*METHODS, "apply", "apply_gradients")
    of_whom = type(optimizer).__name__
    return [f"the `{name}` of {of_whom}" for name in names if overrides(optimizer, base, name)]
