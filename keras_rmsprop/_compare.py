"""Run conventions side by side on a test function, and find where they part.

Two runs part where the distance between them exceeds a tolerance times the distance that the first
has travelled. Steps are made in NumPy float64 by `keras_rmsprop.reference`, which no backend takes
part in; only settings that it does not know, which no convention has, need the optimizer itself.
"""

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_rmsprop import _drawing, _landscapes, conventions
from keras_rmsprop._drawing import positive
from keras_rmsprop._landscapes import LANDSCAPES, Array, Landscape
from keras_rmsprop._optimizer import RMSprop
from keras_rmsprop._settings import _describe
from keras_rmsprop._settings._conventions import CONVENTIONS, HOW_STEPS_RUN, OFF, Word
from keras_rmsprop.reference import Reference

# A learning rate, or a function of the number of steps so far that returns one.
Rate = float | Callable[[int], Any]

# The numbers that all conventions have in common with `same=True`, where they have them at all.
SAME: dict[str, Any] = {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-7}

# Of a run. These take about a minute, and what is drawn of more would be the same.
MOST_STEPS = 1_000_000


class Run(NamedTuple):
    """The way that a convention takes."""

    name: str
    call: str
    # The options that the convention has no argument for.
    left_out: tuple[str, ...]
    # At the start and after each step, (steps + 1, dimensions) and (steps + 1,).
    positions: Array
    losses: Array


class Parting(NamedTuple):
    """Where a run parts from the first one."""

    name: str
    # After each step, the distance between the two, relative to the distance that the first has
    # travelled, (steps,).
    distances: Array
    # The first step after which that exceeds the tolerance, from 1, and where both are then, the
    # first run first; None if they never part.
    step: int | None
    positions: tuple[Array, Array] | None
    # The largest difference between the lengths of their steps, and at which step.
    step_difference: float
    step_difference_at: int


class Comparison(NamedTuple):
    """Several runs on one function."""

    function: str
    learning_rate: Rate
    tolerance: float
    runs: tuple[Run, ...]
    # One for each run but the first.
    partings: tuple[Parting, ...]


def compare(
    names: Sequence[str],
    function: str = "quadratic",
    *,
    learning_rate: Rate | None = None,
    steps: int | None = None,
    same: bool = False,
    rho: float | None = None,
    momentum: float | None = None,
    epsilon: float | None = None,
    centered: bool | None = None,
    tolerance: float = 0.01,
) -> Comparison:
    """Run several conventions on a test function, and compare each with the first.

    Args:
        names: of two or more functions of `keras_rmsprop.conventions`.
        function: one of `LANDSCAPES`.
        learning_rate: of all runs, a number >= 0 or a function of the number of steps so far, such
            as a Keras schedule. By default one that suits the function.
        steps: how many, from 1 to `MOST_STEPS`. By default as many as suit the function.
        same: whether all use the numbers of `SAME`, where they have them, instead of their
            framework's defaults, so that only their structure differs.
        rho: None, or that of every convention, whatever its name there.
        momentum: None, or that of every convention that has such an argument.
        epsilon: None, or that of every convention that has such an argument.
        centered: None, or that of every convention that has such an argument.
        tolerance: the distance, relative to the distance travelled, beyond which two runs have
            parted; > 0.

    Raises: ValueError if a name is unknown or given twice, or a number is out of range.

    Example:
    >>> comparison = compare(["keras", "tf1"], steps=10)
    >>> comparison.partings[0].step
    1
    """
    _check(names, function, steps, tolerance)
    landscape = LANDSCAPES[function]
    rate = landscape.learning_rate if learning_rate is None else learning_rate
    given = {"rho": rho, "momentum": momentum, "epsilon": epsilon, "centered": centered}
    options = {**(SAME if same else {}), **{k: v for k, v in given.items() if v is not None}}
    runs = [
        _run(name, landscape, rate, options, landscape.steps if steps is None else steps)
        for name in names
    ]
    partings = tuple(_parting(runs[0], other, tolerance) for other in runs[1:])
    return Comparison(function, rate, tolerance, tuple(runs), partings)


def _check(names: Sequence[str], function: str, steps: int | None, tolerance: float) -> None:
    known = ", ".join(CONVENTIONS)
    for name in names:
        if name not in CONVENTIONS:
            raise ValueError(f"There is no convention {name!r}; there are {known}.")
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"Comparing takes two or more different conventions, received {', '.join(names)}. "
            f"There are {known}."
        )
    if function not in LANDSCAPES:
        raise ValueError(f"There is no function {function!r}; there are {', '.join(LANDSCAPES)}.")
    if steps is not None and not (hasattr(steps, "__index__") and 1 <= steps <= MOST_STEPS):
        raise ValueError(
            f"`steps` must be an integer from 1 to {MOST_STEPS}, because every step of every "
            f"convention is kept and drawn, received steps={steps!r}."
        )
    if not 0.0 < tolerance < math.inf:
        raise ValueError(
            f"`tolerance` must be a finite number > 0, received tolerance={tolerance!r}."
        )


def _run(
    name: str, landscape: Landscape, rate: Rate, options: Mapping[str, Any], steps: int
) -> Run:
    arguments, left_out = _arguments_of(name, options)
    rate_name = CONVENTIONS[name].arguments["learning_rate"].name
    optimizer: RMSprop = getattr(conventions, name)(**{rate_name: rate_at(rate, 0)}, **arguments)
    shown = {rate_name: Word("schedule") if callable(rate) else rate, **arguments}
    call = ", ".join(f"{argument}={value!r}" for argument, value in shown.items())
    positions = follow(optimizer, landscape, rate, steps)
    losses = _landscapes.values_of(landscape, positions)
    return Run(name, f"conventions.{name}({call})", left_out, positions, losses)


def _arguments_of(name: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options as a convention's arguments, and those that it cannot have."""
    convention = CONVENTIONS[name]
    arguments, left_out = {}, []
    for setting, value in options.items():
        argument = convention.arguments.get(setting)
        if argument is not None and argument.takes(value):
            arguments[argument.name] = value
        elif argument is not None or convention.fixed.get(setting, OFF.get(setting)) != value:
            left_out.append(f"{setting}={value}")
    return arguments, tuple(left_out)


def rate_at(rate: Rate, step: int) -> float:
    """Return the learning rate after a number of steps."""
    return float(rate(step) if callable(rate) else rate)


def follow(optimizer: RMSprop, landscape: Landscape, rate: Rate, steps: int) -> Array:
    """Return the start and the positions after each step, (steps + 1, dimensions).

    Args:
        optimizer: not built, with a number as learning rate, which does not matter.
        landscape: the function to minimise.
        rate: the learning rate.
        steps: how many.
    """
    start = np.array(landscape.start)
    make_step = _stepper(optimizer, start)
    return _landscapes.walk(
        lambda gradient, step: make_step(gradient, rate_at(rate, step)), landscape, start, steps
    )


def _stepper(optimizer: RMSprop, start: Array) -> Callable[[Array, float], Array]:
    """Return a function of a gradient and a learning rate that makes a step."""
    reference = _reference_of(optimizer, start)
    if reference is not None:

        def by_reference(gradient: Array, rate: float) -> Array:
            reference.apply([gradient], rate)
            return reference.weights[0]

        return by_reference

    step = _landscapes.stepper(optimizer, start)

    def by_optimizer(gradient: Array, rate: float) -> Array:
        optimizer.learning_rate = rate
        return step(gradient)

    return by_optimizer


def _reference_of(optimizer: RMSprop, start: Array) -> Reference | None:
    """Return the reference of an optimizer, or None if it lacks one of its settings."""
    if type(optimizer) is not RMSprop:
        return None
    settings = optimizer._settings()
    known = {name: x for name, x in settings.items() if name in _OF_THE_REFERENCE}
    beyond = [name for name, x in settings.items() if x and name not in {*known, *HOW_STEPS_RUN}]
    # A transform works on the backend's tensors, and groups are those of paths.
    if beyond or known.pop("transform") or optimizer.groups:
        return None
    return Reference([start], **known)


_OF_THE_REFERENCE = frozenset(inspect.signature(Reference).parameters)


def _parting(first: Run, other: Run, tolerance: float) -> Parting:
    with np.errstate(all="ignore"):
        lengths, others = (
            np.linalg.norm(np.diff(run.positions, axis=0), axis=1) for run in (first, other)
        )
        travelled = np.cumsum(lengths)
        apart = np.linalg.norm(other.positions[1:] - first.positions[1:], axis=1)
        at_rest = np.where(apart == 0.0, 0.0, np.inf)
        distances = np.divide(apart, travelled, out=at_rest, where=travelled > 0.0)
        differences = np.abs(others - lengths)
    # Two runs that have both left the function's domain differ no more; one that has is infinitely
    # far from one that has not.
    lost = [np.isnan(run.positions[1:]).any(axis=1) for run in (first, other)]
    gone = np.where(lost[0] & lost[1], 0.0, np.inf)
    distances = np.where(lost[0] | lost[1], gone, distances)
    differences = np.where(lost[0] | lost[1], gone, differences)
    beyond = np.flatnonzero(distances > tolerance)
    step = int(beyond[0]) + 1 if beyond.size else None
    at = int(np.argmax(differences))
    return Parting(
        other.name,
        distances,
        step,
        None if step is None else (first.positions[step], other.positions[step]),
        float(differences[at]),
        at + 1,
    )


def as_text(comparison: Comparison) -> str:
    """Return a comparison as a table."""
    function, rate, tolerance, runs, partings = comparison
    landscape, first = LANDSCAPES[function], runs[0]
    rows = [
        ["convention", "last loss", "parts at step", "at", f"{first.name} at", "steps differ by"],
        [first.name, f"{first.losses[-1]:.6g}", "", "", "", ""],
    ]
    for run, parting in zip(runs[1:], partings, strict=True):
        where = ["never", "", ""]
        if parting.step is not None and parting.positions is not None:
            where = [str(parting.step), *map(_point, reversed(parting.positions))]
        differ = f"{parting.step_difference:.3g} at step {parting.step_difference_at}"
        if parting.step_difference == 0.0:
            differ = "nothing"
        rows.append([run.name, f"{run.losses[-1]:.6g}", *where, differ])
    shown_rate = "by a schedule" if callable(rate) else f"{rate:g}"
    heading = (
        f"{function}: {landscape.formula} from {_point(np.array(landscape.start))}, "
        f"{len(first.losses) - 1} steps, learning rate {shown_rate}"
    )
    calls = [
        ", without ".join([f"    {run.call}", *([", ".join(run.left_out)] * bool(run.left_out))])
        for run in runs
    ]
    meaning = (
        f"They part where they are farther from each other than {tolerance:.3g} times the distance "
        f"that {first.name} has travelled."
    )
    return "\n".join([_describe.table_as_text(heading, rows), "", *calls, "", meaning])


def _point(at: Array) -> str:
    numbers = ", ".join(f"{x:.6g}" for x in at)
    return numbers if len(at) == 1 else f"({numbers})"


def save_plot(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Draw the losses, and the distances from the first run, into a file.

    A circle marks where a run parts from the first one.

    Args:
        comparison: what to draw.
        path: of the picture, in a format that matplotlib knows by its suffix.

    Raises: ImportError if matplotlib is not installed.
    """
    function, _, tolerance, runs, partings = comparison
    figure = _drawing.new_figure(11.0, 4.4)
    losses, distances = figure.subplots(1, 2)
    steps = np.arange(len(runs[0].losses))
    for i, run in enumerate(runs):
        style = _drawing.line_style(i)
        shown = positive(run.losses)
        # A line of one point is invisible.
        marker = "o" if np.isfinite(shown).sum() == 1 else None
        losses.plot(steps, shown, label=run.name, marker=marker, **style)
        if i == 0:
            continue
        parting = partings[i - 1]
        apart = positive(parting.distances)
        where = "never parts" if parting.step is None else f"parts at step {parting.step}"
        distances.plot(steps[1:], apart, label=f"{run.name}: {where}", **style)
        if parting.step is not None:
            circle = {"marker": "o", "color": style["color"], "markerfacecolor": "white"}
            losses.plot(parting.step, positive(run.losses)[parting.step], zorder=3, **circle)
            distances.plot(parting.step, apart[parting.step - 1], zorder=3, **circle)
    # As by default, also where a run is lost.
    margin = 0.05 * steps[-1]
    losses.set(title="Loss", xlabel="step", xlim=(-margin, steps[-1] + margin))
    # Data, unlike `axhline`, so that the axis has limits even if no runs differ.
    distances.plot(steps[1:], np.full(len(steps) - 1, tolerance), ":", color=_drawing.GREY, lw=1.0)
    distances.set(
        title=f"Distance from {runs[0].name}, relative to the distance travelled",
        xlabel="step",
        xscale="log",
    )
    finite = positive(runs[0].losses)
    # The start is finite.
    for panel, largest in ((losses, np.nanmax(finite)), (distances, 1.0)):
        panel.set_yscale("log")
        # A passage through the minimum would fill the panel.
        panel.set_ylim(bottom=max(panel.get_ylim()[0], 1e-12 * largest))
        _drawing.tidy(panel)
        panel.legend(fontsize=9)
    figure.suptitle(f"{function}: {LANDSCAPES[function].formula}", fontsize=12)
    figure.savefig(path, dpi=150)
