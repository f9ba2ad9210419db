"""Trainings whose steps are sampled in NumPy, by `numpy_statistics`.

An optimizer's statistics are compared with these, and what they mean is judged by them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

import keras_rmsprop
from keras_rmsprop._diagnostics._report import Report, Statistics, VariableSettings
from keras_rmsprop._execution import _tables
from keras_rmsprop._variables import _pairing
from keras_rmsprop.reference import OF_A_WEIGHT, Reference
from tests.tools import numpy_statistics
from tests.tools.numpy_statistics import Settings, Step, Variable

Array = NDArray[Any]

# The settings of `numpy_statistics.Settings` that all variables of an optimizer share, ...
SHARED = ("centered", "nesterov", "epsilon_inside_sqrt", "lr_in_momentum", "bias_correction")
# ... and those that a group may have for itself.
OWN = ("rho", "momentum", "epsilon", "maximize", "l2")
CLIPS = {"value": "clipvalue", "norm": "clipnorm", "global_norm": "global_clipnorm"}


class SampledOptimizer:
    """A built optimizer whose steps are sampled.

    Args:
        optimizer: built, with a learning rate that can be read twice.
        every: one step in so many is sampled, the first among them.
        apply: makes a step of it with these gradients; by default its own `apply`.
    """

    def __init__(
        self,
        optimizer: keras_rmsprop.RMSprop,
        every: int = 1,
        apply: Callable[[Sequence[Any]], object] | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.every = every
        self.make_step = apply or optimizer.apply
        self.statistics: dict[str | None, Statistics] = {}

    def apply(self, gradients: Sequence[Any]) -> None:
        """Make a step, sampled or not."""
        optimizer = self.optimizer
        if int(optimizer.iterations) % self.every:
            self.make_step(gradients)
            return
        step, variables = step_of(optimizer), variables_of(optimizer, gradients)
        done, skipped = int(optimizer.iterations), optimizer.skipped_steps
        sampled = numpy_statistics.statistics_of(step, variables, self.statistics or None)
        self.make_step(gradients)
        if optimizer.skipped_steps > skipped:
            before = self.statistics or dict.fromkeys([*variables, None], Statistics())
            self.statistics = numpy_statistics.after_skipped(variables, before)
        elif int(optimizer.iterations) > done:  # Not a call that only accumulates.
            self.statistics = sampled

    def report(self) -> Report:
        """Return what is known so far."""
        optimizer = self.optimizer
        paths = _pairing.numbered(map(_pairing.path_of, optimizer._roster.weights))
        settings = {}
        for i, path in enumerate(paths):
            own = optimizer._settings_of(i)
            weight = optimizer._roster.weights[i]
            settings[path] = VariableSettings(
                dtype=keras.backend.standardize_dtype(weight.dtype),
                size=int(np.prod(weight.shape)),
                initial_square_average=optimizer.initial_square_average,
                state_dtype=optimizer.state_dtype,
                weight_decay=(own.weight_decay or 0.0) * optimizer._use_weight_decay(weight),
                **{name: getattr(own, name) for name in ("rho", "momentum", "epsilon", "l2")},
                **_shared(optimizer),
            )
        return report_of(
            self.statistics,
            settings,
            name=optimizer.name,
            every=self.every,
            iterations=int(optimizer.iterations),
            skipped_steps=optimizer.skipped_steps if optimizer.skip_nonfinite else None,
            clip=step_of(optimizer).clip,
        )


class SampledReference:
    """A reference whose every step is sampled.

    Args:
        reference: made no step so far.
        paths: of its weights.
    """

    def __init__(self, reference: Reference, paths: Sequence[str]) -> None:
        self.reference = reference
        self.paths = paths
        self.initial = [float(np.mean(p.square_average)) for p in reference.parameters]
        self.statistics: dict[str | None, Statistics] = {}

    def apply(self, gradients: Sequence[Array | None], learning_rate: float) -> None:
        """Sample and make a step."""
        reference = self.reference
        done = reference.iterations
        clip, limit = _clip_of(reference)
        step = Step(
            number=done + 1,
            learning_rate=learning_rate,
            clip=clip,
            limit=limit,
            loss_scale=reference.loss_scale_factor or 1.0,
            accumulation_steps=reference.gradient_accumulation_steps or 1,
        )
        variables = {path: self._variable(i, gradients[i]) for i, path in enumerate(self.paths)}
        sampled = numpy_statistics.statistics_of(step, variables, self.statistics or None)
        reference.apply(gradients, learning_rate)
        if reference.iterations > done:
            self.statistics = sampled

    def report(self) -> Report:
        """Return what is known so far."""
        settings = {
            path: VariableSettings(
                dtype="float64",
                size=self.reference.parameters[i].weight.size,
                initial_square_average=self.initial[i],
                state_dtype=self.reference.state_dtype,
                **{
                    name: self._own(i)[name]
                    for name in ("rho", "momentum", "epsilon", "weight_decay", "l2")
                },
                **_shared(self.reference),
            )
            for i, path in enumerate(self.paths)
        }
        clip, _ = _clip_of(self.reference)
        return report_of(
            self.statistics,
            settings,
            name="reference",
            every=1,
            iterations=self.reference.iterations,
            skipped_steps=None,
            clip=clip,
        )

    def _own(self, i: int) -> dict[str, Any]:
        reference, group = self.reference, self.reference.groups[i]
        own = {name: group.get(name, getattr(reference, name)) for name in OF_A_WEIGHT}
        return own | {"weight_decay": (own["weight_decay"] or 0.0) * reference.decayed[i]}

    def _variable(self, i: int, gradient: Array | None) -> Variable:
        reference, parameter, own = self.reference, self.reference.parameters[i], self._own(i)
        shared = {name: getattr(reference, name) for name in SHARED}
        return Variable(
            weight=parameter.weight.copy(),
            gradient=gradient,
            square_average=parameter.square_average,
            gradient_average=parameter.gradient_average,
            momentum=parameter.momentum,
            accumulator=parameter.accumulator,
            dtype="float64",
            settings=Settings(
                **shared,
                **{name: own[name] for name in OWN},
                weight_decay=own["weight_decay"],
                transform=own["transform"],
                rate_factor=reference.groups[i].get("learning_rate", 1.0),
            ),
        )


def report_of(
    statistics: Mapping[str | None, Statistics],
    settings: Mapping[str, VariableSettings],
    **others: Any,
) -> Report:
    """Return a report of statistics, those of all variables together under None."""
    variables = {path: statistics.get(path, Statistics()) for path in settings}
    total = statistics.get(None, Statistics())
    return Report(variables=variables, total=total, settings=settings, histograms={}, **others)


def step_of(optimizer: keras_rmsprop.RMSprop) -> Step:
    """Return what holds for all variables in an optimizer's next step."""
    clip, limit = _clip_of(optimizer)
    return Step(
        number=int(optimizer.iterations) + 1,
        learning_rate=float(_numpy(optimizer.learning_rate)),
        clip=clip,
        limit=limit,
        loss_scale=optimizer.loss_scale_factor or 1.0,
        accumulation_steps=optimizer.gradient_accumulation_steps or 1,
    )


def variables_of(optimizer: keras_rmsprop.RMSprop, gradients: Sequence[Any]) -> dict[str, Variable]:
    """Return the variables of a built optimizer as its next step finds them.

    Args:
        optimizer: the optimizer.
        gradients: of that step, for each variable a tensor, dense or rows, or None.
    """
    roster = optimizer._roster
    paths = _pairing.numbered(map(_pairing.path_of, roster.weights))
    rates = roster.counters.rates
    factors = np.ones(1) if rates is None else np.array([1.0, *_numpy(rates)])
    return {
        path: _variable(optimizer, i, gradients[i], float(factors[roster.members[i]]))
        for i, path in enumerate(paths)
    }


def _variable(
    optimizer: keras_rmsprop.RMSprop, i: int, gradient: Any, rate_factor: float
) -> Variable:
    own, owners = optimizer._settings_of(i), optimizer._roster.parameters[i]
    averages, _ = _tables.settled(optimizer._roster, i, optimizer._coefficients_of(i))
    dense, rows = _dense(gradient, tuple(owners.weight.shape), is_lazy=own.lazy)
    decays = optimizer._use_weight_decay(owners.weight)
    transform = own.transform
    return Variable(
        weight=_numpy(owners.weight).astype(np.float64),
        gradient=dense,
        square_average=_numpy(averages.square_average).astype(np.float64),
        gradient_average=_or_zero(averages.gradient_average),
        momentum=_or_zero(owners.momentum),
        accumulator=_or_zero(owners.accumulator),
        dtype=keras.backend.standardize_dtype(owners.weight.dtype),
        settings=Settings(
            **{name: getattr(own, name) for name in OWN},
            **_shared(optimizer),
            nesterov=optimizer.nesterov,
            weight_decay=(own.weight_decay or 0.0) * decays,
            transform=None if transform is None else functools.partial(_transformed, transform),
            rate_factor=rate_factor,
        ),
        rows=rows,
    )


def _shared(optimizer: Any) -> dict[str, Any]:
    return {name: getattr(optimizer, name) for name in SHARED if name != "nesterov"}


def _clip_of(optimizer: Any) -> tuple[str | None, float]:
    for clip, name in CLIPS.items():
        if getattr(optimizer, name) is not None:
            return clip, float(getattr(optimizer, name))
    return None, np.inf


def _dense(gradient: Any, shape: tuple[int, ...], *, is_lazy: bool) -> tuple[Any, Array | None]:
    """Return a gradient as an array, and which rows of a lazy table count."""
    if gradient is None:
        return None, None
    if type(gradient).__name__ != "IndexedSlices":
        return _numpy(gradient).astype(np.float64), None
    # Ids may repeat.
    ids, dense = np.asarray(gradient.indices), np.zeros(shape)
    np.add.at(dense, ids, np.asarray(gradient.values, np.float64))
    return dense, np.isin(np.arange(shape[0]), ids) if is_lazy else None


def _transformed(transform: Callable[..., Any], gradient: Array, weight: Array) -> Array:
    return _numpy(transform(ops.convert_to_tensor(gradient), ops.convert_to_tensor(weight)))


def _or_zero(value: Any) -> Array | float:
    return 0.0 if value is None else _numpy(value).astype(np.float64)


def _numpy(value: Any) -> Array:
    return np.array(ops.convert_to_numpy(ops.stop_gradient(ops.convert_to_tensor(value))))
