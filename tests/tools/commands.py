"""Run the command line, and make the files that its tests convert.

A training has six steps with given gradients: three of them before a conversion, three after it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from click.testing import CliRunner

from keras_rmsprop._command_line import program
from keras_rmsprop.recipes import AtLeast, StaircaseDecay, WarmUp
from tests.tools import models
from tests.tools.environment import as_of_a_user
from tests.tools.models import Array

HALF = 3
# Exact in float32.
RATE = 2.0**-6

# The variables of `models.model`, by their paths without the model's name.
PATHS = ("hidden/kernel", "hidden/bias", "last/kernel", "last/bias")


# A schedule of Keras's, and ones of this package with another inside.
SCHEDULES = (
    keras.optimizers.schedules.ExponentialDecay(0.25, 4, 0.5),
    AtLeast(keras.optimizers.schedules.ExponentialDecay(0.25, 4, 0.5), 0.125),
    WarmUp(StaircaseDecay(0.25, 0.5, 4), 2),
)

# What `leave_a_mark` leaves.
MARKS: list[str] = []


@keras.saving.register_keras_serializable(package="tests")
def leave_a_mark() -> float:
    """Return a learning rate, and show that it was called."""
    MARKS.append("called")
    return RATE


class Run(NamedTuple):
    """How a run of the command line ended."""

    status: int
    out: str
    err: str


def run(*arguments: object) -> Run:
    """Run the command line in this process."""
    done = CliRunner().invoke(program, [str(argument) for argument in arguments])
    return Run(done.exit_code, done.stdout, done.stderr)


def succeeds(*arguments: object) -> str:
    """Run the command line, fail unless it succeeds without a word on stderr, and return stdout."""
    status, out, err = run(*arguments)
    assert (status, err) == (0, ""), err
    return out


def fails(*arguments: object) -> str:
    """Run the command line, fail unless it ends as failures must, and return the sentence."""
    return sentence_of(run(*arguments))


def sentence_of(done: Run) -> str:
    """Return the only line of a failure."""
    assert done.status == 2, done
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def process(*arguments: object, instead: Path | None = None, **environment: str) -> Run:
    """Run the command line in a process of its own, where TensorFlow logs as by default.

    Args:
        *arguments: of the command line.
        instead: None, or a folder of modules that take the place of installed ones.
        **environment: further environment variables.
    """
    folders = [str(folder) for folder in (instead, Path(__file__).parents[2]) if folder is not None]
    done = subprocess.run(
        [sys.executable, "-m", "keras_rmsprop", *map(str, arguments)],
        env={**as_of_a_user(), "PYTHONPATH": os.pathsep.join(folders), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def starts() -> list[Array]:
    """Return the initial weights, in the order of `PATHS`."""
    return [np.array(weight) for weight in models.model().get_weights()]


def gradients() -> list[list[Array]]:
    """Return the gradients of all steps, of sizes that differ between weights."""
    rng = np.random.default_rng(0)
    sizes = [10.0 ** rng.uniform(-1.0, 1.0, weight.shape) for weight in starts()]
    return [
        [(size * rng.normal(0.3, 1.0, size.shape)).astype(np.float32) for size in sizes]
        for _ in range(2 * HALF)
    ]


def step_here(model: keras.Model, steps: Iterable[Sequence[Array]]) -> list[Array]:
    """Make steps with a compiled model's optimizer, and return its weights."""
    for step in steps:
        model.optimizer.apply(models.tensors(step), model.trainable_variables)
    return [np.array(weight) for weight in model.get_weights()]


def save_model(
    path: Path, optimizer: Any, weights: Sequence[Array] | None = None, trained: bool = False
) -> keras.Model:
    """Save a compiled model, after the first half of the training or before its first step."""
    model = models.model()
    if weights is not None:
        model.set_weights(weights)
    if hasattr(optimizer, "jit_compile"):
        # How a step is run does not matter here, and compiling takes seconds.
        optimizer.jit_compile = False
    model.compile(optimizer, loss="mse", metrics=["mae"])
    optimizer.build(model.trainable_variables)
    if trained:
        step_here(model, gradients()[:HALF])
    model.save(path)
    return model


def go_on_here(path: Path) -> list[Array]:
    """Load a model that was converted, make the second half of the training, and return weights."""
    model = keras.saving.load_model(path)
    assert int(model.optimizer.iterations) == HALF
    return step_here(model, gradients()[HALF:])


def assert_same(got: Iterable[Array], want: Iterable[Array]) -> None:
    """Fail unless two trainings have ended with the same weights."""
    models.assert_same(got, want, starts(), steps=2 * HALF, precision="float32")


def transposed(arrays: Iterable[Array]) -> list[Array]:
    """Return weights of dense layers in torch's layout, or back in Keras's."""
    return [np.ascontiguousarray(array.T) for array in arrays]


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file."""
    path.write_text(json.dumps(value))
    return path


def leaves_a_trace(path: Path) -> Any:
    """Return an object that makes a folder when it is unpickled."""
    return _Trace(path)


class _Trace:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)
