"""The contract between the optimizer and an engine.

The optimizer builds a `Step` and passes it to the engine of the active backend, with one gradient
(or None) per variable. The engine reads the variables, runs `_math._step.step` on their tensors
and writes the results back. It never sees the optimizer.

To write an engine, add a module with the names in `Engine`, reusing the defaults below where they
fit, and a case in `_execution/__init__.py`. Its `run` can start as

    write(compute_op_by_op(step, gradients, step.rate.get_next(), read))

with `compute_op_by_op` from `_op_by_op`. That is a complete engine, correct but slow;
tests/test_oracle.py checks it against the reference. Add faster paths later, each only where
`why_op_by_op` of `_compilation` returns None. Keep state between steps in a
`weakref.WeakKeyDictionary` keyed by the step's roster: each `build` makes a new roster, and the
state dies with it.
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
from keras_rmsprop._variables._watch import Watch

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Rate(NamedTuple):
    """Where the learning rate of a step comes from."""

    # Returns a variable, a tensor or a float. Called once per step: a user's callable may count.
    get_next: Callable[[], Any]
    # A variable, schedule or callable, as Keras holds it.
    source: Any
    # Whether a subclass computes the rate, so that `source` does not determine it.
    is_overridden: bool

    @property
    def variable(self) -> keras.Variable | None:
        """The variable that holds the rate; None for a schedule or callable."""
        return self.source if isinstance(self.source, keras.Variable) else None


class Hook(NamedTuple):
    """A subclass's code that runs inside a step."""

    update: Update
    # The variables that the subclass added.
    variables: Sequence[keras.Variable]
    # All variables that its code may assign to.
    assignable: Sequence[keras.Variable]
    # The name of the subclass.
    subclass: str


class Step(NamedTuple):
    """Everything one step needs besides the gradients."""

    plan: Plan
    numbers: Numbers
    # The variables in order, with their slots and counters.
    roster: Roster
    rate: Rate
    hook: Hook | None
    # The optimizer's `jit_compile`, and its name for messages.
    jit_compile: Literal["auto", True, False]
    name: str
    # None if the step is never sampled.
    watch: Watch | None = None

    @property
    def update(self) -> Update | None:
        """The hook's update of one parameter; None to use the rule."""
        return None if self.hook is None else self.hook.update


class Execution(NamedTuple):
    """How steps are run, in clauses that have "steps" as their subject."""

    # Eager steps.
    eager: str
    # Steps inside functions that are compiled or traced, `fit` among them.
    inside: str


class Engine(Protocol):
    """The interface of each backend's module. Gradients may be anything that Keras accepts."""

    # Whether a gradient can be sparse: some rows of a table and their ids.
    SPARSE_GRADIENTS: bool
    # How a traced function sees changes of variables: those that it read ("captured"), which it can
    # also change without running Python, or those in `optimizer.variables`, which are passed to it
    # ("passed"). None if steps are not traced.
    TRACED_VARIABLES: Literal["captured", "passed", None]

    def install(self) -> None:
        """Set the functions of `_math` that are the engine's: `_rounding.bitcast` at least."""

    def run(self, step: Step, gradients: Sequence[Tensor | None], /) -> None:
        """Make one step; `gradients` has one entry per variable of the roster."""

    def how_steps_run(self, step: Step, reason: str | None, /) -> Execution:
        """Say how steps such as this one are run, without making one or waiting for the device.

        Args:
            step: a step with the current settings; its roster is empty before the build.
            reason: why the optimizer makes its steps op by op, or None if the engine decides.
        """

    def are_ready(self, gradients: Sequence[Any], shapes: list[tuple[int, ...]], /) -> bool:
        """Whether all gradients are dense eager tensors of floating dtype and of these shapes.

        False where that would take long to find out: `run` gets the gradients after a closer look.
        """

    def read(self, variable: Any, /) -> Tensor:
        """Return the variable's current value; on torch, a tensor that shares its memory."""

    def write(self, pairs: Iterable[tuple[Any, Tensor]], /) -> None:
        """Assign each value to its variable: all of them, or none if one fails."""

    def copy(self, value: Tensor, /) -> Tensor:
        """Return a value that a second variable may hold safely."""

    def dense(self, gradient: Any, variable: Any, /) -> Tensor:
        """Return the gradient as a dense tensor."""

    def shape_of(self, gradient: Any, /) -> tuple[int | None, ...]:
        """Return the gradient's shape, with None for unknown dimensions."""

    def is_sparse(self, gradient: Any, /) -> bool:
        """Whether the gradient is sparse: rows of a table and their ids."""

    def is_capturing_python(self) -> bool:
        """Whether a compiler is capturing the Python code, which must then take no locks."""

    def is_traced(self, variable: Any, /) -> bool:
        """Whether a function is being traced in which the variable has no value yet."""

    def do_not_convert(self, function: _Function, /) -> _Function:
        """Return the function, protected from source rewriting during tracing."""

    def outside_trace(self) -> AbstractContextManager[Any]:
        """Return a context in which operations run eagerly, even during a trace."""

    def swapping_strategy(self, strategy: Any, parameters: Sequence[ParameterVariables], /) -> Any:
        """Return a strategy with which `SwapEMAWeights` can swap weights and wider averages."""


# Defaults that fit most backends.


def do_not_convert(function: _Function) -> _Function:
    """Return the function unchanged: nothing rewrites Python source here."""
    return function


def is_capturing_python() -> bool:
    """Return False: nothing captures Python code here."""
    return False


def is_traced(_: Any) -> bool:
    """Return False: variables always have a value here."""
    return False


def is_sparse(_: Any) -> bool:
    """Return False: gradients are always dense here."""
    return False


def shape_of(gradient: Any) -> tuple[int | None, ...]:
    """Return the gradient's shape, which is always known here."""
    shape: tuple[int, ...] = gradient.shape
    return shape


def swapping_strategy(strategy: Any, _: Sequence[ParameterVariables]) -> Any:
    """Return the strategy unchanged: Keras can swap weights and wider averages here."""
    return strategy


outside_trace = contextlib.nullcontext
