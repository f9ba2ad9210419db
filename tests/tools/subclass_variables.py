"""An optimizer that keeps variables of its own."""

from typing import Any

import keras
import numpy as np

import keras_rmsprop


class Traced(keras_rmsprop.RMSprop):
    """An optimizer with its own variables: per weight, shared, unnamed, and as attributes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = self.add_variable((), name="scale")
        self.table = keras.Variable(np.ones(3, "float32"), name="table")

    def build(self, variables: Any) -> None:
        """Create the variables."""
        if self.built:
            return
        self.before = self.add_variable((2,), name="before")
        super().build(variables)
        self.traces = self.add_optimizer_variables(variables, "trace")
        # `momentum` is also the name of a slot.
        self.one, self.momentum_too = self.add_optimizer_variables(variables, ["one", "momentum"])
        self.by_key = {
            self._var_key(v): self.add_variable_from_reference(v, "keyed") for v in variables
        }
        self.unnamed = [self.add_variable((2,)) for _ in range(2)]


def traced(variables: Any, numbered: bool = True, **options: Any) -> Traced:
    """Return a built `Traced`, each of its variables filled with another number."""
    optimizer = Traced(**({"learning_rate": 0.5, "jit_compile": False} | options))
    optimizer.build(variables)
    if numbered:
        for i, variable in enumerate(optimizer.variables):
            variable.assign(keras.ops.cast(keras.ops.full(variable.shape, i + 1), variable.dtype))
    return optimizer
