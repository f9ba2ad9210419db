"""Test what a report looks like in a terminal and in a notebook."""

import math
import re

import pytest

from keras_rmsprop._diagnostics import _tables
from keras_rmsprop._diagnostics._report import Statistics
from tests.tools.html import Page
from tests.tools.reports import NASTY, not_finite, report, statistics, unsampled


@pytest.fixture
def rich(request, monkeypatch):
    """Whether rich is installed, as far as the tables know."""
    if not request.param:
        monkeypatch.setattr(_tables, "find_spec", lambda _: None)
    return request.param


def many(count: int):
    rows = {f"model/layer_{i}/kernel": statistics(update_norm=2.0**-i) for i in range(count)}
    return report(rows)


# In a terminal.


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_the_table_fits_a_terminal(rich, width):
    lines = many(12).as_text(width=width).splitlines()
    assert max(map(len, lines)) <= width
    # No cell is cut off, and rows are single lines.
    table = lines[: next(i for i, line in enumerate(lines) if "layer_4" in line) + 1]
    assert "…" not in "".join(table)
    row = next(line for line in lines if line.startswith("model/layer_0/kernel"))
    assert row.split()[:3] == ["model/layer_0/kernel", "5.0e-01", "5.0e-01"]


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_a_wider_terminal_shows_more(rich):
    narrow, wide = (many(3).as_text(width=width) for width in (60, 200))
    assert "smallest" not in narrow
    assert "smallest" in wide
    assert "learning" in wide


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_what_ails_is_shown_in_a_narrow_terminal(rich):
    healthy = report().as_text(width=60)
    assert "frozen" not in healthy
    rows = {"a": statistics(frozen_share=0.125, stuck_share=0.9999), "b": statistics()}
    text = report(rows).as_text(width=60)
    row = next(line for line in text.splitlines() if line.startswith("a "))
    assert row.split()[3:5] == ["12.5%", ">99.9%"]


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_the_worst_few_are_shown_and_where_the_others_are(rich):
    text = many(12).as_text(width=100)
    # The ratio of layer 8 is nearest to 1e-3.
    assert re.findall(r"layer_(\d+)", text) == ["0", "1", "2", "3", "4"]
    assert "7 variables more" in text
    assert "`report.as_text(limit=None)`" in text
    assert "`report.variables`" in text
    everything = many(12).as_text(limit=None, width=100)
    assert len(re.findall(r"layer_\d+", everything)) == 12
    assert "more" not in everything


def test_str_and_repr_are_the_table(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    shown = many(12)
    assert str(shown) == repr(shown) == shown.as_text(width=70)


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_before_the_first_sample_it_says_when_that_is(rich):
    text = " ".join(unsampled(iterations=3, every=100).as_text(width=60).split())
    assert text == (
        "rmsprop, 3 steps. Nothing has been sampled yet: one step in 100 is, the first by step 103."
    )


def test_what_cannot_be_measured_is_said_with_the_reason():
    text = unsampled(reason="the engine is a subclass's own.").as_text(width=200)
    assert "Less is measured: the engine is a subclass's own." in text


def test_skipped_calls_are_counted_also_before_the_first_sample():
    assert "4 calls skipped" in unsampled(skipped_steps=4).as_text(width=200)
    sampled = report(skipped_steps=None, total=statistics(skipped=1))
    assert "1 call skipped" in sampled.as_text(width=200)


def test_clipped_and_not_finite_steps_are_counted():
    total = statistics(clipped=7, nonfinite=2, sampled=50)
    text = report(total=total, clip="norm").as_text(width=200)
    assert "Clipped in 7 of 50 sampled steps." in text
    assert "Gradients not finite in 2 of 50 sampled calls." in text
    assert "Clipped" not in report(total=total).as_text(width=200)


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_missing_numbers_are_dashes_with_their_reason(rich):
    rows = {
        "never": Statistics(),
        "broken": statistics(gradient_norm=math.nan, update_norm=math.nan),
        "start": statistics(weight_norm=0.0),
    }
    total = statistics(learning_rate=math.nan)
    text = report(rows, total=total).as_text(width=100)
    cells = {line.split()[0]: line.split()[1:4] for line in text.splitlines() if line}
    assert cells["never"] == ["-", "-", "-"]
    assert cells["broken"][:2] == ["-", "-"]
    assert cells["start"][0] == "inf"
    assert "nan" not in text
    assert "No gradient in any sampled step: never." in text
    assert "Gradient not finite in the last sample: broken." in text
    assert "Weights all 0 before the step, so the ratio says nothing: start." in text
    assert "No learning rate, because groups differ: all variables." in text


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_a_report_without_a_finite_number_is_shown(rich):
    text = not_finite().as_text(width=60)
    assert "missing" in {line.split(" ")[0] for line in text.splitlines()}
    assert "infinite" in text


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_a_path_is_neither_markup_nor_a_command_to_the_terminal(rich):
    text = report({NASTY: statistics()}, name=NASTY).as_text(width=200)
    row = next(line for line in text.splitlines() if line.startswith("model/<script>"))
    assert r"</script>/[red]\x1b[31m{%" in row
    assert r"</b>,\n/kernel" in row
    assert "\x1b" not in text


@pytest.mark.parametrize("rich", [True, False], ids="rich={}".format, indirect=True)
def test_the_end_of_a_long_path_is_shown(rich):
    long = "/".join(["transformer_block"] * 10) + "/kernel"
    text = report({long: statistics()}).as_text(width=60)
    row = next(line for line in text.splitlines() if line.startswith("…"))
    assert "block/kernel  " in row
    assert len(row) <= 60


def test_the_summary_is_printed_without_rich_too(monkeypatch, capsys):
    _tables.show(many(3))
    with_rich = capsys.readouterr().out
    monkeypatch.setattr(_tables, "find_spec", lambda _: None)
    _tables.show(many(3))
    for text in (with_rich, capsys.readouterr().out):
        assert "model/layer_0/kernel" in text


# In a notebook.


def test_a_notebook_shows_a_table_with_a_caption():
    table = Page(many(12)._repr_html_())
    head, *rows = table.rows
    assert head[:4] == ["variable", "update/ weight", "gradient norm", "frozen"]
    assert [row[0] for row in rows] == [
        "all variables",
        *(f"model/layer_{i}/kernel" for i in range(5)),
    ]
    assert {len(row) for row in table.rows} == {len(head)}
    assert rows[1][1] == "5.0e-01"
    assert "caption" in table.tags
    assert "Last sample: step 100" in table.text
    assert "7 variables more" in table.text
    assert "script" not in table.tags


def test_a_notebook_shows_no_numbers_before_the_first_sample():
    table = Page(unsampled()._repr_html_())
    assert table.rows == []
    assert "Nothing has been sampled yet" in table.text


def test_a_notebook_is_shown_paths_as_they_are():
    table = Page(report({NASTY: statistics()}, name=NASTY)._repr_html_())
    assert not {"script", "b"} & set(table.tags)
    assert table.rows[2][0] == NASTY.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert not any(
        "nan" in cell for row in Page(not_finite()._repr_html_()).rows for cell in row[1:]
    )
