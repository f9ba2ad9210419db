"""Measure everything on the machine at hand and print the table.

    python -m benchmarks                      all backends, about half an hour
    python -m benchmarks --quick              one minute, for a sign of life
    python -m benchmarks --backend jax --only steps/eager

A process per backend; results go to benchmarks/output as table, JSON and picture.
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
from benchmarks.registry import BACKENDS
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
    options = parser.parse_args(arguments)

    about = machine.describe()
    records: list[Record] = []
    for backend in options.backend or BACKENDS:
        device, measured = run_worker(backend, quick=options.quick, only=options.only)
        about[f"{backend} runs on"] = device
        records += measured

    text = report.table(records, about)
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "results.txt").write_text(text + "\n")
    data = {"machine": about, "records": [dataclasses.asdict(record) for record in records]}
    (options.output / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib"):
        plot.save(records, options.output / "results.png")
    else:
        print("no picture: matplotlib is not installed")


def run_worker(backend: str, *, quick: bool, only: str | None) -> tuple[str, list[Record]]:
    """Measure a backend in its own process; return its device and its records.

    If the process dies, the rows it had finished are kept and the one it died in says so.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder, "lines")
        command = [sys.executable, "-m", WORKER, backend, str(lines)]
        command += ["--quick"] * quick + (["--only", only] if only else [])
        environment = os.environ | QUIET | ENVIRONMENT[backend] | {"KERAS_BACKEND": backend}
        done = subprocess.run(command, env=environment, check=False)
        text = lines.read_text() if lines.exists() else ""
    device, records, started = "not started", [], "start"
    for line in map(json.loads, text.splitlines()):
        device = line.get("device", device)
        started = line.get("started", started)
        if "done" in line:
            records.append(Record.from_json(line["done"]))
            started = ""
    if done.returncode:
        reason = f"the process ended with code {done.returncode}"
        suite, mode, config, case = [*started.split("/"), "", "", ""][:4]
        records.append(Record(backend, suite, mode, config, case, None, Result.failed(reason)))
    return device, records


if __name__ == "__main__":
    main()
