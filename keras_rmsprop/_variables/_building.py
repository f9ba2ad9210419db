"""Create and collect the slots of each variable."""

from collections.abc import Iterator, Sequence
from typing import Any

from keras_rmsprop._math import _lazy
from keras_rmsprop._variables._gradients import name_of
from keras_rmsprop._variables._roster import (
    ParameterVariables,
    ProgressVariables,
    Variable,
    is_fixed,
    is_overwritten,
)

Column = Sequence[Variable | None]


def parameters_of(variables: Sequence[Variable], *columns: Column) -> Iterator[ParameterVariables]:
    """Yield each variable with its slots.

    Args:
        variables: the variables being built.
        columns: for each kind of slot, in the order of `ParameterVariables`, the slots of all
            variables; empty if that kind is not used.
    """
    absent = [None] * len(variables)
    for owners in zip(variables, *(column or absent for column in columns), strict=True):
        kept = owners[:1] if is_fixed(owners[0]) else owners
        yield ParameterVariables(*kept)


def progress_of(optimizer: Any, variables: Sequence[Variable]) -> list[ProgressVariables | None]:
    """Create the variables that hold the `Progress` of each table, None for other variables.

    Args:
        optimizer: the lazy optimizer that they are added to.
        variables: the variables being built.
    """

    def added(variable: Variable, field: str) -> Variable | None:
        if "correction" in field and not optimizer.bias_correction:
            return None
        name = f"{name_of(variable)}_{field}".replace("/", "_").replace(":", "_")
        shape = variable.shape[:1] if field in _lazy.ROW_FIELDS else ()
        dtype = "float64" if "correction" in field else "int64"
        with optimizer._ledger.made_for(variable, field):
            return optimizer.add_variable(shape, dtype=dtype, name=name)

    return [
        ProgressVariables(*(added(v, field) for field in ProgressVariables._fields))
        if len(v.shape) and not is_overwritten(v) and not is_fixed(v)
        else None
        for v in variables
    ]
