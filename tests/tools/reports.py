"""Reports made by hand, and an optimizer that gives such reports."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_rmsprop._diagnostics._report import Histograms, Report, Statistics
from keras_rmsprop._math._statistics import EDGES
from keras_rmsprop._reporting import name_in_reports

EVERY = 2

# A page or terminal that takes it for markup, a link or a command shows something else.
NASTY = "model/<script>alert(1)</script>/[red]\x1b[31m{%\"'&</b>,\n/kernel"


def statistics(step: int = 100, **changed: Any) -> Statistics:
    """Return healthy numbers of a variable, but for some."""
    healthy: dict[str, Any] = {
        "gradient_norm": 0.5,
        "clipped_gradient_norm": 0.25,
        "largest_gradient": 0.125,
        "zero_gradient_share": 0.0625,
        "weight_norm": 2.0,
        "update_norm": 2.0**-9,
        "largest_update": 2.0**-12,
        "smallest_rate": 2.0**-9,
        "mean_rate": 2.0**-6,
        "largest_rate": 2.0**-3,
        "epsilon_share": 0.0,
        "frozen_share": 0.0,
        "stuck_share": 0.0,
        "learning_rate": 2.0**-10,
        "step": step,
        "largest_learning_rate": 2.0**-9,
        "largest_weight_norm": 2.0,
        "sampled": step // EVERY,
    }
    return Statistics(**{**healthy, **changed})


def report(
    variables: Mapping[str, Statistics] | None = None, *, step: int = 100, **changed: Any
) -> Report:
    """Return a report.

    Args:
        variables: by path; by default of two healthy ones.
        step: of the last sample, and the steps made.
        **changed: other fields.
    """
    if variables is None:
        variables = {"model/kernel": statistics(step), "model/bias": statistics(step)}
    fields: dict[str, Any] = {
        "name": "rmsprop",
        "iterations": step,
        "every": EVERY,
        "skipped_steps": None,
        "clip": None,
        "variables": variables,
        "total": statistics(step),
        "settings": {},
        "histograms": {},
    }
    return Report(**{**fields, **changed})


def unsampled(**changed: Any) -> Report:
    """Return a report before the first sample."""
    nothing = Statistics()
    return report({"model/kernel": nothing}, step=0, **{"total": nothing, **changed})


def not_finite(step: int = 100) -> Report:
    """Return a report in which every number is NaN or infinite."""
    broken = {name: value for value in (math.nan, math.inf) for name in Statistics._fields[:14]}
    nan = dict.fromkeys(broken, math.nan)
    rows = {
        "missing": statistics(step, **nan, nonfinite=1),
        "infinite": statistics(step, **broken, nonfinite=1),
        "never": Statistics(),
    }
    return report(rows, step=step, total=rows["infinite"])


def histograms(seed: int = 0) -> Histograms:
    """Return counts, some of which are 0."""
    rng = np.random.default_rng(seed)
    return Histograms(*rng.integers(0, 5, size=(2, len(EDGES) + 1)))


class Finding(NamedTuple):
    """What is wrong, in words."""

    ailment: str
    variables: tuple[str, ...]
    evidence: str
    meaning: str
    advice: str
    severity: str

    def in_words(self) -> str:
        """Return it as one paragraph."""
        return f"{self.ailment}: {self.evidence} {self.meaning} {self.advice}"


DEAD = Finding(
    "dead gradients",
    ("model/kernel",),
    "100 % of 12 gradients are 0.",
    "No signal reaches it.",
    "Look for a ReLU that is never positive.",
    "warning",
)


class Reporting(keras.optimizers.RMSprop):
    """Keras's optimizer, with reports made by hand for the steps that it makes.

    Every second step is sampled; the gradient norm is the step.
    """

    def __init__(self, paths: tuple[str, ...] = ("kernel", "bias"), **arguments: Any) -> None:
        super().__init__(**{"name": "rmsprop", **arguments})
        self.paths = paths
        self.findings: list[Finding] = []
        self.histograms: dict[str, Histograms] = {}
        # How often the report was read.
        self.reads = 0

    def diagnostics(self) -> Report:
        """Return the report of the last step that is sampled."""
        self.reads += 1
        iterations = int(keras.ops.convert_to_numpy(self.iterations))
        step = iterations // EVERY * EVERY
        row = statistics(step, gradient_norm=float(step)) if step else Statistics()
        return report(
            dict.fromkeys(self.paths, row),
            step=step,
            name=name_in_reports(self),
            iterations=iterations,
            total=row,
            histograms=self.histograms,
        )

    def explain(self) -> list[Finding]:
        """Return what is wrong."""
        return list(self.findings)

    def describe(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print what the optimizer is."""
        print_fn("Reporting: w <- w - lr * g / r")
