"""Compiled steps, shared by all optimizers with the same shapes and options."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from keras_rmsprop._execution._compilation import WithoutVariables, with_traceable_transforms
from keras_rmsprop._math import _sample, _step
from keras_rmsprop._math._rule import Parameter
from keras_rmsprop._math._table import Watched


class StaticArgument:
    """The static argument of a compiled step: everything that does not depend on arrays.

    Equal arguments give the same object (see `of`). JAX looks programs up in C++, and an interrupt
    in a Python `__eq__` would break that lookup.

    Args:
        plan: what the step does.
        fields: for each parameter, and last for the counters, which fields are present.
        without_gradient: the positions of the parameters that take no gradient.
        flagged: whether other gradients may be missing, with a flag for each.
    """

    def __init__(
        self,
        plan: _step.Plan,
        fields: tuple[tuple[bool, ...], ...],
        without_gradient: tuple[int, ...],
        flagged: bool,
    ) -> None:
        self.plan, self.fields = plan, fields
        self.without_gradient, self.flagged = without_gradient, flagged

    @staticmethod
    @functools.cache
    def of(*arguments: Any) -> "StaticArgument":
        """Return the one instance with these arguments."""
        return StaticArgument(*arguments)

    def changed(self) -> list[int]:
        """Return the indices of the arrays in the flat list that a step changes."""
        overwrites = self.plan.ema_overwrite_frequency is not None
        moved = {"average"} | ({"weight"} if overwrites else set())
        without_gradient = set(self.without_gradient)
        changes = [
            i not in without_gradient or (self.plan.use_ema and name in moved)
            for i, there in enumerate(self.fields[:-1])
            for name, is_there in zip(Parameter._fields, there, strict=True)
            if is_there
        ]
        counters = zip(_step.Counters._fields, self.fields[-1], strict=True)
        # A step only reads the rates of groups, which another thread may assign meanwhile.
        changes += [name != "rates" for name, is_there in counters if is_there]
        return [place for place, changing in enumerate(changes) if changing]

    def unflatten(self, values: Sequence[jax.Array]) -> tuple[list[Parameter], _step.Counters]:
        """Restore the parameters and counters from a flat list of arrays."""
        rest = iter(values)
        *parameters, counters = (
            [next(rest) if is_there else None for is_there in there] for there in self.fields
        )
        return [Parameter(*p) for p in parameters], _step.Counters(*counters)


class _Inputs(NamedTuple):
    """What `_step.step` and `_sample.sampled` begin with."""

    plan: _step.Plan
    numbers: _step.Numbers
    counters: _step.Counters
    learning_rate: jax.Array
    parameters: list[Parameter]
    gradients: list[jax.Array | None]


def _whole_step(
    static: StaticArgument,
    spare: list[jax.Array],
    values: list[jax.Array],
    gradients: list[jax.Array | None],
    flags: list[jax.Array],
    learning_rate: jax.Array,
    numbers: jax.Array,
) -> list[jax.Array]:
    """Compute one step; the outputs are in the order of `spare`, so that the buffers match."""
    del spare  # Only its memory is used.
    inputs, flagged = _inputs(static, values, gradients, flags, learning_rate, numbers)
    after, counted = _step.step(*inputs, flags=flagged, trace_once=jax.jit)
    results = [x for group in (*after, counted) for x in group if x is not None]
    return [results[place] for place in static.changed()]


def _statistics_after(
    static: StaticArgument,
    watched: Watched,
    values: list[jax.Array],
    gradients: list[jax.Array | None],
    flags: list[jax.Array],
    learning_rate: jax.Array,
    numbers: jax.Array,
    table: jax.Array,
) -> jax.Array:
    """Compute the statistics of a step, a program of its own."""
    inputs, flagged = _inputs(static, values, gradients, flags, learning_rate, numbers)
    after: jax.Array = _sample.sampled(*inputs, watched, table, flags=flagged)
    return after


def _inputs(
    static: StaticArgument,
    values: list[jax.Array],
    gradients: list[jax.Array | None],
    flags: list[jax.Array],
    learning_rate: jax.Array,
    numbers: jax.Array,
) -> tuple[_Inputs, dict[int, jax.Array]]:
    """Return the first arguments of `_step.step` and `_sample.sampled`, and their `flags`."""
    flagged: dict[int, jax.Array] = {}
    if static.flagged:
        positions = [i for i, g in enumerate(gradients) if g is not None]
        flagged = dict(zip(positions, flags, strict=True))
    parameters, counters = static.unflatten(values)
    inputs = _Inputs(
        with_traceable_transforms(static.plan, WithoutVariables),
        _unpack(numbers, len(static.plan.groups)),
        counters,
        learning_rate,
        parameters,
        [
            g if g is None or i not in flagged else jnp.where(flagged[i], g, jnp.zeros_like(g))
            for i, g in enumerate(gradients)
        ],
    )
    return inputs, flagged


# Programs for sampled steps, cached in the same way as steps.
compiled_statistics = jax.jit(_statistics_after, static_argnums=(0, 1))

# JAX caches one compiled step per static argument and input types, shared by all optimizers.
compiled_step = jax.jit(_whole_step, static_argnums=0, donate_argnums=1, keep_unused=True)


def compilations() -> int:
    """Return how many compiled steps JAX has cached."""
    return int(compiled_step._cache_size())  # type: ignore[attr-defined]


class Constraint:
    """A constraint that equals any other of the same type and settings.

    So models built one after another share a compiled step.
    """

    def __init__(self, constraint: Any) -> None:
        # A copy: the cached program keeps these settings even if the user's object changes.
        self._constraint = type(constraint).from_config(constraint.get_config())
        self._identity = (type(constraint), repr(constraint.get_config()))

    def __call__(self, weight: jax.Array) -> jax.Array:
        return self._constraint(weight)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constraint) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


def _unpack(numbers: jax.Array, groups: int) -> _step.Numbers:
    return jax.tree.unflatten(jax.tree.structure(_step.like_numbers(groups, 0.0)), list(numbers))


def widest_float() -> np.dtype[Any]:
    """Return the widest float dtype of JAX's configuration."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def as_array(rate: float | jax.Array) -> jax.Array | np.ndarray[Any, Any]:
    # A Python float would be traced as weakly typed, unlike a schedule's array.
    return rate if isinstance(rate, jax.Array) else np.asarray(rate, widest_float())
