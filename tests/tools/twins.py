"""The comparison, step by step, of two trainings that differ only in `jit_compile`."""

import itertools
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import keras_rmsprop
from keras_rmsprop._math import _step
from tests.tools import models
from yardsticks.agreement import TOLERANCE, rmsprop
from yardsticks.variants import Variant

Array = NDArray[Any]

SHAPES: list[tuple[int, ...]] = [(), (2, 3)]
STEPS = 8
# Before this step the situation changes: late enough that a compiled step is in use.
CHANGE = 4


class Training:
    """An optimizer with two variables of its own and a stream of gradients.

    Args:
        options: the arguments of the optimizer.
        dtypes: of the variables.
        make: makes the optimizer.
    """

    def __init__(
        self,
        options: dict[str, Any],
        dtypes: Sequence[str] = ("float64",) * len(SHAPES),
        make: Callable[..., keras.optimizers.Optimizer] = keras_rmsprop.RMSprop,
    ) -> None:
        rng = np.random.default_rng(1)
        self.variables = [
            keras.Variable(rng.normal(size=shape).astype(dtype), dtype=dtype, name=f"weight_{i}")
            for i, (shape, dtype) in enumerate(zip(SHAPES, dtypes, strict=True))
        ]
        self.optimizer = make(**options)
        # How gradients are applied; a situation may replace it.
        self.feed: Callable[[list[Any]], None] = self.apply

    def apply(self, gradients: list[Any], variables: list[Any] | None = None) -> None:
        """Make a step; by default with all variables."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist for variables")
            self.optimizer.apply(gradients, variables or self.variables)

    def step(self, t: int) -> None:
        """Make step `t`, whose gradients depend only on `t`."""
        rng = np.random.default_rng(100 + t)
        self.feed(
            models.tensors(
                rng.normal(0.3, 1.0, variable.shape).astype(variable.dtype)
                for variable in self.variables
            )
        )

    def state(self) -> list[Array]:
        """The weights, then the optimizer's variables."""
        return models.values([*self.variables, *self.optimizer.variables])


class Situation(NamedTuple):
    """The options of a training, and what happens during it."""

    # The optimizer's arguments, made anew for each training.
    options: Callable[[], dict[str, Any]] = dict
    # Called once before step CHANGE.
    change: Callable[[Training], None] | None = None
    # Called before the first step.
    begin: Callable[[Training], None] | None = None
    make: Callable[..., keras.optimizers.Optimizer] = keras_rmsprop.RMSprop


def changing_rate() -> Callable[[], float]:
    """A callable that returns a new rate each time it is called."""
    rates = itertools.count(1)
    return lambda: 0.1 / next(rates)


def rate_schedule() -> keras.optimizers.schedules.LearningRateSchedule:
    """A rate that falls every other step."""
    return keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True)


def situation_of(variant: Variant) -> Situation:
    """A variant of the tests' table as a situation."""

    def options() -> dict[str, Any]:
        match variant.levels.get("rate"):
            case "schedule":
                return {"learning_rate": rate_schedule(), **variant.arguments}
            case "callable":
                return {"learning_rate": changing_rate(), **variant.arguments}
        return variant.arguments

    def begin(training: Training) -> None:
        if variant.levels.get("constraint") == "constrained":
            training.variables[1].constraint = keras.constraints.MaxNorm(0.5)

    def make(**arguments: Any) -> keras_rmsprop.RMSprop:
        optimizer = rmsprop(**arguments)
        if variant.levels.get("decay") == "decay_but_one":
            optimizer.exclude_from_weight_decay(var_names=["weight_1"])
        return optimizer

    return Situation(options, begin=begin, make=make)


def train(situation: Situation, jit_compile: Any, **setting: Any) -> Iterator[list[Array]]:
    """Run a situation; yield the state at the start and after every step."""
    options = {"learning_rate": 0.1, **situation.options(), "jit_compile": jit_compile}
    training = Training(options, make=situation.make, **setting)
    training.optimizer.build(training.variables)
    if situation.begin is not None:
        situation.begin(training)
    yield training.state()
    for t in range(STEPS):
        if t == CHANGE and situation.change is not None:
            situation.change(training)
        training.step(t)
        yield training.state()


def assert_same_trajectory(got: Sequence[list[Array]], want: Sequence[list[Array]]) -> None:
    """Fail unless two trajectories agree within rounding of the distance travelled."""
    travelled = [np.zeros(()) for _ in want[0]]
    for t, (mine, theirs) in enumerate(zip(got, want, strict=True)):
        before = want[max(t - 1, 0)]
        assert len(mine) == len(theirs)
        for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            assert x.dtype == y.dtype
            # Half precision is computed in float32.
            precision = y.dtype.name if y.dtype.name in TOLERANCE else "float32"
            ulp = np.spacing(np.max(np.abs(y))).astype(np.float64) if y.dtype.kind == "f" else 0.0
            x, y, z = (array.astype(np.float64) for array in (x, y, before[i]))
            travelled[i] = travelled[i] + np.max(np.abs(y - z))
            allowed = TOLERANCE[precision] * travelled[i] + t * ulp
            np.testing.assert_allclose(
                x, y, rtol=0.0, atol=allowed, err_msg=f"variable {i} after {t} steps"
            )
    assert all(x > 0.0 for x in travelled[: len(SHAPES)]), (
        "a weight did not move, so agreement proves nothing"
    )


def a_model() -> keras.Model:
    """A model compiled with an optimizer that has slots of each kind."""
    network = models.model()
    optimizer = keras_rmsprop.RMSprop(
        0.1,
        centered=True,
        momentum=0.5,
        clipnorm=1.0,
        weight_decay=0.1,
        use_ema=True,
        ema_momentum=0.7,
        ema_overwrite_frequency=3,
    )
    network.compile(optimizer, loss="mse")
    return network


def go_on(network: keras.Model, steps: range) -> list[Array]:
    """Make some of the model's steps in a custom loop; return its whole state."""
    for t in steps:
        rng = np.random.default_rng(t)
        arrays = [rng.normal(0.3, 1.0, v.shape).astype(v.dtype) for v in network.trainable_weights]
        network.optimizer.apply(models.tensors(arrays), network.trainable_weights)
    return models.values([*network.weights, *network.optimizer.variables])


def run_in_new_process(script: str, folder: pathlib.Path, **environment: str) -> dict[str, Any]:
    """Run a script that writes `results.npz` to `folder`; return the results."""
    subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend(), **environment},
    )
    with np.load(folder / "results.npz") as results:
        return dict(results)


def count_traces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one whenever a step is traced or runs op by op."""
    traces: list[int] = []
    original = _step.step

    def counted(*arguments: Any, **options: Any) -> Any:
        traces.append(len(traces))
        return original(*arguments, **options)

    monkeypatch.setattr(_step, "step", counted)
    return traces
