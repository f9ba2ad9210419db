"""Measure everything on the machine at hand and print the table.

    python -m benchmarks                      all backends, an hour and a half
    python -m benchmarks --quick              a minute or two, as a smoke test
    python -m benchmarks --backend jax --only steps/eager
    python -m benchmarks --only cliffs --into benchmarks/published
    python -m benchmarks --busy --only steps/eager      beside two busy processes per core
    python -m benchmarks --gpu                          the rows that need a GPU

`--into` updates the results of an earlier run: rows measured now are replaced, others kept.

Each backend runs in its own process. Results go to benchmarks/output as table, JSON and picture. A
published run is in benchmarks/published. It begins:

    tensorflow | steps | eager | plain [ms]
      case     contender        median   quartiles      ours is             quartiles    target
      scalar   keras_rmsprop    0.116    [0.115 0.118]
               keras            1.3      [1.28 1.34]    11.2 times as fast  [11 11.4]    >= 10   met
               tf_keras         0.731    [0.721 0.744]  6.28 times as fast  [6.18 6.39]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.worker import measure_all

OUTPUT = Path(__file__).parent / "output"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few rows, few repetitions")
    parser.add_argument("--only", metavar="NAME", help="rows whose suite/mode/config/case has NAME")
    parser.add_argument("--backend", action="append", choices=results.BACKENDS, help="repeatable")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of the results")
    parser.add_argument("--busy", action="store_true", help="beside two busy processes per core")
    parser.add_argument("--gpu", action="store_true", help="the rows that need a GPU, no others")
    parser.add_argument("--into", type=Path, help="folder of earlier results, to be updated")
    options = parser.parse_args(arguments)
    # Imported here, because the measuring processes import this module but do not need these.
    from benchmarks import busy, machine, plot, report

    about = machine.describe()
    neighbours = busy.count() if options.busy else 0
    if neighbours:
        about["busy neighbours"] = str(neighbours)
    lines: list[results.Line] = []
    backends = options.backend or results.BACKENDS
    for backend in backends:
        about[f"{backend} runs on"], measured = measure_all(
            backend,
            quick=options.quick,
            only=options.only,
            gpu=options.gpu,
            neighbours=neighbours,
        )
        lines += measured

    output = options.into or options.output
    if options.into:
        earlier, measured = results.read(options.into / "results.json")
        later = f"later, {options.only or 'all'} on {', '.join(backends)}"
        about = earlier | {later: f"load at the start {about['load at the start']}"}
        lines = results.updated(measured, lines)
    text = report.table(lines, about)
    print(text)
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.txt").write_text(text + "\n")
    results.write(output / "results.json", about, lines)
    plot.save(lines, output / "results.png")


if __name__ == "__main__":
    main()
