"""How exact are the steps? Print the worst errors, and compare the centered form with its peers.

    python -m benchmarks.accuracy                  the active backend, one or two minutes
    python -m benchmarks.accuracy --all            one process for each backend

Three tables: every variant of the rule beside the float64 reference; the variance of a
near-constant gradient beside the truth in long double; each convention beside its framework.
They are also written as JSON into the folder given by --output. The exit status is 1 if any
error is beyond its tolerance.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Before any framework is imported. JAX holds float64 only with x64 on.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

import keras_rmsprop
from benchmarks.results import BACKENDS
from keras_rmsprop import conventions
from yardsticks import peers
from yardsticks.agreement import RANKS, TOLERANCE, Difference, a_problem, differences
from yardsticks.variants import RULE, Variant, option_variants, rule_variants

Array = NDArray[Any]
Row = dict[str, Any]

OUTPUT = Path(__file__).parent / "output"

# How the columns are written. Each row of an agreement has the worst error of a group:
#     weights      |difference| over the distance travelled, of weights and their moving averages
#     slots        |difference| over the largest value seen, the worst of all other slots
#     share        |difference| over what "the same" allows: an ulp of the weight per step more
# and each row of the variance what one framework makes of so much relative noise:
#     error        the worst |difference| of the variance from the truth, relative to it; none for
#                  a constant gradient, whose variance fades to nothing
#     below zero   the share of the variance's elements, of all steps, that fell below zero
#     NaN after    the first step that made a weight NaN
FORMATS: dict[str, Callable[[Any], str]] = {
    "weights": "{:.1e}".format,
    "slots": "{:.1e}".format,
    "share": "{:.1%}".format,
    "noise": "{:g}".format,
    "error": "{:.1e}".format,
    "below zero": "{:.3%}".format,
    "NaN after": "{:.0f}".format,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--all", action="store_true", help="one process for each backend")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    sys.exit(run_all(options.output) if options.all else run(options.output))


def run_all(output: Path) -> int:
    """Run every backend in its own process; return the worst exit status."""
    command = [sys.executable, "-m", "benchmarks.accuracy", "--output", str(output)]
    return max(
        subprocess.run(command, env=os.environ | {"KERAS_BACKEND": backend}, check=False).returncode
        for backend in BACKENDS
    )


def run(output: Path) -> int:
    """Print and write the tables of the active backend; return 1 if an error is too large."""
    # Peers warn of what they do on purpose; the tables have no room for it.
    warnings.simplefilter("ignore")
    backend = keras.backend.backend()
    tables = {
        "reference": list(agreement_with_the_reference()),
        "variance": list(accuracy_of_the_variance()),
        "frameworks": list(agreement_with_frameworks()),
    }
    titles = {
        "reference": "Against the float64 reference",
        "variance": f"The variance of a near-constant gradient, {SIZE} float32, {STEPS} steps",
        "frameworks": "Conventions against their frameworks",
    }
    print(f"keras_rmsprop {keras_rmsprop.__version__} on {backend}")
    for name, rows in tables.items():
        print(f"\n{titles[name]}\n{_text(rows)}")
    worst = max([*tables["reference"], *tables["frameworks"]], key=lambda row: row["share"])
    print(
        f"\n{len(rule_variants())} variants of the rule and {len(option_variants())} rows of "
        f"options; the worst error takes {worst['share']:.0%} of what is allowed "
        f"({worst['group']}, {worst['dtype']})."
    )
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"backend": backend, **tables}, indent=1)
    (output / f"accuracy-{backend}.json").write_text(text + "\n")
    return 0 if worst["share"] <= 1.0 else 1


def _text(rows: Sequence[Row]) -> str:
    return pd.DataFrame(rows).to_string(index=False, formatters=FORMATS, na_rep="-")


# Every variant beside the float64 reference.


def agreement_with_the_reference() -> Iterator[Row]:
    """Run the tables of variants, the rule's by form and place of the learning rate."""
    mixed = a_problem(((2, 3), "float32"), ((2, 2, 2), "float64"))
    groups: dict[str, list[Variant]] = {
        f"{form}, {momentum}": []
        for form, momentum in itertools.product(RULE["form"], RULE["momentum"])
    }
    for variant in rule_variants():
        groups[f"{variant.levels['form']}, {variant.levels['momentum']}"].append(variant)
    keras.config.set_floatx("float64")
    for group, variants in track(groups.items(), "variants of the rule"):
        yield from _worst(group, [differences(variant, mixed) for variant in variants])
    ways: dict[str, Any] = {"op by op": False, "compiled": "auto"}
    for dtype, (how, jit_compile) in itertools.product(TOLERANCE, ways.items()):
        keras.config.set_floatx(dtype)
        problem = a_problem(*((shape, dtype) for shape in RANKS))
        found = [differences(v, problem, jit_compile=jit_compile) for v in option_variants()]
        yield from _worst(f"options pairwise, {how}", found)
    keras.config.set_floatx("float32")


def _worst(group: str, found: Sequence[Mapping[tuple[str, str], Difference]]) -> Iterator[Row]:
    """The worst of what was found for each variant, in each precision."""
    frame = pd.DataFrame(
        [(*key, *difference) for each in found for key, difference in each.items()],
        columns=["dtype", "name", "share", "relative"],
    )
    # The moving average of the weights is measured as they are, against their way.
    frame["moves"] = frame["name"].isin(["weight", "average"])
    for dtype, worst in frame.groupby("dtype"):
        relative = worst.groupby("moves")["relative"].max()
        share = float(worst["share"].max())
        yield _agreement(group, len(found), str(dtype), relative[True], relative[False], share)


def _agreement(
    group: str, variants: int, dtype: str, weights: float, slots: float, share: float
) -> Row:
    figures = {"weights": float(weights), "slots": float(slots), "share": float(share)}
    return {"group": group, "variants": variants, "dtype": dtype, **figures}


# The variance of a near-constant gradient.


STEPS, SIZE = 300, 256
NOISES = (0.0, 1e-4, 1e-3, 1e-2, 1.0)
CENTERED: dict[str, dict[str, Any]] = {
    "keras": {"learning_rate": 0.001, "centered": True},
    "torch": {"lr": 0.001, "alpha": 0.9, "centered": True},
    "optax": {"learning_rate": 0.001, "centered": True},
}


def accuracy_of_the_variance() -> Iterator[Row]:
    """Run each framework over gradients between 1 and 2 with more and more noise."""
    for noise in track(NOISES, "the centered form"):
        rng = np.random.default_rng(0)
        size = rng.uniform(1.0, 2.0, SIZE)
        gradients = [
            [(size * (1.0 + noise * rng.normal(size=SIZE))).astype(np.float32)]
            for _ in range(STEPS)
        ]
        truth = variance_in_long_double(gradients)
        start = [np.zeros(SIZE, np.float32)]
        ours = keras_rmsprop.RMSprop(centered=True)
        yield variance_of("ours", noise, peers.follow_ours(ours, start, gradients), truth)
        for name, arguments in CENTERED.items():
            if peers.unavailable(name) is None:
                path = peers.follow(name, start, gradients, **arguments)
                yield variance_of(name, noise, path, truth)


def variance_in_long_double(gradients: Sequence[Sequence[Array]], rho: float = 0.9) -> list[Array]:
    """E[g²] - E[g]² after each step, as the textbook has it."""
    v = m = np.zeros(SIZE, np.longdouble)
    beta = np.longdouble(rho)
    truth = []
    for (gradient,) in gradients:
        g = gradient.astype(np.longdouble)
        v = beta * v + (1 - beta) * g**2
        m = beta * m + (1 - beta) * g
        truth.append(v - m**2)
    return truth


def variance_of(
    framework: str, noise: float, path: Sequence[peers.Snapshot], truth: Sequence[Array]
) -> Row:
    """Measure a path of one weight against the true variances."""
    got = np.array([snapshot.slots["square_average"][0] for snapshot in path], np.longdouble)
    want = np.array(truth)
    nan = [bool(np.any(np.isnan(snapshot.weights[0]))) for snapshot in path]
    return {
        "noise": noise,
        "framework": framework,
        "error": float(np.max(np.abs(got - want) / want)) if noise else None,
        "below zero": float(np.mean(got < 0.0)),
        "NaN after": nan.index(True) + 1 if any(nan) else None,
    }


# Each convention beside its framework.

# What a framework calls rho and epsilon. Both are numbers that float32 holds exactly, because
# TF1 and tf_keras round theirs to it even for float64 weights.
RHO_AND_EPSILON = {
    "keras": ("rho", "epsilon"),
    "torch": ("alpha", "eps"),
    "optax": ("decay", "eps"),
    "tf1": ("decay", "epsilon"),
    "tf_keras_legacy": ("rho", "epsilon"),
}
FORMS: list[dict[str, Any]] = [
    {**centered, **momentum}
    for centered in ({}, {"centered": True})
    for momentum in ({}, {"momentum": 0.75})
]


def agreement_with_frameworks() -> Iterator[Row]:
    """Run each convention beside its framework, in float64, with a moving learning rate."""
    keras.config.set_floatx("float64")
    names = [name for name in RHO_AND_EPSILON if peers.unavailable(name) is None]
    for name in track(names, "the conventions"):
        yield _agreement_with(name)
    keras.config.set_floatx("float32")


def _agreement_with(name: str) -> Row:
    problem = a_problem(((), "float64"), ((2, 3), "float64"), ((2, 2, 2), "float64"))
    # No framework but Keras skips a missing gradient: there it is zero.
    gradients = [
        [np.zeros_like(w) if g is None else g for g, w in zip(row, problem.starts, strict=True)]
        for row in problem.gradients
    ]
    rho, epsilon = RHO_AND_EPSILON[name]
    rate = {"learning_rate": 0.0} if name in ("optax", "tf1") else {}
    weights = slots = share = 0.0
    for form in FORMS:
        numbers = {rho: 0.875, epsilon: 2.0**-7, **form}
        ours = getattr(conventions, name)(**rate, **numbers)
        got = peers.follow_ours(ours, problem.starts, gradients, problem.rates)
        want = peers.follow(name, problem.starts, gradients, problem.rates, **numbers)
        for i, start in enumerate(problem.starts):
            path = np.array([start, *(snapshot.weights[i] for snapshot in want)])
            travelled = float(np.max(np.sum(np.abs(np.diff(path, axis=0)), axis=0)))
            rounding = len(want) * float(np.max(np.spacing(np.abs(path))))
            off = float(np.max(np.abs(got[-1].weights[i] - want[-1].weights[i])))
            weights = max(weights, off / travelled)
            share = max(share, off / (TOLERANCE["float64"] * travelled + rounding))
            for slot, values in want[-1].slots.items():
                # E[g²], of which a framework's own difference is the rest.
                size = np.abs(values[i]) + (
                    want[-1].slots["gradient_average"][i] ** 2
                    if slot == "square_average" and "centered" in form
                    else 0.0
                )
                error = np.abs(got[-1].slots[slot][i] - values[i]) / np.max(size)
                slots = max(slots, float(np.max(error)))
                share = max(share, float(np.max(error)) / TOLERANCE["float64"])
    return _agreement(f"conventions.{name}", len(FORMS), "float64", weights, slots, share)


if __name__ == "__main__":
    main()
