"""Print the worst errors of the steps, and compare the centered form with its peers.

    python -m benchmarks.accuracy                  the active backend, one or two minutes
    python -m benchmarks.accuracy --all            one process for each backend

Three tables, also written as JSON to the folder given by --output. The exit status is 1 if any
error exceeds its tolerance.

Every variant of the rule compared with the float64 reference, and each convention with its
framework, the worst of a group in one precision:

    weights      |difference| over the distance travelled, of weights and their moving averages
    slots        |difference| over the largest value seen, of all other slots
    share        |difference| over what "the same" allows, which includes an ulp of the weight
                 per step

The variance of a near-constant gradient with the given relative noise, in float32, compared with
the true value in long double:

    error        the worst, relative to the true value; none for a constant gradient, whose
                 variance decays to zero
    below zero   the fraction of the variance's elements, over all steps, that fell below zero
    NaN after    the first step that made a weight NaN
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
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
from yardsticks.agreement import RANKS, TOLERANCE, compare_runs, differences, make_problem
from yardsticks.variants import RULE, Variant, option_variants, rule_variants

Array = NDArray[Any]
Row = dict[str, Any]
# For one variant: dtype, kind of tensor, and the two numbers of its `Difference`.
Found = list[tuple[str, str, float, float]]

OUTPUT = Path(__file__).parent / "output"


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
    # Hide the peers' expected warnings, which would clutter the tables.
    warnings.simplefilter("ignore")
    backend = keras.backend.backend()
    tables = {
        "Against the float64 reference": list(agreement_with_the_reference()),
        "The variance of a near-constant gradient": list(accuracy_of_the_variance()),
        "Conventions against their frameworks": list(agreement_with_frameworks()),
    }
    print(f"keras_rmsprop {keras_rmsprop.__version__} on {backend}")
    for title, rows in tables.items():
        # As objects, so that counts stay integers next to missing values.
        frame = pd.DataFrame(rows, dtype=object).fillna("-")
        text = frame.to_string(index=False, float_format="{:.1e}".format)
        print(f"\n{title}\n{text}")
    agreements = [row for rows in tables.values() for row in rows if "share" in row]
    worst = max(agreements, key=lambda row: row["share"])
    print(
        f"\n{len(rule_variants())} variants of the rule and {len(option_variants())} rows of "
        f"options; the worst error takes {worst['share']:.0%} of what is allowed "
        f"({worst['group']}, {worst['dtype']})."
    )
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"backend": backend, **tables}, indent=1)
    (output / f"accuracy-{backend}.json").write_text(text + "\n")
    return 0 if worst["share"] <= 1.0 else 1


# Every variant against the float64 reference.


def agreement_with_the_reference() -> Iterator[Row]:
    """Compare all variants with the reference; the rule's are grouped by form and momentum."""
    mixed = make_problem(((2, 3), "float32"), ((2, 2, 2), "float64"))
    groups: dict[str, list[Variant]] = {
        f"{form}, {momentum}": []
        for form, momentum in itertools.product(RULE["form"], RULE["momentum"])
    }
    for variant in rule_variants():
        groups[f"{variant.levels['form']}, {variant.levels['momentum']}"].append(variant)
    keras.config.set_floatx("float64")
    for group, variants in track(groups.items(), "variants of the rule"):
        yield from _worst(group, [_differences(variant, mixed) for variant in variants])
    ways: dict[str, Any] = {"op by op": False, "compiled": "auto"}
    for dtype, (how, jit_compile) in itertools.product(TOLERANCE, ways.items()):
        keras.config.set_floatx(dtype)
        problem = make_problem(*((shape, dtype) for shape in RANKS))
        found = [_differences(v, problem, jit_compile=jit_compile) for v in option_variants()]
        yield from _worst(f"options pairwise, {how}", found)
    keras.config.set_floatx("float32")


def _differences(variant: Variant, *arguments: Any, **options: Any) -> Found:
    return [(*key, *each) for key, each in differences(variant, *arguments, **options).items()]


def _worst(group: str, variants: Sequence[Found]) -> Iterator[Row]:
    """Yield the worst differences of a group of variants, in each precision."""
    frame = pd.DataFrame(itertools.chain(*variants), columns=["dtype", "kind", "share", "relative"])
    # Like the weights, their moving average is compared with the distance travelled.
    moves = frame["kind"].isin(["weight", "average"])
    for dtype, worst in frame.groupby("dtype"):
        yield {
            "group": group,
            "variants": len(variants),
            "dtype": dtype,
            "weights": float(worst.loc[moves, "relative"].max()),
            "slots": float(worst.loc[~moves, "relative"].max()),
            "share": float(worst["share"].max()),
        }


# The variance of a near-constant gradient.


STEPS, SIZE = 300, 256
NOISES = (0.0, 1e-4, 1e-3, 1e-2, 1.0)
CENTERED: dict[str, dict[str, Any]] = {
    "keras": {"learning_rate": 0.001, "centered": True},
    "torch": {"lr": 0.001, "alpha": 0.9, "centered": True},
    "optax": {"learning_rate": 0.001, "centered": True},
}


def accuracy_of_the_variance() -> Iterator[Row]:
    """Run each framework on gradients between 1 and 2 with increasing noise."""
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
    """Return E[g²] - E[g]² after each step, by the textbook formula."""
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
    """Compare a run of one weight with the true variances."""
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


# Each convention against its framework.

# The frameworks' names of rho and epsilon. Their values below are exact in float32, to which TF1
# and tf_keras round them even for float64 weights.
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
    """Compare each convention with its framework, in float64, with a changing learning rate."""
    keras.config.set_floatx("float64")
    names = [name for name in RHO_AND_EPSILON if peers.unavailable(name) is None]
    for name in track(names, "the conventions"):
        yield from _agreement_with(name)
    keras.config.set_floatx("float32")


def _agreement_with(name: str) -> Iterator[Row]:
    problem = make_problem(((), "float64"), ((2, 3), "float64"), ((2, 2, 2), "float64"))
    # Only Keras accepts missing gradients; use zeros instead.
    gradients = [
        [np.zeros_like(w) if g is None else g for g, w in zip(row, problem.starts, strict=True)]
        for row in problem.gradients
    ]
    rho, epsilon = RHO_AND_EPSILON[name]
    rate = {"learning_rate": 0.0} if name in ("optax", "tf1") else {}
    found = []
    for form in FORMS:
        numbers = {rho: 0.875, epsilon: 2.0**-7, **form}
        ours = getattr(conventions, name)(**rate, **numbers)
        got = peers.follow_ours(ours, problem.starts, gradients, problem.rates)
        want = peers.follow(name, problem.starts, gradients, problem.rates, **numbers)
        compared = compare_runs(got, want, problem.starts, TOLERANCE["float64"])
        found.append([("float64", kind, *each) for (kind, _), each in compared.items()])
    return _worst(f"conventions.{name}", found)


if __name__ == "__main__":
    main()
