"""Measure everything on the machine at hand and print the table.

    python -m benchmarks                      all backends, an hour and a half
    python -m benchmarks --quick              a minute or two, for a sign of life
    python -m benchmarks --backend jax --only steps/eager
    python -m benchmarks --only cliffs --into benchmarks/published

`--into` replaces the rows of an earlier run that this one measures too, and keeps the others.

A process per backend; results go to benchmarks/output as table, JSON and picture. A published run
is in benchmarks/published. It begins:

    tensorflow | steps | eager | plain [ms]
      case    contender      median  quartiles        ours is             quartiles    target
      scalar  keras_rmsprop  0.191   [0.154 0.224]
              keras          2.5     [2.14 2.73]      13.2 times as fast  [11.7 15]    >= 10   met
              tf_keras       1.47    [1.34 1.6]       7.77 times as fast  [6.92 9.08]
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, plot, report
from benchmarks.registry import BACKENDS, SUITES
from benchmarks.results import Record, Result

WORKER = "benchmarks.worker"
OUTPUT = Path(__file__).parent / "output"
# TensorFlow's rows are CPU steps; JAX shares an accelerator's memory.
ENVIRONMENT = {
    "tensorflow": {"CUDA_VISIBLE_DEVICES": ""},
    "jax": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    "torch": {},
}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few rows, few repetitions")
    parser.add_argument("--only", metavar="NAME", help="rows whose suite/mode/config/case has NAME")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="may be repeated")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the results")
    parser.add_argument("--into", type=Path, help="folder of earlier results, to be updated")
    options = parser.parse_args(arguments)

    about = machine.describe()
    records: list[Record] = []
    for backend in options.backend or BACKENDS:
        device, measured = run_worker(backend, quick=options.quick, only=options.only)
        about[f"{backend} runs on"] = device
        records += measured

    output = options.into or options.output
    if options.into:
        earlier, records = read_results(options.into / "results.json", records)
        later = f"{options.only or 'all'} on {', '.join(options.backend or BACKENDS)}"
        about = earlier | {f"later, {later}": f"load at the start {about['load at the start']}"}
    text = report.table(records, about)
    print(text)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.txt").write_text(text + "\n")
    data = {"machine": about, "records": [dataclasses.asdict(record) for record in records]}
    (output / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib"):
        plot.save(records, output / "results.png")
    else:
        print("no picture: matplotlib is not installed")


def read_results(path: Path, newer: Sequence[Record]) -> tuple[dict[str, str], list[Record]]:
    """Read an earlier run, its rows replaced by newer ones, in the order of a whole run."""
    earlier = json.loads(path.read_text())
    rows = {
        (r.backend, r.suite, r.mode, r.config, r.case): r
        for r in [*map(Record.from_json, earlier["records"]), *newer]
    }
    suites = [(backend, suite) for backend in BACKENDS for suite in SUITES]
    return earlier["machine"], sorted(
        rows.values(), key=lambda r: suites.index((r.backend, r.suite))
    )


def run_worker(backend: str, *, quick: bool, only: str | None) -> tuple[str, list[Record]]:
    """Measure a backend in a process of its own; return its device and its records.

    If the process dies, as for want of memory, the row it died in says so, and another process
    goes on after it.
    """
    device = "not started"
    records: list[Record] = []
    while True:
        code, device, measured, died_in = _run_process(backend, quick, only, len(records), device)
        records += measured
        if code == 0:
            return device, records
        reason = f"the process ended with code {code}"
        suite, mode, config, case = [*(died_in or "start").split("/"), "", "", ""][:4]
        records.append(Record(backend, suite, mode, config, case, None, Result.failed(reason)))
        if died_in is None:
            return device, records  # Not even a first row: the next process would do no better.


def _run_process(
    backend: str, quick: bool, only: str | None, skip: int, device: str
) -> tuple[int, str, list[Record], str | None]:
    """Let a worker measure what is left.

    Returns: its exit code, its device, its records, and the row that it had begun and not ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines")
        command = [sys.executable, "-m", WORKER, backend, str(lines), "--skip", str(skip)]
        command += ["--quick"] * quick + (["--only", only] if only else [])
        environment = os.environ | QUIET | ENVIRONMENT[backend] | {"KERAS_BACKEND": backend}
        done = subprocess.run(command, env=environment, check=False)
        text = lines.read_text() if lines.exists() else ""
    records: list[Record] = []
    begun = None
    for line in map(json.loads, text.splitlines()):
        device = line.get("device", device)
        begun = line.get("started", begun)
        if "done" in line:
            records.append(Record.from_json(line["done"]))
            begun = None
    return done.returncode, device, records, begun


if __name__ == "__main__":
    main()
