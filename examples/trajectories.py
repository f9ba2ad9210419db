"""Draw the trajectories of RMSprop, Adagrad and SGD on six test functions, and their accumulators.

The functions are Rosenbrock's, Beale's, Rastrigin's and Himmelblau's, an ill-conditioned quadratic
and x / log(x); see `keras_rmsprop.plots.trajectories`. RMSprop runs in three conventions (Keras,
torch, TF1) and centered. All runs of a function start at one point; the learning rates, in the
legends, suit each of them. Two of the pictures are animated.

What they show: torch's rho of 0.99 makes the first steps longer; TF1's first average of 1 matters
where gradients are small. Near a minimum RMSprop does not come to rest, because its steps are about
as long as the learning rate, however small the gradient; those of Adagrad and SGD shrink. On
Rastrigin's function only the long steps of torch's convention and of Adagrad lead out of the first
hollow.

The last picture shows why Adagrad stalls: its sum of squares only grows, while RMSprop's average
forgets.

A published run is in `published/`: `trajectories.txt` and the pictures of the same names.
"""

from typing import Any

import numpy as np
from _common import Array, Report, descend_by_reference, run, use_float64
from matplotlib.figure import Figure

from keras_rmsprop import plots
from keras_rmsprop._landscapes import LANDSCAPES

FUNCTIONS = ("quadratic", "rosenbrock", "beale", "rastrigin", "himmelblau", "xlogx")
ANIMATED = ("beale", "rastrigin")
QUICK_STEPS = 40
# Steps that are compared with the reference. Where they turn about the bottom of a valley, later
# ones depend on the last digits.
CHECKED = 40

# RMSprop's settings in each convention, for the reference.
SETTINGS: dict[str, dict[str, Any]] = {
    "keras": {},
    "torch": {"rho": 0.99, "epsilon": 1e-8, "epsilon_inside_sqrt": False},
    "tf1": {"epsilon": 1e-10, "initial_square_average": 1.0},
    "centered": {"centered": True},
}
TOLERANCE = 1e-12  # of the distance travelled, against the reference
DOTS = 100  # per inch: a width that pages show as it is


def main(report: Report) -> None:
    """Draw all pictures, and check what they show."""
    use_float64()
    steps = QUICK_STEPS if report.quick else None
    for function in FUNCTIONS:
        figure = plots.trajectories(function, steps=steps)
        paths = paths_in(figure, function)
        tabulate(report, function, paths)
        check(report, function, paths)
        report.save(figure, f"trajectories_{function}.png", dpi=DOTS)
    for function in ANIMATED:
        path = report.new_picture(f"animation_{function}.gif")
        plots.animate(path, function, steps=steps, frames=4 if report.quick else 50)
    draw_accumulators(report)


def paths_in(figure: Figure, function: str) -> dict[str, Array]:
    """Return the trajectories of a picture by their labels, (steps + 1, dimensions)."""
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    dimensions = len(LANDSCAPES[function].start)
    return {
        label: np.transpose(np.asarray(line.get_data(), np.float64)[:dimensions])
        for label, line in lines.items()
        if not label.startswith("_")
    }


def tabulate(report: Report, function: str, paths: dict[str, Array]) -> None:
    """Print where the trajectories end."""
    landscape = LANDSCAPES[function]
    steps = len(next(iter(paths.values()))) - 1
    report.table(
        f"{function}: {landscape.formula}, after {steps} steps",
        ["optimizer", "end", "above the minimum by"],
        [
            (
                label,
                ", ".join(f"{x:.3g}" for x in path[-1]),
                f"{landscape.value(path[-1]) - landscape.lowest:.2g}",
            )
            for label, path in paths.items()
        ],
    )


def check(report: Report, function: str, paths: dict[str, Array]) -> None:
    """Check that RMSprop's trajectories begin as those of the reference."""
    landscape = LANDSCAPES[function]
    got, want = [], []
    for name, settings in SETTINGS.items():
        ((label, path),) = (item for item in paths.items() if f"RMSprop, {name} " in item[0])
        got.append(path[: CHECKED + 1])
        by_reference = descend_by_reference(
            lambda at: landscape.gradient(np.asarray(at, np.float64), 0),
            landscape.start,
            range(CHECKED),
            learning_rate=float(label.partition("lr ")[2].rstrip(")")),
            **settings,
        )
        want.append(by_reference)
    claim = f"{function}: RMSprop takes the reference's first {CHECKED} steps"
    report.check_same_path(claim, np.stack(got, axis=1), np.stack(want, axis=1), TOLERANCE)


def draw_accumulators(report: Report) -> None:
    """Draw the accumulators, and check what the picture is to show."""
    figure = plots.accumulators()
    (_, sums, averages), (adagrad, rmsprop, _) = (
        [np.asarray(line.get_ydata(), np.float64) for line in axes.lines] for axes in figure.axes
    )
    ends = f"at {sums[-1]:.3g} and {averages[-1]:.3g}"
    report.check(
        "Adagrad's sum only grows, RMSprop's average comes down again",
        bool(np.all(np.diff(sums) > 0.0)) and averages[-1] < 0.01 * np.max(averages),
        ends,
    )
    report.check(
        "at the end RMSprop's steps are more than 100 times as long as Adagrad's",
        bool(rmsprop[-1] > 100.0 * adagrad[-1]),
        f"{rmsprop[-1]:.2g} and {adagrad[-1]:.2g}",
    )
    report.save(figure, "accumulators.png", dpi=DOTS)


if __name__ == "__main__":
    run(main, __doc__)
