"""Numbers of the device that the host knows without asking, and the learning rate as one."""

import weakref
from typing import Any, NamedTuple

import keras
import torch

from keras_rmsprop._execution._interface import Step
from keras_rmsprop._execution._plain import tensor_of
from keras_rmsprop._execution.torch._values import read
from keras_rmsprop._variables._roster import Roster


def learning_rate(step: Step, calls: int) -> float:
    """The rate of this step as a number of the host's."""
    rate = step.rate.source
    if step.rate.is_overridden or not isinstance(rate, _Source):
        return float(tensor_of(step.rate.ask(), read))
    if isinstance(rate, keras.Variable):
        return float(value_of(step.roster, "learning_rate", read(rate)))
    # Where the counter lives on a device, its value is known here without asking.
    with keras.device("cpu"):
        return float(rate(keras.ops.convert_to_tensor(calls)))


# Where a rate comes from that need not be asked of the optimizer.
_Source = keras.Variable | keras.optimizers.schedules.LearningRateSchedule


class _Known(NamedTuple):
    """The value of a tensor, which holds as long as its version does."""

    tensor: torch.Tensor
    version: int
    value: Any


# Scalars of an optimizer that live on a device and whose values are known on the host, so that
# a step need not wait for the device to tell them. A change past torch's count of versions, such
# as one made through `.data`, is not seen there.
_known: "weakref.WeakKeyDictionary[Roster, dict[str, _Known]]" = weakref.WeakKeyDictionary()


def value_of(roster: Roster, name: str, tensor: torch.Tensor) -> Any:
    """The value of a scalar or a vector, read from a device only if it has changed."""
    if not _is_remote(tensor):
        return tensor.tolist()
    known = _known.setdefault(roster, {}).get(name)
    if known is None or known.tensor is not tensor or known.version != tensor._version:
        value = tensor.tolist()
        remember(roster, name, tensor, value)
        return value
    return known.value


def remember(roster: Roster, name: str, tensor: torch.Tensor, value: Any) -> None:
    """Note the value that a tensor has from now on."""
    if _is_remote(tensor):
        known = _Known(tensor, tensor._version, value)
        _known.setdefault(roster, {})[name] = known


def _is_remote(tensor: torch.Tensor) -> bool:
    """Whether reading the tensor means waiting, and its version can tell whether it changed."""
    return tensor.device.type != "cpu" and not tensor.is_inference()
