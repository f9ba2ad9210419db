"""Which slots does a build make for a variable, and in which order do they stand?"""

from collections.abc import Callable, Iterator, Sequence
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
    """Put together what belongs to each variable.

    Args:
        variables: the variables that are built.
        columns: for each kind of slot, in the order of `ParameterVariables`, the slots of all
            variables; empty where there is no such kind.
    """
    absent = [None] * len(variables)
    for owners in zip(variables, *(column or absent for column in columns), strict=True):
        kept = owners[:1] if is_fixed(owners[0]) else owners
        yield ParameterVariables(*kept)


def chosen(
    variables: Sequence[Variable],
    wanted: Sequence[bool],
    add: Callable[[list[Variable]], Sequence[Variable | None]],
) -> list[Variable | None]:
    """Create a slot for some of the variables; empty if for none.

    Args:
        variables: the variables that are built.
        wanted: for each whether it gets one.
        add: creates the slots of variables.
    """
    if not any(wanted):
        return []
    made = iter(add([v for v, is_wanted in zip(variables, wanted, strict=True) if is_wanted]))
    return [next(made) if is_wanted else None for is_wanted in wanted]


def progress_of(
    optimizer: Any, variables: Sequence[Variable], lazy: Sequence[bool]
) -> list[ProgressVariables | None]:
    """Create the variables that say how far each row of each table has come.

    Args:
        optimizer: whose variables they become.
        variables: the variables that are built.
        lazy: for each whether its rows decay late, if it is a table.
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
        if is_lazy and len(v.shape) and not is_overwritten(v) and not is_fixed(v)
        else None
        for v, is_lazy in zip(variables, lazy, strict=True)
    ]
