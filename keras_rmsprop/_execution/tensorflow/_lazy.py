"""Lazy tables: read the rows that a step needs, bring them up to date and write them back."""

from typing import Any, NamedTuple

import tensorflow as tf

from keras_rmsprop._execution.tensorflow._rows import Rows, is_sparse, sum_rows
from keras_rmsprop._execution.tensorflow._table_access import gather_rows
from keras_rmsprop._execution.tensorflow._values import tf_variable
from keras_rmsprop._math._lazy import ROW_FIELDS, Progress, catch_up, count
from keras_rmsprop._math._rule import Coefficients, Form, Parameter
from keras_rmsprop._variables._roster import (
    ParameterVariables,
    ProgressVariables,
)


class Table(NamedTuple):
    """A variable with lazy rows, and the rows that a step works on."""

    # The variables that hold the weight, its slots and its progress.
    owners: ParameterVariables
    progress_owners: ProgressVariables
    # The ids of the rows, (n,); None for all rows, as a dense gradient needs.
    ids: tf.Tensor | None
    # The rows, up to date.
    parameter: Parameter
    progress: Progress
    gradient: tf.Tensor
    row_mask: tf.Tensor | None


def open_table(
    coefficients: Coefficients,
    owners: ParameterVariables,
    progress_owners: ProgressVariables,
    gradient: tf.Tensor | tf.IndexedSlices,
    static_shapes: bool,
) -> Table:
    """Read the rows that have a gradient, and apply the decay that they missed."""
    rows = Rows(None, gradient, None)
    if is_sparse(gradient):
        rows = sum_rows(gradient, owners.weight.shape[0], static_shapes)
    parameter = owners.read(lambda owner: _read_rows(owner, rows.ids))
    progress = Progress(
        *(
            _read_rows(owner, rows.ids if name in ROW_FIELDS else None)
            for name, owner in progress_owners._asdict().items()
        )
    )
    parameter, progress = catch_up(coefficients, progress, parameter)
    return Table(
        owners, progress_owners, rows.ids, parameter, progress, rows.gradient, rows.row_mask
    )


def close_table(
    form: Form,
    coefficients: Coefficients,
    table: Table,
    after: Parameter,
    t: tf.Tensor,
    made: tf.Tensor,
) -> list[tuple[Any, tf.Tensor | tf.IndexedSlices]]:
    """Pair each variable of the table with its new value or rows.

    Args:
        form: the choices that shape the equations.
        coefficients: the numbers in the equations.
        table: the table before the step.
        after: the rows after the step.
        t: the optimizer's step, 1 for the first.
        made: 1, or 0 if the step was skipped.
    """
    progress = count(form, coefficients, table.progress, t, made)
    owners = {**table.owners._asdict(), **table.progress_owners._asdict()}
    values = {**after._asdict(), **progress._asdict()}
    whole = set(Progress._fields) - set(ROW_FIELDS)
    return [
        (
            owner,
            values[name]
            if table.ids is None or name in whole
            else tf.IndexedSlices(values[name], table.ids),
        )
        for name, owner in owners.items()
        if owner is not None
    ]


def _read_rows(owner: Any, ids: tf.Tensor | None) -> tf.Tensor | None:
    """Read a whole variable, or only the rows with these ids."""
    if owner is None:
        return None
    return tf.convert_to_tensor(owner) if ids is None else gather_rows(tf_variable(owner), ids)
