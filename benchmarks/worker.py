"""One backend's process: measures its rows and writes each to a file as soon as it is done.

Started by `python -m benchmarks` with KERAS_BACKEND set, once per backend, and again for the rows
after one that it died in.
"""

import argparse
import dataclasses
import gc
import itertools
import json
import logging
import sys
import time
import warnings
from pathlib import Path

from benchmarks import contenders, registry
from benchmarks.measure import QUICK, Settings, describe
from benchmarks.results import Record, Result


def main() -> None:
    """Measure and write one JSON object per line: the device, then started and done rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=registry.BACKENDS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only")
    parser.add_argument("--skip", type=int, default=0, help="rows that another process had")
    options = parser.parse_args()
    # Peers warn of what they do on purpose; the table has no room for it.
    warnings.simplefilter("ignore")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    settings = QUICK if options.quick else Settings()
    with options.output.open("w") as output:

        def tell(**line: object) -> None:
            print(json.dumps(line), file=output, flush=True)

        tell(device=contenders.on(options.backend).device())
        rows = registry.rows(options.backend, quick=options.quick, only=options.only)
        for row in itertools.islice(rows, options.skip, None):
            tell(started=row.name)
            start = time.perf_counter()
            record = measure(options.backend, row, settings)
            tell(done=dataclasses.asdict(record))
            seconds = time.perf_counter() - start
            print(f"{options.backend} {row.name}: {seconds:.1f} s", file=sys.stderr, flush=True)
            gc.collect()


def measure(backend: str, row: registry.Row, settings: Settings) -> Record:
    """Measure a row; if that fails as a whole, the reason is its result."""
    try:
        result = row.measure(settings)
    except Exception as error:  # the failure is a result
        result = Result.failed(describe(error))
    return Record(backend, row.suite, row.mode, row.config, row.case, row.size, result)


if __name__ == "__main__":
    main()
