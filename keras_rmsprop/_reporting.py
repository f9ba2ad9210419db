"""Report the statistics that an optimizer has sampled of its steps."""

import math
from typing import Any

import numpy as np

from keras_rmsprop import _state, _subclasses
from keras_rmsprop._diagnostics._report import (
    NAME,
    Histograms,
    Report,
    Statistics,
    VariableSettings,
)
from keras_rmsprop._execution import engine
from keras_rmsprop._math import _step
from keras_rmsprop._math._statistics import COLUMNS, EDGES
from keras_rmsprop._private import to_snake_case
from keras_rmsprop._settings._sampling import Diagnostics
from keras_rmsprop._variables import _pairing
from keras_rmsprop._variables._watch import Watch


def report_of(optimizer: Any, base: type, asked: Diagnostics | None) -> Report:
    """Return the report of an optimizer.

    Args:
        optimizer: the optimizer.
        base: the class whose subclasses may override methods.
        asked: what it was asked to measure.

    Raises: ValueError if that is nothing.
    """
    if asked is None:
        raise ValueError(
            "Nothing is measured, received diagnostics=None. Pass `diagnostics=True`, or a "
            "`keras_rmsprop.Diagnostics`, to the constructor."
        )
    roster = optimizer._roster
    watch: Watch | None = roster.watch
    if watch is None:
        return _report(optimizer, asked, [], np.zeros((0, 0)), "the optimizer is not built yet")
    with optimizer._gate.read():
        table = _state.array_of(watch.table)
        # The table and the counters are of one moment.
        why = _why_less(optimizer, base)
        report = _report(optimizer, asked, watch.watched.positions, table, why)
    is_nothing = not (report.total.sampled or report.total.skipped)
    is_overdue = is_nothing and report.iterations >= asked.every
    # Elsewhere steps in traced functions are sampled, too.
    if why is None and is_overdue and engine.TRACED_VARIABLES is None:
        return report._replace(
            reason="no step has been sampled so far, and those in `torch.compile` never are"
        )
    return report


def name_in_reports(optimizer: Any) -> str:
    """Return the name that an optimizer was given, or `NAME`, or that of its subclass.

    By default Keras names it after its class, and numbers those of one program. What is logged of
    a training should not depend on what was tried before it.
    """
    name: str = optimizer.name
    by_class = to_snake_case(type(optimizer).__name__)
    if _pairing.without_number(name) == by_class:
        name = by_class
    return NAME if name in _NAMES_BY_DEFAULT else name


# "RMSprop" in snake case, and what tf_keras and TF1 call theirs.
_NAMES_BY_DEFAULT = {"rm_sprop", "RMSprop", "RMSProp", ""}


def _report(
    optimizer: Any,
    asked: Diagnostics,
    positions: Any,
    table: np.ndarray[Any, Any],
    reason: str | None,
) -> Report:
    roster = optimizer._roster
    names = _pairing.numbered(map(_pairing.path_of, roster.weights))
    paths = [names[i] for i in positions]
    rows = list(map(Statistics.of, table[:, : len(COLUMNS)]))
    settings = optimizer._settings_in(roster.members[i] for i in positions)
    plan = optimizer._derive().plan() if optimizer.built else None
    skipped = optimizer.skip_nonfinite
    return Report(
        name=name_in_reports(optimizer),
        iterations=int(_state.array_of(optimizer.iterations)),
        every=asked.every,
        skipped_steps=optimizer.skipped_steps if skipped else None,
        clip=None if plan is None else plan.clip,
        variables=dict(zip(paths, rows, strict=False)),
        total=rows[-1] if rows else Statistics(),
        settings={
            path: _settings_of(
                roster.weights[i],
                own,
                plan is not None and plan.decayed[i],
                roster.watch.samples_before[row],
            )
            for row, (path, i, own) in enumerate(zip(paths, positions, settings, strict=True))
        },
        histograms={
            path: Histograms(*np.split(bins.astype(np.int64), [len(EDGES) + 1]))
            for path, bins in zip(paths, table[:, len(COLUMNS) :], strict=False)
            if asked.histograms
        },
        reason=reason,
    )


def _settings_of(weight: Any, own: Any, decays: bool, samples_before: int) -> VariableSettings:
    given = {name: getattr(own, name) for name in VariableSettings._fields if hasattr(own, name)}
    given |= {
        "dtype": _step.dtype_of(weight),
        "size": math.prod(tuple(weight.shape)),
        "weight_decay": own.weight_decay if decays else 0.0,
        # How long a gradient is once it is transformed is not known.
        "l2": own.l2 if own.transform is None else 0.0,
        "samples_before": samples_before,
    }
    return VariableSettings(**given)


def _why_less(optimizer: Any, base: type) -> str | None:
    """Return why not everything is measured, or None."""
    as_keras = _subclasses.why_as_keras(optimizer, base)
    if as_keras is not None:
        return f"{as_keras}, and nothing is measured"
    if _subclasses.overrides(optimizer, base, *_subclasses.HOOKS):
        return (
            f"{type(optimizer).__name__} has an `update_step` of its own, so that only gradients "
            "and weights are measured"
        )
    return None
