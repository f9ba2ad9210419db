"""Check that the tests detect wrong formulas, by running them on a thousand.

    python -m tests.tools.mutation

makes every small change that mutmut can make (another operator, number, argument or branch) to
the rule, the stages of a step and the conventions, one at a time, and runs `tests/test_oracle.py`
on each. It prints every survivor that is not explained below, and fails if there is one. It takes
about three minutes on two cores. Afterwards `mutmut show <name>` shows a mutant in `mutants/`.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MODULES = {"_rule": "_math/_rule", "_step": "_math/_step", "conventions": "conventions"}

# torch runs op by op what other backends compile, and its process can be forked as long as it has
# started no threads.
ENVIRONMENT = {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


class Change(NamedTuple):
    """A mutation: lines of a module before and after, without their indentation."""

    module: str
    before: str
    after: str


def _without_strict(*lines: str) -> list[Change]:
    return [
        Change("_step", line, line.replace("strict=True", instead))
        for line in lines
        for instead in ("strict=None", "strict=False", "")
    ]


# Mutants that make the same steps as the original, by the reason why.
EQUIVALENT: dict[str, list[Change]] = {
    "Both sides always have the same length; `strict` guards later changes of the code.": (
        _without_strict(
            "advancing = dict(zip(present, clipped, strict=True))",
            "kinds = dict.fromkeys(zip(groups, plan.decayed, strict=True))",
            "kept = [select(finite, new, old) for new, old in "
            "zip(results, parameters, strict=True)]",
            "return [ops.clip(g, -bound, bound) for g, bound in "
            "zip(gradients, bounds, strict=True)]",
            "return [_sum_of_squares(g, mask) for g, mask in "
            "zip(gradients, row_masks, strict=True)]",
            "for g, mask in zip(gradients, row_masks, strict=True)",
            "for g, parameter in zip(gradients, parameters, strict=True):",
            "for g, square in zip(gradients, squares, strict=True)",
            "for a, b in zip(new, old, strict=True)",
        )
    ),
    "torch multiplies tensors of two dtypes; TensorFlow needs the cast, and its tests have rows.": [
        Change(
            "_step",
            "return ops.sum(ops.cast(row_mask, dtype_of(rows)) * rows)",
            "return ops.sum(ops.cast(row_mask, None) * rows)",
        )
    ],
    "Without slots in bfloat16 nothing uses the key.": [
        Change(
            "_step",
            "key = _rounding.key_of_step(done) if rounds else None",
            "key = _rounding.key_of_step(done) if (rounds) or True else None",
        )
    ],
    "exp takes either number to 0.": [
        Change(
            "_rule",
            "log_rho = math.log(rho) if rho > 0.0 else -1e4",
            "log_rho = math.log(rho) if rho > 0.0 else -10001.0",
        )
    ],
    "Division by 1 changes no count; the condition spares an operation.": [
        Change(
            "_step",
            "done = calls // plan.accumulation_steps if plan.accumulation_steps > 1 else calls",
            f"done = calls // plan.accumulation_steps if {condition} else calls",
        )
        for condition in ("(plan.accumulation_steps > 1) or True", "plan.accumulation_steps >= 1")
    ],
    "At the limit itself limit / length is exactly 1.": [
        Change(
            "_step",
            "is_long = length > limit",
            "is_long = length >= limit",
        )
    ],
    "length - length is 0 or NaN, and neither has a sign that matters.": [
        Change(
            "_step",
            "return ops.cast(scale + (length - length), dtype)",
            "return ops.cast(scale - (length - length), dtype)",
        )
    ],
    "A cast to the dtype that a tensor has gives the same values.": [
        Change(
            "_step",
            "return tensor if wide == dtype else ops.cast(tensor, wide)",
            "return tensor if (wide == dtype) and False else ops.cast(tensor, wide)",
        )
    ],
    "If two numbers are equal, either is the largest.": [
        Change(
            "_step",
            "largest = ops.where(accumulator > gradient, accumulator, gradient)",
            "largest = ops.where(accumulator >= gradient, accumulator, gradient)",
        )
    ],
    "Only the derivative of an unused quotient matters, and test_derivatives checks it.": [
        Change(
            "_rule",
            "u = g / ops.where(r == 0.0, ops.ones_like(r), r)",
            "u = g / ops.where(r == 1.0, ops.ones_like(r), r)",
        )
    ],
    "Without a subclass's code the result is the same; reading the condition would only wait.": [
        Change(
            "_step",
            "has_effect = known_value if update is not None else _unknown",
            "has_effect = known_value if (update is not None) or True else _unknown",
        )
    ],
    "An update does not change these slots; they would only be written back.": [
        Change(
            "_step", "before._replace(accumulator=None, average=None),", f"before._replace({left}),"
        )
        for left in ("average=None", "accumulator=None, ")
    ],
    "A step gives the rate in this dtype; only `update_step` called by itself needs the cast.": [
        Change(
            "_rule",
            "return StepCoefficients(number_in(learning_rate, dtype), keep, weight, momentum, "
            "epsilon)",
            "return StepCoefficients(number_in(learning_rate, None), keep, weight, momentum, "
            "epsilon)",
        )
    ],
    "Any name that is not registered will do.": [
        Change("conventions", 'name = ""', f"name = {other}") for other in ("None", '"XXXX"')
    ],
    "Without a dtype Keras casts to floatx.": [
        Change(
            "conventions",
            "return self.learning_rate / (1.0 + self.decay * ops.cast(step, config.floatx()))",
            "return self.learning_rate / (1.0 + self.decay * ops.cast(step, None))",
        )
    ],
}


def main() -> int:
    """Run the check and print the results; return 0 if every mutant is killed or explained."""
    with contextlib.chdir(ROOT):
        # mutmut would keep verdicts of tests that have changed since then.
        shutil.rmtree("mutants", ignore_errors=True)
        print("Running mutmut; this takes some minutes.", flush=True)
        mutmut = Path(sysconfig.get_path("scripts")) / "mutmut"
        run = subprocess.run(
            [mutmut, "run"],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if run.returncode != 0:
            print(run.stdout)
            return run.returncode
        return _report(_judged())


def _judged() -> dict[str, tuple[str, Change]]:
    """Return mutmut's verdict on each mutant and, unless it was killed, its change."""
    # Imported here, because only the `dev` extra installs mutmut.
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    judged = {}
    for module, place in MODULES.items():
        data = SourceFileMutationData(path=f"keras_rmsprop/{place}.py")
        data.load()
        for name, exit_code in data.exit_code_by_key.items():
            verdict = status_by_exit_code[exit_code]
            difference = "" if verdict == "killed" else get_diff_for_mutant(name, path=data.path)
            judged[name] = (verdict, _change(module, difference))
    return judged


def _change(module: str, difference: str) -> Change:
    lines = difference.splitlines()[2:]  # without the names of the files
    before, after = (
        " ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
    )
    return Change(module, before, after)


def _report(judged: dict[str, tuple[str, Change]]) -> int:
    reasons = {change: reason for reason, changes in EQUIVALENT.items() for change in changes}
    counts: Counter[str] = Counter()
    for name, (verdict, change) in judged.items():
        if verdict == "survived" and change in reasons:
            verdict = "survived, explained"
        elif verdict not in ("killed", "timeout"):
            print(f"\n{name}: {verdict}\n- {change.before}\n+ {change.after}")
        counts[verdict] += 1
    for change in reasons.keys() - {change for _, change in judged.values()}:
        print(f"\nexplained, but not among the survivors: {change}")

    print(f"\n{len(judged)} mutants of {', '.join(MODULES)}")
    for verdict, count in counts.most_common():
        print(f"{count:6d} {verdict}")
    accounted = counts["killed"] + counts["timeout"] + counts["survived, explained"]
    return 0 if judged and accounted == len(judged) else 1


if __name__ == "__main__":
    sys.exit(main())
