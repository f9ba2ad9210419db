"""Test that the notebook of the tour is what its script gives, executed and small enough."""

import base64

import nbformat
import pytest

from tests.tools import tour

MOST_BYTES = 1_500_000
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def notebook():
    """The committed notebook."""
    return nbformat.read(tour.NOTEBOOK, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebook_and_script_hold_the_same_cells(notebook) -> None:
    want = tour.cells_of(tour.notebook_of_script())
    assert tour.cells_of(notebook) == want, "run `python -m tests.tools.tour`"


def test_the_notebook_was_executed_from_top_to_bottom(notebook) -> None:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_cell_failed_or_wrote_to_stderr(notebook) -> None:
    assert list(tour.complaints_in(notebook)) == []


def test_every_claim_in_the_notebook_holds(notebook) -> None:
    printed = "".join(
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert "FAILED" not in printed
    assert printed.endswith("All claims hold.\n")


def test_every_picture_of_the_script_is_in_the_notebook_with_its_title(notebook) -> None:
    drawing = [c for c in code_cells(notebook) if "page.save(" in c.source or ".draw(" in c.source]
    assert len(drawing) == 8
    for cell in drawing:
        (picture,) = (output for output in cell.outputs if "image/png" in output.get("data", ()))
        assert base64.b64decode(picture.data["image/png"]).startswith(PNG)
        assert picture.metadata["image/png"]["alt"]


def test_the_notebook_is_small(notebook) -> None:
    assert tour.NOTEBOOK.stat().st_size < MOST_BYTES


def test_a_cell_that_writes_to_stderr_is_a_complaint() -> None:
    cell = nbformat.v4.new_code_cell(
        outputs=[
            nbformat.v4.new_output("stream", name="stdout", text="words"),
            nbformat.v4.new_output("stream", name="stderr", text="a warning"),
            nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]),
        ]
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert list(tour.complaints_in(notebook)) == ["a warning", "ValueError: no"]
