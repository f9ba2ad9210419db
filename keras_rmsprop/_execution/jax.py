"""How a step runs on JAX: op by op or traced, or as one compiled call."""

import contextlib
import logging
import sys
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import keras
import numpy as np

from keras_rmsprop import _step
from keras_rmsprop._execution import _plain
from keras_rmsprop._execution._plain import (
    in_stateless_scope,
    read_counters,
    run_plainly,
    run_with_hook,
    why_op_by_op,
)
from keras_rmsprop._rule import Coefficients, Parameter

if TYPE_CHECKING:
    from keras_rmsprop._optimizer import RMSprop

Gradients = Sequence[jax.Array | None]

# Whether a gradient can come as the rows of a table.
GIVES_ROWS = False
outside_trace = contextlib.nullcontext
as_written, is_rows, shape_of = _plain.as_written, _plain.is_rows, _plain.shape_of

_log = logging.getLogger(__name__)

# The optimizers of which the log says that they run op by op; each step tries anew.
_told: "weakref.WeakSet[RMSprop]" = weakref.WeakSet()


def run(optimizer: "RMSprop", gradients: Gradients) -> None:
    """Make one step."""
    plan, rate = optimizer._plan(), optimizer._given_learning_rate()
    if optimizer._update_hook() is not None:
        run_with_hook(optimizer, plan, gradients, rate, read, lambda v, value: v.assign(value))
    elif not _runs_compiled(optimizer, plan, gradients) or not _run_compiled(
        optimizer, plan, gradients, rate
    ):
        write(run_plainly(optimizer, plan, gradients, rate, read))


def read(variable: keras.Variable) -> jax.Array:
    """Return the variable's current value, the traced one inside a stateless scope."""
    return variable.value


def write(pairs: Iterable[tuple[Any, jax.Array]]) -> None:
    """Assign each value to its variable."""
    for variable, value in pairs:
        variable.assign(value)


def copy(value: jax.Array) -> jax.Array:
    """Return an array of its own, so that donating one buffer does not take the other."""
    return value.copy()


def dense(gradient: Any, _: keras.Variable) -> jax.Array:
    """Return the gradient as one value per weight: on JAX it already is."""
    # Keras takes NumPy's arrays as well.
    return gradient if isinstance(gradient, jax.Array) else keras.ops.convert_to_tensor(gradient)


class _Slots(NamedTuple):
    """The optimizer's part of a parameter, which a compiled step may overwrite in place."""

    square_average: jax.Array | None
    gradient_average: jax.Array | None
    momentum: jax.Array | None
    accumulator: jax.Array | None
    average: jax.Array | None


# The number of calls as a compiled step of each optimizer left it, known to be above zero. The
# step after it need not wait for the device to learn that it is not the first.
_last_calls: "weakref.WeakKeyDictionary[RMSprop, jax.Array]" = weakref.WeakKeyDictionary()


def _runs_compiled(optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients) -> bool:
    """Whether this step is to run as one compiled call.

    It depends on the configuration and the saved state only, never on what the process did
    before: otherwise a resumed run would round differently from one that was not stopped.
    """
    mode = optimizer.jit_compile
    if mode is False or in_stateless_scope() or why_op_by_op(optimizer, plan) is not None:
        return False
    disabled = jax.config.jax_disable_jit  # type: ignore[attr-defined]
    if disabled or keras.distribution.distribution() is not None:
        return False
    calls = read(optimizer._iterations)
    if any(isinstance(x, jax.core.Tracer) for x in (calls, *gradients)):
        return False
    if mode is True or calls is _last_calls.get(optimizer):
        return True
    # One-step uses need not pay for a compilation.
    return int(optimizer.iterations) > 0


def _run_compiled(optimizer: "RMSprop", plan: _step.Plan, gradients: Gradients, rate: Any) -> bool:
    """Make the step as one compiled call; return False, nothing done, if there is no way."""
    owners = optimizer._parameters
    weights = [parameter.weight._value for parameter in owners]
    slots = [
        _Slots(*(None if v is None else v._value for v in parameter[1:])) for parameter in owners
    ]
    step = _step_in_place if _are_unshared(slots) else _step_to_new_arrays
    try:
        slots, weights, counters = step(
            plan._replace(constraints=tuple(c and _Constraint(c) for c in plan.constraints)),
            slots,
            weights,
            gradients,
            read_counters(optimizer, read),
            _as_array(read(rate) if isinstance(rate, keras.Variable) else rate),
            np.array(jax.tree.leaves(optimizer._numbers()), _wide()),
        )
    except ValueError as error:
        # Such as arrays on different devices; nothing has run yet.
        if optimizer.jit_compile is True:
            raise
        if optimizer not in _told:
            _told.add(optimizer)
            _log.debug("%s runs op by op: %s", optimizer.name, error)
        return False
    for parameter, weight, values in zip(owners, weights, slots, strict=True):
        parameter.weight._direct_assign(weight)
        for owner, value in zip(parameter[1:], values, strict=True):
            if owner is not None:
                owner._direct_assign(value)
    write((v, x) for v, x in zip(optimizer._counters, counters, strict=True) if v is not None)
    _last_calls[optimizer] = read(optimizer._iterations)
    return True


def _whole_step(
    plan: _step.Plan,
    slots: list[_Slots],
    weights: list[jax.Array],
    gradients: list[jax.Array | None],
    counters: _step.Counters,
    learning_rate: jax.Array,
    numbers: jax.Array,
) -> tuple[list[_Slots], list[jax.Array], _step.Counters]:
    """Make one step; the outputs stand in the order of the inputs, so that buffers line up."""
    parameters = [Parameter(w, *s) for w, s in zip(weights, slots, strict=True)]
    after, counters = _step.step(
        plan, _unpack(numbers), counters, learning_rate, parameters, gradients
    )
    return [_Slots(*p[1:]) for p in after], [p.weight for p in after], counters


# The plan is static; JAX keeps one compiled step for each. Only slots are donated, never the
# model's weights, which a user may hold on to.
_step_in_place = jax.jit(_whole_step, static_argnums=0, donate_argnums=1)
_step_to_new_arrays = jax.jit(_whole_step, static_argnums=0)


class _Constraint:
    """A constraint that equals any other of its type and settings.

    JAX keeps what it has compiled; models that are built one after the other share it.
    """

    def __init__(self, constraint: Any) -> None:
        self._constraint = constraint
        self._identity = (type(constraint), repr(constraint.get_config()))

    def __call__(self, weight: jax.Array) -> jax.Array:
        return self._constraint(weight)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constraint) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def _unpack(numbers: jax.Array) -> _step.Numbers:
    return jax.tree.unflatten(_NUMBERS, list(numbers))


_NUMBERS = jax.tree.structure(
    _step.Numbers(Coefficients(*[0.0] * len(Coefficients._fields)), *[0.0] * 6)
)


def _wide() -> np.dtype[Any]:
    """The widest float dtype that JAX holds as it is configured."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _as_array(rate: float | jax.Array) -> jax.Array | np.ndarray[Any, Any]:
    # A Python float would be traced as a weakly typed scalar, and a schedule's array not.
    return rate if isinstance(rate, jax.Array) else np.asarray(rate, _wide())


def _references(slots: Sequence[_Slots]) -> int:
    """The largest number of references that any of the arrays has."""
    return max(
        (sys.getrefcount(array) for slot in slots for array in slot if array is not None),
        default=0,
    )


def _are_unshared(slots: Sequence[_Slots]) -> bool:
    """Whether nobody but its variable holds any of the arrays.

    A snapshot of a user's, or a weight that was set to a slot's own array, must stay readable.
    (Views through NumPy or DLPack need no care: JAX copies where a buffer is exported.)
    """
    return _references(slots) <= _SOLE_OWNER


class _Owner:
    """Holds an array as a variable does."""

    def __init__(self) -> None:
        self.value: Any = object()


def _references_of_sole_owner() -> int:
    owner = _Owner()
    return _references([_Slots(owner.value, None, None, None, None)])


_SOLE_OWNER = _references_of_sole_owner()
