"""Check a long training for growing memory, new traces and accumulating rounding errors.

    python -m tests.tools.soak --steps 200000

trains a few weights with the optimizer, compiled as by default, and with the float64 reference,
on the same random gradients. From time to time it changes a number, removes the gradients of some
weights, passes a batch with a NaN, or saves the state, sets it to zero and loads it again. It fails
if memory grows, if a step is traced after the warm-up, or if a weight or a slot differs from the
reference by more than `Bounds` allows. A typical output, on two busy cores:

    200,000 steps in float32 on jax, 710 s. Traces: 4 in the warm-up, 0 after. Memory: 556.7 to
    556.8 MiB, grown by 0.08 and 0 objects. Deviation over bound: weight 0.59, square_average
    0.31, gradient_average 0.04, momentum 0.14, average 0.34.

On torch they took 320 s, memory grew by 0.01 MiB, and the weights reached 0.60 of their bound. On
TensorFlow 200,000 steps gave 4 traces, none after the warm-up, and the weights reached 0.71 of
their bound.
"""

import argparse
import contextlib
import functools
import gc
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Sets the environment, so before any framework is imported.
from tests.conftest import BACKEND

# isort: split

import keras
import numpy as np
import pytest
from keras import ops
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from keras_rmsprop import RMSprop
from keras_rmsprop.reference import Reference, ReferenceParameter
from tests.tools import models, twins
from yardsticks import resident
from yardsticks.agreement import SLOTS, TOLERANCE

Array = NDArray[Any]

MIB = 2**20

# Allocators and thread pools take memory now and then, once up to 8 MiB. Over 200,000 steps a leak
# of 130 bytes a step would exceed the first bound, and one of an object per 1000 steps the second.
MEMORY_BOUND = 16 * MIB
OBJECTS_BOUND = 100

SHAPES: tuple[tuple[int, ...], ...] = ((), (3,), (4, 5), (2, 2, 3))
# The weight that does not decay, so that its errors never shrink.
FREE = "weight_3"
# Which weights have a gradient; the pattern changes from time to time.
PATTERNS = (
    (True, True, True, True),
    (False, True, True, True),
    (True, True, False, False),
)
# The number of sets of gradients that are drawn. Each is used with its negative, so their mean is 0
# and no weight drifts.
POOL = 256

# The range from which each number is drawn, uniformly on a logarithmic scale.
RANGES = {
    "learning_rate": (1e-3, 1e-2),
    "one_minus_rho": (0.01, 0.2),
    "momentum": (0.1, 0.9),
    "epsilon": (1e-6, 1e-2),
    "clipnorm": (0.5, 8.0),
    "weight_decay": (0.01, 0.3),
    "one_minus_ema_momentum": (0.01, 0.2),
}
# The largest number of steps that an average remembers.
MEMORY = 100

EVENT_EVERY, CHECK_EVERY = 40, 100


class Findings(NamedTuple):
    """The results of a run."""

    steps: int
    seconds: float
    # How often a step was traced, or run op by op, until the end of the warm-up and in all.
    traces: tuple[int, int]
    # Resident bytes and objects that the garbage collector tracks, sampled after the warm-up.
    memory: Sequence[int]
    objects: Sequence[int]
    # The worst deviation of each kind of tensor, over its bound.
    shares: dict[str, float]

    def failures(self) -> list[str]:
        """Return one sentence for each bound that was exceeded."""
        sentences = {
            f"Steps traced after the warm-up: {self.traces[1] - self.traces[0]}.": (
                self.traces[0] == self.traces[1]
            ),
            f"Memory grew by {growth(self.memory) / MIB:.2f} MiB.": (
                growth(self.memory) <= MEMORY_BOUND
            ),
            f"Objects left over: {growth(self.objects):.0f}.": (
                growth(self.objects) <= OBJECTS_BOUND
            ),
            # Written so that NaN fails.
            **{
                f"Deviation of {name} over its bound: {share:.3g}.": share <= 1.0
                for name, share in self.shares.items()
            },
        }
        return [sentence for sentence, holds in sentences.items() if not holds]

    def summary(self) -> str:
        """Return the measurements as text."""
        shares = ", ".join(f"{name} {share:.2f}" for name, share in self.shares.items())
        return (
            f"{self.steps:,} steps in {keras.config.floatx()} on {BACKEND}, {self.seconds:.0f} s. "
            f"Traces: {self.traces[0]} in the warm-up, {self.traces[1] - self.traces[0]} after. "
            f"Memory: {self.memory[0] / MIB:.1f} to {self.memory[-1] / MIB:.1f} MiB, grown by "
            f"{growth(self.memory) / MIB:.2f} and {growth(self.objects):.0f} objects. "
            f"Deviation over bound: {shares}."
        )


def growth(samples: Sequence[int]) -> float:
    """The median of the last quarter of the samples minus that of the first."""
    quarter = max(1, len(samples) // 4)
    return float(np.median(samples[-quarter:]) - np.median(samples[:quarter]))


def soak(
    steps: int, seed: int = 0, samples: int = 40, shown: Callable[..., Iterable[int]] = iter
) -> Findings:
    """Run a long training in floatx.

    Args:
        steps: the number of steps after those of `run_everything_once`.
        seed: the seed of all random numbers.
        samples: how often memory is measured, after a tenth of the steps.
        shown: wraps the range of steps to show progress.
    """
    begin = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Gradients do not exist for variables")
        traces = twins.count_traces(patch)
        training = Training(np.random.default_rng(seed), Path(folder))
        training.run_everything_once()
        warm_up = steps // 10
        sampled = set(np.linspace(warm_up, steps - 1, samples, dtype=int).tolist())
        traces_of_warm_up, memory, objects = 0, [], []
        with _frozen_objects():
            for t in shown(range(steps)):
                training.step()
                if t % EVENT_EVERY == 0:
                    training.run_event()
                if t % CHECK_EVERY == 0 or t == steps - 1:
                    training.check()
                if t == warm_up:
                    traces_of_warm_up = len(traces)
                if t in sampled:
                    gc.collect()
                    memory.append(resident.now())
                    objects.append(gc.get_freeze_count() + len(gc.get_objects()))
        return Findings(
            steps,
            time.perf_counter() - begin,
            (traces_of_warm_up, len(traces)),
            memory,
            objects,
            training.shares,
        )


class Training:
    """The optimizer and the reference side by side, and the events that change them.

    Args:
        rng: draws all random numbers.
        folder: where files are written.
    """

    def __init__(self, rng: np.random.Generator, folder: Path) -> None:
        self.rng = rng
        self.folder = folder
        numbers = {name: float(np.sqrt(low * high)) for name, (low, high) in RANGES.items()}
        self.rate = _in_float32(numbers.pop("learning_rate"))
        options: dict[str, Any] = dict(_argument(name, value) for name, value in numbers.items())
        options |= {"centered": True, "use_ema": True}

        layer = Weights([rng.normal(size=shape) for shape in SHAPES])
        self.model = keras.Sequential([keras.Input((1,)), layer])
        self.variables = self.model.trainable_variables
        self.optimizer = RMSprop(self.rate, skip_nonfinite=True, **options)
        self.optimizer.exclude_from_weight_decay(var_names=[FREE])
        self.optimizer.build(self.variables)
        self.model.compile(self.optimizer, loss="mse")
        self.reference = Reference(
            models.values(self.variables),
            decayed=[FREE not in variable.path for variable in self.variables],
            **options,
        )

        self.pool = _gradients(rng)
        spoiled = [np.full(shape, np.nan, keras.config.floatx()) for shape in SHAPES]
        self.bad = models.tensors([*self.pool[0][0][:-1], spoiled[-1]])
        self.pattern = PATTERNS[0]
        self.steps = self.bad_batches = 0
        self.bounds = Bounds(self.reference)
        # The worst deviation of each kind of tensor, over its bound.
        self.shares: dict[str, float] = {}
        self.events = self._events()

    def _events(self) -> list[Callable[[], None]]:
        events: list[Callable[[], None]] = [
            functools.partial(self.change_number, name) for name in RANGES
        ]
        events += [self.change_pattern, self.give_bad_batch, self.load_dict, self.load_own]
        if BACKEND == "tensorflow":
            import tensorflow as tf

            checkpoint = tf.train.Checkpoint(model=self.model, optimizer=self.optimizer)
            events.append(functools.partial(self.restore, checkpoint))
        else:
            events.append(self.load_weights)
        return events

    def run_everything_once(self) -> None:
        """Step with every pattern and after every event."""
        for self.pattern in PATTERNS:
            self.step()
        # On TensorFlow Keras leaks 70 kB each time it saves or loads weights, also with its own
        # optimizers, so this is done only here; `load_own` covers this package's part.
        for event in (self.load_weights, *self.events):
            event()
            self.step()

    def step(self) -> None:
        """Make one step on both sides."""
        arrays, tensors = self.pool[self.rng.integers(len(self.pool))]
        before = self.reference.weights
        self.optimizer.apply(self._chosen(tensors), self.variables)
        self.reference.apply(self._chosen(arrays), self.rate)
        self.bounds.advance(self.reference, before, self.pattern, self.rate)
        self.steps += 1

    def _chosen(self, gradients: Sequence[Any]) -> list[Any]:
        return [g if has else None for g, has in zip(gradients, self.pattern, strict=True)]

    def run_event(self) -> None:
        """Run one of the events, drawn at random."""
        self.events[self.rng.integers(len(self.events))]()

    def change_number(self, name: str) -> None:
        """Draw a new value for one of the numbers."""
        value = float(np.exp(self.rng.uniform(*np.log(RANGES[name]))))
        if name == "learning_rate":
            self.rate = self.optimizer.learning_rate = _in_float32(value)
            return
        for side in (self.optimizer, self.reference):
            setattr(side, *_argument(name, value))

    def change_pattern(self) -> None:
        """Draw anew which weights have a gradient."""
        self.pattern = PATTERNS[self.rng.integers(len(PATTERNS))]

    def give_bad_batch(self) -> None:
        """Make a step with a NaN, which must have no effect."""
        self.optimizer.apply(self.bad, self.variables)
        self.bad_batches += 1

    def load_dict(self) -> None:
        """Save the optimizer's state as arrays and load it again."""
        state = self.optimizer.state_dict()
        _wipe_out(self.optimizer.variables)
        self.optimizer.load_state_dict(state)

    def load_own(self) -> None:
        """Save the optimizer's state as for Keras's files and load it again."""
        store: dict[str, Array] = {}
        self.optimizer.save_own_variables(store)
        _wipe_out(self.optimizer.variables)
        self.optimizer.load_own_variables(store)

    def load_weights(self) -> None:
        """Save the model's weights and the optimizer's state to a file and load them again."""
        file = self.folder / "all.weights.h5"
        self.model.save_weights(file)
        _wipe_out([*self.variables, *self.optimizer.variables])
        self.model.load_weights(file)

    def restore(self, checkpoint: Any) -> None:
        """Save weights and state with a `tf.train.Checkpoint` and load them again."""
        path = checkpoint.write(str(self.folder / "checkpoint"))
        _wipe_out([*self.variables, *self.optimizer.variables])
        checkpoint.read(path).assert_consumed()

    def check(self) -> None:
        """Compare the two sides, and record each deviation relative to its bound."""
        assert self.optimizer.skipped_steps == self.bad_batches
        assert int(models.values([self.optimizer.iterations])[0]) == self.steps
        bounds = self.bounds.now(self.reference)
        for i, owners in enumerate(self.optimizer._roster.parameters):
            want = self.reference.parameters[i]
            for name, owner in zip(SLOTS, owners, strict=True):
                if owner is not None:
                    [got] = models.values([owner])
                    off = np.max(np.abs(got.astype(np.float64) - getattr(want, name)))
                    # `np.maximum` propagates NaN.
                    share = np.maximum(self.shares.get(name, 0.0), off / bounds[i][name])
                    self.shares[name] = float(share)


class Bounds:
    """The allowed deviation of each tensor from the reference.

    Weights: the error of a step is TOLERANCE of its length plus an ulp of the weight. The errors
    of different steps are independent, so they add up in quadrature. Decay reduces the error as it
    reduces the weight; only without decay does the error grow with the square root of the number
    of steps. Twice that is allowed: the standard deviation of rounding is 0.4 ulp a step, so this
    is five standard deviations, for the worst of all weights at all times.

    Slots: a square average, gradient average or momentum buffer forgets its errors as it forgets
    its values. If every step rounded it by half an ulp in the same direction, the error would be
    MEMORY halves of an ulp: 6e-6 of its size in float32, however long the run is. For the average
    of the weights the sum of both is allowed.
    """

    def __init__(self, reference: Reference) -> None:
        self.dtype = np.dtype(keras.config.floatx())
        self.tolerance = TOLERANCE[self.dtype.name]
        self.squares = [0.0 for _ in reference.weights]
        self.largest: list[dict[str, float]] = [{} for _ in reference.weights]

    def advance(
        self,
        reference: Reference,
        before: Sequence[Array],
        pattern: Sequence[bool],
        rate: float,
    ) -> None:
        """Add the step that the reference has just made."""
        for i, (parameter, start) in enumerate(zip(reference.parameters, before, strict=True)):
            if pattern[i]:
                length = float(np.max(np.abs(parameter.weight - start)))
                ulp = float(np.spacing(np.max(np.abs(start)).astype(self.dtype)))
                kept = 1.0 - rate * (reference.weight_decay or 0.0) if reference.decayed[i] else 1.0
                self.squares[i] = (
                    kept**2 * self.squares[i] + (2.0 * (self.tolerance * length + ulp)) ** 2
                )

    def now(self, reference: Reference) -> list[dict[str, float]]:
        """The current bounds of each parameter's tensors."""
        relative = MEMORY * float(np.finfo(self.dtype).eps) / 2.0
        bounds = []
        for parameter, square, largest in zip(
            reference.parameters, self.squares, self.largest, strict=True
        ):
            for name, size in _sizes(parameter).items():
                largest[name] = max(size, largest.get(name, 0.0))
            weight = float(np.sqrt(square))
            slots = {name: relative * size for name, size in largest.items()}
            bounds.append({**slots, "weight": weight, "average": weight + slots["average"]})
        return bounds


def _sizes(parameter: ReferenceParameter) -> dict[str, float]:
    """The size of the numbers whose rounding causes each slot's error."""
    sizes = {name: getattr(parameter, name) for name in ("gradient_average", "momentum", "average")}
    # The error of a variance is proportional to E[g²].
    sizes["square_average"] = parameter.square_average + parameter.gradient_average**2
    return {name: float(np.max(np.abs(array))) for name, array in sizes.items()}


class Weights(keras.layers.Layer):
    """A layer that holds weights with given initial values."""

    def __init__(self, starts: Sequence[Array]) -> None:
        super().__init__()
        for i, start in enumerate(starts):
            weight = self.add_weight(shape=start.shape, name=f"weight_{i}")
            weight.assign(start)

    def call(self, x: Any) -> Any:
        """Return `x`: the gradients come from elsewhere."""
        return x


def _gradients(rng: np.random.Generator) -> list[tuple[list[Array], list[Any]]]:
    """Sets of gradients, as arrays and as tensors; their sizes spread over two decades."""
    scales = [10.0 ** rng.uniform(-1.0, 1.0, shape) for shape in SHAPES]
    pool = []
    for _ in range(POOL):
        drawn = [scale * rng.normal(size=np.shape(scale)) for scale in scales]
        for sign in (1.0, -1.0):
            arrays = [np.asarray(sign * g, keras.config.floatx()) for g in drawn]
            pool.append((arrays, models.tensors(arrays)))
    return pool


def _argument(name: str, value: float) -> tuple[str, float]:
    """The argument of the optimizer for a number of RANGES."""
    short = name.removeprefix("one_minus_")
    return short, value if short == name else 1.0 - value


def _in_float32(value: float) -> float:
    """The nearest number that a float32 learning rate holds exactly."""
    return float(np.float32(value))


def _wipe_out(variables: Iterable[Any]) -> None:
    for variable in variables:
        variable.assign(ops.zeros(variable.shape, variable.dtype))


@contextlib.contextmanager
def _frozen_objects() -> Iterator[None]:
    """Exclude the hundreds of thousands of existing objects from garbage collection."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return 0 if all bounds hold."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.soak", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=sorted(TOLERANCE), default="float32")
    options = parser.parse_args(arguments)
    keras.config.set_floatx(options.dtype)
    keras.config.set_dtype_policy(options.dtype)

    console = Console(stderr=True)
    shown = functools.partial(
        track,
        description=f"{BACKEND}, {options.dtype}",
        console=console,
        disable=not console.is_terminal,
    )
    findings = soak(options.steps, options.seed, shown=shown)
    print(findings.summary())
    failures = findings.failures()
    for sentence in failures:
        print(sentence)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
