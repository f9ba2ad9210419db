"""What an engine is given, and what it gives: everything that passes between optimizer and engine.

An optimizer builds a `Step` and hands it to the engine of the active backend, with one gradient
for each variable. The engine reads the variables, runs `_math._step.step` on their tensors and
writes what that returns; it never sees the optimizer.

How to write an engine: add a module with the names of `Engine`, taking from here those whose
default serves, and a case in `_execution/__init__.py`. Its `run` may begin as

    write(run_plainly(step, gradients, step.rate.ask(), read))

of `_plain`, which is a whole engine, right and slow; tests/test_oracle.py holds it to the
reference. Faster ways come after that, each only where `why_op_by_op` has no objection. What an
engine keeps from step to step it keeps in a `weakref.WeakKeyDictionary` by the step's roster: each
`build` makes a roster, and what is kept ends with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import keras

from keras_rmsprop._math._rule import Tensor
from keras_rmsprop._math._step import Numbers, Plan, Update
from keras_rmsprop._variables._roster import ParameterVariables, Roster

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Rate(NamedTuple):
    """Where the learning rate of a step comes from."""

    # Gives a variable, a tensor or a float. Asked once in a step, for a callable may count.
    ask: Callable[[], Any]
    # A variable, schedule or callable, as Keras holds it.
    source: Any
    # Whether a subclass gives the rate, so that it does not follow from the source.
    is_overridden: bool

    @property
    def variable(self) -> keras.Variable | None:
        """The variable that holds the rate; None for a schedule or callable."""
        return self.source if isinstance(self.source, keras.Variable) else None


class Hook(NamedTuple):
    """A subclass's own code in the midst of a step."""

    update: Update
    # The variables that the subclass has added, and all that its code may assign to.
    own: Sequence[keras.Variable]
    reach: Sequence[keras.Variable]
    # The name of its class.
    owner: str


class Step(NamedTuple):
    """All that one step needs beside the gradients."""

    plan: Plan
    numbers: Numbers
    # The variables in their order, with their slots and counters.
    roster: Roster
    rate: Rate
    hook: Hook | None
    # The optimizer's `jit_compile`, and its name for messages.
    mode: Literal["auto", True, False]
    name: str

    @property
    def update(self) -> Update | None:
        """How a parameter is advanced; None by the rule itself."""
        return None if self.hook is None else self.hook.update


class Engine(Protocol):
    """What each backend's module gives; a gradient is anything that Keras takes for one."""

    # Whether a gradient can come as the rows of a table.
    GIVES_ROWS: bool
    # Whether a step in a graph changes variables while Python is elsewhere.
    STEPS_IN_GRAPHS: bool

    def run(self, step: Step, gradients: Sequence[Tensor | None], /) -> None:
        """Make one step; there is one entry for each variable of the roster."""

    def read(self, variable: Any, /) -> Tensor:
        """Return the variable's current value; on torch it is the variable's own memory."""

    def write(self, pairs: Iterable[tuple[Any, Tensor]], /) -> None:
        """Assign each value to its variable, all of them or none."""

    def copy(self, value: Tensor, /) -> Tensor:
        """Return a value that may be given to a second variable."""

    def dense(self, gradient: Any, variable: Any, /) -> Tensor:
        """Return the gradient as one value per weight."""

    def shape_of(self, gradient: Any, /) -> tuple[int | None, ...]:
        """Return the gradient's shape, with None where it is not known yet."""

    def is_rows(self, gradient: Any, /) -> bool:
        """Whether the gradient is the rows of a table and their ids."""

    def is_recorded(self) -> bool:
        """Whether Python is being recorded, which takes no locks."""

    def as_written(self, function: _Function, /) -> _Function:
        """Return the function, kept from being rewritten when it is traced."""

    def outside_trace(self) -> AbstractContextManager[Any]:
        """Return a context in which things are done now, and not traced."""

    def swapping_strategy(self, strategy: Any, parameters: Sequence[ParameterVariables], /) -> Any:
        """Return a strategy by which `SwapEMAWeights` can swap weights with wider averages."""


# What most backends give.


def as_written(function: _Function) -> _Function:
    """Return the function, where nothing rewrites Python's code."""
    return function


def is_recorded() -> bool:
    """Return False: Python runs here, and nothing records it."""
    return False


def is_rows(_: Any) -> bool:
    """Return False, where a gradient never is the rows of a table."""
    return False


def shape_of(gradient: Any) -> tuple[int | None, ...]:
    """Return the gradient's shape, where it is always known."""
    shape: tuple[int, ...] = gradient.shape
    return shape


def swapping_strategy(strategy: Any, _: Sequence[ParameterVariables]) -> Any:
    """Return the strategy, where Keras swaps weights with wider averages by itself."""
    return strategy


outside_trace = contextlib.nullcontext
