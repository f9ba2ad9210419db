"""Cache the values of device scalars, such as the learning rate, to avoid synchronizations."""

import weakref
from typing import Any, NamedTuple

import keras
import torch

from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._op_by_op import tensor_of
from keras_rmsprop._execution.torch._values import read
from keras_rmsprop._variables._roster import Roster


def learning_rate(step: Step, calls: int) -> float:
    """Return the learning rate of this step as a Python number."""
    rate = step.rate.source
    if step.rate.is_overridden or not isinstance(rate, _SOURCES):
        return float(tensor_of(step.rate.get_next(), read))
    if isinstance(rate, keras.Variable):
        return float(value_of(step.roster, "learning_rate", rate._value))
    # On the CPU, from the known counter: a schedule on the device would force a synchronization.
    with keras.device("cpu"):
        return float(rate(keras.ops.convert_to_tensor(calls)))


# The sources of a rate that can be evaluated without asking the optimizer.
_SOURCES = (keras.Variable, keras.optimizers.schedules.LearningRateSchedule)


class _CachedValue(NamedTuple):
    """The value of a tensor, valid as long as the tensor's version is unchanged."""

    tensor: torch.Tensor
    version: int
    value: Any


# Values of scalars on a device, so that a step need not wait for the device to read them. A change
# that bypasses torch's version counter, such as one through `.data`, goes unnoticed.
_cached_values: "weakref.WeakKeyDictionary[Roster, dict[str, _CachedValue]]" = (
    weakref.WeakKeyDictionary()
)


def value_of(roster: Roster, name: str, tensor: torch.Tensor) -> Any:
    """Return the value of a scalar or vector, read from the device only if it has changed."""
    if not _is_remote(tensor):
        return tensor.tolist()
    cached = _cached_values.setdefault(roster, {}).get(name)
    if cached is None or cached.tensor is not tensor or cached.version != tensor._version:
        value = tensor.tolist()
        cache_value(roster, name, tensor, value)
        return value
    return cached.value


def cache_value(roster: Roster, name: str, tensor: torch.Tensor, value: Any) -> None:
    """Record the current value of a tensor."""
    if _is_remote(tensor):
        cached = _CachedValue(tensor, tensor._version, value)
        _cached_values.setdefault(roster, {})[name] = cached


def _is_remote(tensor: torch.Tensor) -> bool:
    """Whether reading the tensor synchronizes, and its version tells whether it has changed."""
    return tensor.device.type != "cpu" and not tensor.is_inference()
