"""Write the tables and the example of `docs/ailments.md`: `python -m tests.tools.ailments_page`."""

import re
import textwrap
from pathlib import Path

from keras_rmsprop._diagnostics import _explanation
from keras_rmsprop._diagnostics._ailments import AILMENTS
from tests.tools import planted_runs

PAGE = Path(__file__).parents[2] / "docs" / "ailments.md"
WIDTH = 118


def summary() -> str:
    """Return the table of what shows the ailments, with links to what they mean."""
    rows = [
        f"| [{name}](#{name.replace(' ', '-')}) | {ailment.number} | {ailment.threshold} |"
        for name, ailment in AILMENTS.items()
    ]
    return "\n".join(["| ailment | number | threshold |", "| --- | --- | --- |", *rows])


def details() -> str:
    """Return for each ailment what it means and what to do."""
    parts = []
    for name, ailment in AILMENTS.items():
        paragraphs = (ailment.meaning, f"Try: {ailment.advice}")
        parts += [f"### {name}", *(textwrap.fill(text, WIDTH) for text in paragraphs)]
    return "\n\n".join(parts)


def example() -> str:
    """Return what is said of a training with a planted fault."""
    *_, report = planted_runs.constant_gradient()
    return f"```text\n{_explanation.explain(report)}\n```"


PARTS = {"summary": summary, "details": details, "example": example}


def written(text: str) -> str:
    """Return the page with its parts as they should be."""
    for name, part in PARTS.items():
        begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        new = begin + part() + end
        text, found = re.subn(pattern, lambda _, new=new: new, text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"There must be one part {name!r} in {PAGE.name}, found {found}.")
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
