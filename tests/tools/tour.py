"""Make `examples/tour.ipynb` of `examples/tour.py` and execute it: `python -m tests.tools.tour`.

With `--output FILE` another file is written. The script is in jupytext's percent format. A cell
that fails, or that writes to stderr, such as a warning, makes this fail; nothing is written then.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

from tests.tools.environment import as_of_a_user

SCRIPT = Path(__file__).parents[2] / "examples" / "tour.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
# Seconds for one cell, on a busy machine.
LIMIT = 600


def notebook_of_script() -> Any:
    """Return the notebook without outputs."""
    notebook = jupytext.read(SCRIPT, fmt="py:percent")
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
    }
    for i, cell in enumerate(notebook.cells):
        # By default random.
        cell["id"] = f"cell-{i}"
        cell.metadata = {}
    return notebook


def cells_of(notebook: Any) -> list[tuple[str, str]]:
    """Return the type and the text of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def execute(notebook: Any) -> None:
    """Fill in the outputs.

    Raises: nbclient.exceptions.CellExecutionError if a cell fails.
    """
    NotebookClient(
        notebook,
        timeout=LIMIT,
        startup_timeout=LIMIT,
        record_timing=False,
        coalesce_streams=True,
        # The kernel warns that what it says on this machine is not encrypted.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(SCRIPT.parent)}},
        # The tour decides how much is shown of the log of TensorFlow's native code.
    ).execute(env=as_of_a_user())
    # The version of Python, among others.
    notebook.metadata["language_info"] = {"name": "python"}


def complaints_in(notebook: Any) -> Iterator[str]:
    """Yield what went wrong, or was written to stderr."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                yield f"{output.ename}: {output.evalue}"
            elif output.output_type == "stream" and output.name == "stderr":
                yield output.text


def main() -> None:
    """Make the notebook."""
    parser = argparse.ArgumentParser(description="Make examples/tour.ipynb.")
    parser.add_argument("--output", type=Path, default=NOTEBOOK, help="file to write")
    output: Path = parser.parse_args().output
    notebook = notebook_of_script()
    execute(notebook)
    complaints = list(complaints_in(notebook))
    if complaints:
        parser.exit(1, "The tour writes to stderr:\n" + "\n".join(complaints))
    nbformat.write(notebook, output)
    print(f"{output}: {output.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
