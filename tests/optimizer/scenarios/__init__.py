"""Ordinary programs, each a function of the optimizer class that it uses.

One table holds them all. `tests/optimizer/test_scenarios.py` runs each with
`keras.optimizers.RMSprop`, the control, and with `keras_rmsprop.RMSprop`. A program that succeeds
with the first must succeed with the second, and return the same numbers, if any.

To add one, write in the module of its topic:

    @scenario()
    def the_rate_is_changed_between_two_fits(RMSprop, folder):
        model = models.model()
        models.fit(model, RMSprop(0.01))
        model.optimizer.learning_rate = 0.001
        return models.go_on(model)

A scenario asserts what must hold whichever class it is given. What it returns, arrays or numbers
in a list or a dict, must be the same with both.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

BACKENDS = ("tensorflow", "jax", "torch")


class Scenario(NamedTuple):
    """A program and the backends on which it runs."""

    # (optimizer class, an empty folder) -> what must be the same with every class, or None.
    run: Callable[[Any, Path], Any]
    backends: tuple[str, ...]
    # Why `keras.optimizers.RMSprop` itself fails, if it does.
    keras_fails: str | None


TABLE: dict[str, Scenario] = {}


def scenario(
    *, backends: tuple[str, ...] = BACKENDS, keras_fails: str | None = None
) -> Callable[[Callable[[Any, Path], Any]], Callable[[Any, Path], Any]]:
    """Add a function to the table.

    Args:
        backends: those on which it runs.
        keras_fails: why Keras's own class fails it; the test fails when it no longer does.
    """

    def enter(run: Callable[[Any, Path], Any]) -> Callable[[Any, Path], Any]:
        name = run.__name__
        if name in TABLE:
            raise ValueError(f"There are two scenarios called {name!r}.")
        TABLE[name] = Scenario(run, backends, keras_fails)
        return run

    return enter


def load_all() -> dict[str, Scenario]:
    """Return the whole table."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return TABLE
