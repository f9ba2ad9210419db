"""Compare the centered form and momentum with Keras and torch, and see where they differ.

The same noisy gradients, 300 steps with a falling learning rate, in float64: in Keras's convention
against `keras.optimizers.RMSprop`, in torch's against `torch.optim.RMSprop`. Then a nearly constant
gradient in float32, where the textbook form of the centered average, E[g^2] - E[g]^2, falls below
zero by rounding and its root is NaN; ours is a sum of squares.
"""

from importlib.util import find_spec
from typing import Any

import _quiet  # noqa: F401 - before Keras
import keras
import numpy as np
from _common import (
    OTHER,
    PEER,
    RMSPROP,
    TARGET,
    Array,
    Report,
    path_error,
    run,
    use_float64,
    value_of,
    walk,
)
from matplotlib import pyplot as plt
from numpy.typing import ArrayLike

from keras_rmsprop import RMSprop

SEED, STEPS, STEADY_STEPS = 42, 300, 300
START = np.array([1.0, -2.0, 3.0])
FIRST_RATE, HALVES_EVERY = 0.05, 75

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "centered": {"centered": True},
    "centered, momentum": {"centered": True, "momentum": 0.9},
}
# Our options for each peer's rule, and the peer's default numbers.
CONVENTIONS: dict[str, dict[str, Any]] = {
    "Keras": {},
    "torch": {"epsilon_inside_sqrt": False, "lr_in_momentum": False},
}
NUMBERS = {"Keras": {"rho": 0.9, "epsilon": 1e-7}, "torch": {"rho": 0.99, "epsilon": 1e-8}}

# Both peers subtract two averages, which loses a few bits; we add squares.
TOLERANCE = 1e-12


def gradients(steps: int) -> Array:
    """Return noisy gradients, of a different size for each weight; shape (steps, 3)."""
    noise = np.random.default_rng(SEED).normal(0.0, 1.0, (steps, len(START)))
    return np.array([0.1, 1.0, 10.0]) * (0.3 + noise)


def rates(steps: int) -> Array:
    """Return the learning rate of each step."""
    return FIRST_RATE * 0.5 ** (np.arange(steps) // HALVES_EVERY)


def path_by_keras(optimizer: Any, given: Array, start: Array, learning_rates: Array) -> Array:
    """Return the path of a Keras optimizer, ours or Keras's own."""
    step = iter(zip(given, learning_rates, strict=True))

    def gradient(_: Array) -> ArrayLike:
        now: ArrayLike
        now, optimizer.learning_rate = next(step)
        return now

    return np.array([value_of(weight) for weight in walk(optimizer, gradient, start, given)])


def path_by_torch(
    given: Array, start: Array, learning_rates: Array, *, rho: float, epsilon: float, **form: Any
) -> Array:
    """Return the path of `torch.optim.RMSprop`, in the gradients' dtype."""
    import torch

    weight = torch.nn.Parameter(torch.tensor(start.astype(given.dtype)))
    optimizer = torch.optim.RMSprop([weight], alpha=rho, eps=epsilon, **form)
    path = [weight.detach().numpy().copy()]
    for gradient, learning_rate in zip(given, learning_rates, strict=True):
        optimizer.param_groups[0]["lr"] = float(learning_rate)
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(weight.detach().numpy().copy())
    return np.array(path)


def path_by_peer(
    peer: str, given: Array, start: Array, learning_rates: Array, **options: Any
) -> Array:
    """Return the path of the framework's own optimizer."""
    if peer == "torch":
        return path_by_torch(given, start, learning_rates, **options)
    return path_by_keras(keras.optimizers.RMSprop(**options), given, start, learning_rates)


def main(report: Report) -> None:
    """Compare all forms with all peers, also under a nearly constant gradient."""
    peers = ["Keras", "torch"]
    if find_spec("torch") is None:
        report.say("torch is not installed: compared with Keras only.")
        peers.remove("torch")
    # First in Keras's default precision, in which the textbook form fails.
    steady = face_steady_gradient(report, peers)
    use_float64()
    errors, paths = compare(report, peers)
    draw(report, errors, paths, steady)


Errors = dict[str, list[float]]
Paths = dict[tuple[str, str], tuple[Array, Array]]


def compare(report: Report, peers: list[str]) -> tuple[Errors, Paths]:
    """Run every form against every peer; return the errors and (our path, the peer's)."""
    steps = 30 if report.quick else STEPS
    given, learning_rates = gradients(steps), rates(steps)
    paths: Paths = {}
    pairs = [(form, peer) for form in FORMS for peer in peers]
    for form, peer in report.track(pairs, "comparing with Keras and torch"):
        options = NUMBERS[peer] | FORMS[form]
        ours = RMSprop(**CONVENTIONS[peer], **options)
        paths[form, peer] = (
            path_by_keras(ours, given, START, learning_rates),
            path_by_peer(peer, given, START, learning_rates, **options),
        )
    errors = {peer: [path_error(*paths[form, peer]) for form in FORMS] for peer in peers}
    report.table(
        f"Largest difference in {steps} steps, over the distance travelled, float64",
        ["form", *(f"from {peer}" for peer in peers)],
        [(form, *(f"{errors[peer][i]:.1e}" for peer in peers)) for i, form in enumerate(FORMS)],
    )
    for peer in peers:
        worst = max(errors[peer])
        figures = f"worst {worst:.1e}, allowed {TOLERANCE:.0e}"
        report.check(f"all forms take {peer}'s steps", worst <= TOLERANCE, figures)
    return errors, paths


def face_steady_gradient(report: Report, peers: list[str]) -> dict[str, Array]:
    """Return the paths of the centered form under a nearly constant gradient, in float32."""
    noise = np.random.default_rng(SEED).normal(0.0, 1e-4, (STEADY_STEPS, 1))
    given = (5.0 * (1.0 + noise)).astype("float32")
    learning_rates = np.full(STEADY_STEPS, 1e-4)
    # torch's default rho only delays the failure, so all use Keras's.
    options = NUMBERS["Keras"] | FORMS["centered"]
    start = np.zeros(1)
    paths = {"keras_rmsprop": path_by_keras(RMSprop(**options), given, start, learning_rates)}
    for peer in peers:
        paths[peer] = path_by_peer(peer, given, start, learning_rates, **options)
    report.table(
        f"Centered, {STEADY_STEPS} steps with a nearly constant gradient, float32",
        ["", "finite up to step"],
        [(name, finite_steps(path)) for name, path in paths.items()],
    )
    report.check("keras_rmsprop stays finite", finite_steps(paths["keras_rmsprop"]) == STEADY_STEPS)
    return paths


def finite_steps(path: Array) -> int:
    """Return the last step up to which the whole path is finite."""
    return int(np.sum(np.logical_and.accumulate(np.isfinite(path[:, 0])))) - 1


def draw(report: Report, errors: Errors, paths: Paths, steady: dict[str, Array]) -> None:
    """Draw our paths and the peers', the differences, and the nearly constant gradient."""
    figure, (ways, differences, falls) = plt.subplots(1, 3, figsize=(13, 4.3))
    figure.suptitle("Centered and with momentum, beside Keras and torch")
    for form in FORMS:
        ours, keras_own = (path[:, -1] for path in paths[form, "Keras"])
        (line,) = ways.plot(ours, lw=1.8, label=form)
        ways.plot(
            np.arange(0, len(keras_own), 12), keras_own[::12], "o", color=line.get_color(), ms=3.5
        )
    ways.set(title="One weight (dots: Keras's own)", xlabel="step", ylabel="weight")
    ways.legend(loc="center right")

    places = np.arange(len(FORMS))
    for i, (peer, row) in enumerate(errors.items()):
        # Zero has no logarithm; draw exact matches at 1e-17.
        heights = np.maximum(row, 1e-17)
        differences.bar(places + 0.4 * i - 0.2, heights, 0.4, bottom=1e-18, label=f"from {peer}")
    differences.axhline(TOLERANCE, color=TARGET, ls=":", lw=1.2, label="allowed")
    differences.set(
        title="Largest difference, float64",
        ylabel="of the distance travelled",
        yscale="log",
        ylim=(1e-17, 1e-9),
        xticks=places,
        xticklabels=[form.replace(", ", ",\n") for form in FORMS],
    )
    differences.legend(loc="upper left")

    for (name, path), colour in zip(steady.items(), (RMSPROP, PEER, OTHER), strict=False):
        last = finite_steps(path)
        fate = "" if last == STEADY_STEPS else f": NaN after step {last}"
        falls.plot(path[: last + 1, 0], color=colour, label=f"{name}{fate}")
        if fate:
            falls.plot(last, path[last, 0], "X", color=colour, ms=10, mec="white")
    falls.set(title="Centered, steady gradient, float32", xlabel="step", ylabel="weight")
    falls.legend(loc="lower left")
    report.save(figure, "centered_and_momentum.png")


if __name__ == "__main__":
    run(main, __doc__)
