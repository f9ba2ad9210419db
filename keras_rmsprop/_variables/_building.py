"""Create and collect the slots of each variable, and the variables of groups."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import backend, ops

from keras_rmsprop._math import _lazy, _step
from keras_rmsprop._private import in_stateless_scope
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


def create_where(
    variables: Sequence[Variable],
    wanted: Sequence[bool],
    add: Callable[[list[Variable]], Sequence[Variable | None]],
) -> list[Variable | None]:
    """Create a slot for some of the variables; empty if none wants one.

    Args:
        variables: the variables being built.
        wanted: for each variable, whether it gets a slot.
        add: creates the slots of the given variables.
    """
    if not any(wanted):
        return []
    made = iter(add([v for v, is_wanted in zip(variables, wanted, strict=True) if is_wanted]))
    return [next(made) if is_wanted else None for is_wanted in wanted]


def create_progress(
    optimizer: Any, variables: Sequence[Variable], lazy: Sequence[bool]
) -> list[ProgressVariables | None]:
    """Create the variables that hold the `Progress` of each lazy table, None for other variables.

    Args:
        optimizer: the optimizer that they are added to.
        variables: the variables being built.
        lazy: for each variable, whether its rows are updated lazily, if it is a table.
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


def group_rates(optimizer: Any, factors: Sequence[float]) -> Variable | None:
    """Create the variable that holds the groups' learning rate factors; None without groups."""
    if not factors:
        return None
    variable: Variable = optimizer.add_variable(
        (len(factors),),
        lambda _, dtype: ops.convert_to_tensor(np.asarray(factors, dtype)),
        dtype=backend.floatx(),
        aggregation="only_first_replica",
        name="group_learning_rates",
    )
    return variable


class GroupNumbersVariable(keras.Variable):  # type: ignore[misc, unused-ignore]
    """A copy of the groups' numbers, which traced functions read.

    Its shape is (groups, numbers of a group); the first group is that of the variables that no
    pattern matches. It holds what the settings say, whatever is assigned to it: state that is
    restored or copied variable by variable must not make the two disagree.
    """

    def __init__(self, table: np.ndarray[Any, Any], dtype: str) -> None:
        self.table = table
        super().__init__(
            lambda _, dtype: ops.convert_to_tensor(np.asarray(table, dtype)),
            table.shape,
            dtype,
            trainable=False,
            aggregation="only_first_replica",
            name="group_numbers",
        )

    def follow(self, table: np.ndarray[Any, Any]) -> None:
        """Take the numbers of changed settings."""
        self.table = table
        self.assign(table)

    def assign(self, value: Any) -> Any:
        """Assign inside a stateless scope; elsewhere, assign the numbers of the settings."""
        return super().assign(value if in_stateless_scope() else self.table)


def group_numbers(
    optimizer: Any,
    variables: Sequence[Variable],
    table: np.ndarray[Any, Any],
    earlier: GroupNumbersVariable | None,
    is_tracked: bool,
) -> GroupNumbersVariable:
    """Return the variable that holds a copy of the groups' numbers.

    Args:
        optimizer: the optimizer.
        variables: the variables being built.
        table: the numbers.
        earlier: that of an earlier build, which functions may have been traced with.
        is_tracked: whether it belongs to `optimizer.variables`.
    """
    dtype = _step.widest_dtype(variables)
    if earlier is None or earlier.shape != table.shape or earlier.dtype != dtype:
        with keras.name_scope(optimizer.name, caller=optimizer):
            variable = GroupNumbersVariable(table, dtype)
    else:
        variable = earlier
        variable.follow(table)
    if is_tracked:
        optimizer._track_variable(variable)
    return variable
