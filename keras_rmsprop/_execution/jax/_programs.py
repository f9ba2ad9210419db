"""A step as a compiled program, which all optimizers of like variables and options share."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from keras_rmsprop._math import _step
from keras_rmsprop._math._rule import Parameter


class Trace:
    """What a compiled step does, as far as it does not depend on arrays: one for each trace.

    Two that do the same are one object (see `of`): JAX looks programs up in C++, which an
    interrupt in a comparison written in Python would upset.

    Args:
        plan: what the step does.
        fields: for each parameter, and last for the counters, which fields there are.
        without: the positions of the parameters that take no gradient.
        flagged: whether gradients may be missing; a flag says so for each of the others.
    """

    def __init__(
        self,
        plan: _step.Plan,
        fields: tuple[tuple[bool, ...], ...],
        without: tuple[int, ...],
        flagged: bool,
    ) -> None:
        self.plan, self.fields, self.without, self.flagged = plan, fields, without, flagged

    @staticmethod
    @functools.cache
    def of(*arguments: Any) -> "Trace":
        """Return the one program with these arguments."""
        return Trace(*arguments)

    def changed(self) -> list[int]:
        """The places in the flat list of arrays that a step changes, those of weights last.

        JAX gives the memory that is donated to the first outputs that it fits.
        """
        overwrites = self.plan.ema_overwrite_frequency is not None
        moved = {"average"} | ({"weight"} if overwrites else set())
        without = set(self.without)
        changes = [
            i not in without or (self.plan.use_ema and name in moved)
            for i, there in enumerate(self.fields[:-1])
            for name, is_there in zip(Parameter._fields, there, strict=True)
            if is_there
        ]
        changes += [True] * sum(self.fields[-1])
        places = [place for place, changing in enumerate(changes) if changing]
        return sorted(places, key=self.weights().__contains__)

    def weights(self) -> set[int]:
        """The places of the weights in the flat list of arrays."""
        names = [
            name
            for there in self.fields[:-1]
            for name, is_there in zip(Parameter._fields, there, strict=True)
            if is_there
        ]
        return {place for place, name in enumerate(names) if name == "weight"}

    def unflatten(self, values: Sequence[jax.Array]) -> tuple[list[Parameter], _step.Counters]:
        """Sort a flat list of arrays into parameters and counters."""
        rest = iter(values)
        *parameters, counters = (
            [next(rest) if is_there else None for is_there in there] for there in self.fields
        )
        return [Parameter(*p) for p in parameters], _step.Counters(*counters)


def _whole_step(
    program: Trace,
    spare: list[jax.Array],
    values: list[jax.Array],
    gradients: list[jax.Array | None],
    flags: list[jax.Array],
    learning_rate: jax.Array,
    numbers: jax.Array,
) -> list[jax.Array]:
    """Make one step; the outputs stand in the order of `spare`, so that buffers line up."""
    del spare  # Nothing but memory.
    flagged: dict[int, jax.Array] = {}
    if program.flagged:
        positions = [i for i, g in enumerate(gradients) if g is not None]
        flagged = dict(zip(positions, flags, strict=True))
        gradients = [
            None if g is None else jnp.where(flagged[i], g, jnp.zeros_like(g))
            for i, g in enumerate(gradients)
        ]
    parameters, counters = program.unflatten(values)
    after, counted = _step.step(
        program.plan,
        _unpack(numbers, len(program.plan.groups)),
        counters,
        learning_rate,
        parameters,
        gradients,
        flags=flagged,
        nest=jax.jit,
    )
    results = [x for group in (*after, counted) for x in group if x is not None]
    return [results[place] for place in program.changed()]


# The program is static; JAX keeps one compiled step for each, which all optimizers share.
compiled_step = jax.jit(_whole_step, static_argnums=0, donate_argnums=1, keep_unused=True)


def compilations() -> int:
    """How many programs JAX keeps for us."""
    return int(compiled_step._cache_size())  # type: ignore[attr-defined]


class Constraint:
    """A constraint that equals any other of its type and settings.

    JAX keeps what it has compiled; models that are built one after the other share it.
    """

    def __init__(self, constraint: Any) -> None:
        # A copy: the program goes on with these settings when those of the user's object change.
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
    """The widest float dtype that JAX holds as it is configured."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def as_array(rate: float | jax.Array) -> jax.Array | np.ndarray[Any, Any]:
    # A Python float would be traced as a weakly typed scalar, and a schedule's array not.
    return rate if isinstance(rate, jax.Array) else np.asarray(rate, widest_float())
