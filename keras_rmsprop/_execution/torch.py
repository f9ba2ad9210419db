"""How a step runs on torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import torch

from keras_rmsprop._execution._plain import run_plainly

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop


@torch.no_grad()
def run(optimizer: "RMSprop", gradients: Sequence[torch.Tensor | None]) -> None:
    """Make one step."""
    write(run_plainly(optimizer, gradients, read))


def read(variable: keras.Variable) -> torch.Tensor:
    """Return the variable's current value; the tensor is the variable's own memory."""
    return variable.value


def write(pairs: Sequence[tuple[Any, torch.Tensor]]) -> None:
    """Assign each value to its variable."""
    for variable, value in pairs:
        variable.assign(value)


def copy(value: torch.Tensor) -> torch.Tensor:
    """Return the value; assigning it copies it into the variable's own memory."""
    return value


def dense(gradient: Any, variable: keras.Variable) -> torch.Tensor:
    """Return the gradient as one value per weight, a sparse one made dense."""
    return gradient.to_dense() if gradient.is_sparse else gradient
