"""Test what is said of a report, and that the page on ailments says the same."""

import math
from typing import Any

import pytest

from keras_rmsprop._diagnostics import _explanation
from keras_rmsprop._diagnostics._ailments import AILMENTS
from keras_rmsprop._diagnostics._explanation import WIDTH, Explanation, explain
from keras_rmsprop._diagnostics._report import Statistics
from tests.diagnostics.test_ailments import USUAL, report_of
from tests.tools import ailments_page, planted_runs
from tests.tools.healthy_runs import HEALTHY


def flat(explanation: Explanation) -> str:
    """The text without its line breaks."""
    return " ".join(str(explanation).split())


def test_a_healthy_training_is_described_with_its_numbers() -> None:
    *_, report = HEALTHY["spiral"]()
    total = report.total
    text = flat(explain(report))
    assert text.startswith("reference: 300 steps made, 300 of them sampled (every step).")
    assert "The learning rate is 0.001." in text
    assert f"all 4 variables together has the norm {total.gradient_norm:.3g}, and is not" in text
    ratio = f"{100 * total.update_ratio:.3g} % of their norm {total.weight_norm:.3g}"
    # Of one layer there is no range: the others are too small to be compared.
    assert f"moves the weights by {total.update_norm:.3g}, which is {ratio}. A guide" in text
    assert f"geometric mean, from {total.smallest_rate:.3g} to {total.largest_rate:.3g}" in text
    assert text.endswith("No ailment found.")


def test_before_the_first_sample_nothing_is_judged() -> None:
    text = flat(explain(report_of(Statistics(), total=Statistics(), iterations=7, every=100)))
    assert text == (
        "rmsprop: 7 steps made. Nothing has been sampled yet, so there is nothing to judge; one "
        "step in 100 is sampled."
    )


@pytest.mark.parametrize(
    ("first", "made", "sampled", "advised"),
    [
        (1, 81, 1, "8"),
        (1, 11, 1, "1"),
        (1501, 1901, 2, "190"),
        # After a load.
        (4501, 4581, 1, "8"),
        (1, 0, 1, None),
        (1, 50_000, 1, None),
        (1, 10, 1, None),
        (3001, 3999, 3, None),
    ],
)
def test_where_few_steps_were_sampled_more_are_advised(
    first: int, made: int, sampled: int, advised: str | None
) -> None:
    one = USUAL._replace(step=first, sampled=sampled)
    text = flat(explain(report_of(one, total=one, iterations=made, every=1500)))
    advice = f"In a short training pass `diagnostics=Diagnostics(every={advised})`."
    assert "every=" not in flat(explain(report_of(one, total=one, iterations=made, every=1)))
    if advised is None:
        assert "In a short training" not in text
    else:
        assert f"those of step {first:,}. {advice}" in text


def test_if_every_sampled_call_was_skipped_that_is_said() -> None:
    none = Statistics(skipped=3)
    explanation = explain(report_of(none, total=none, iterations=0, every=1, skipped_steps=3))
    assert [finding.ailment for finding in explanation] == ["batches skipped"]
    text = flat(explanation)
    assert text.startswith("rmsprop: 0 steps made. Nothing has been sampled yet")
    assert "3 sampled calls skipped. 1 warning: Warning: batches skipped 3 calls were" in text


def test_why_nothing_can_be_measured_is_said() -> None:
    report = report_of(Statistics(), total=Statistics(), reason="every step is the user's own")
    text = str(explain(report))
    assert text == "rmsprop: there is less to say, because every step is the user's own."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ". Clipping by global norm acted in 0 of 100 samples, and left this one as it is."),
        (
            {"clipped": 7, "clipped_gradient_norm": 0.5},
            ". Clipping by global norm acted in 7 of 100 samples, and left 0.5 of this one.",
        ),
    ],
)
def test_whether_clipping_acts_is_said(changes: dict[str, Any], words: str) -> None:
    report = report_of(USUAL._replace(**changes), clip="global_norm")
    assert f"The gradient has the norm 1{words}" in flat(explain(report))


def test_rates_of_groups_and_the_layers_at_both_ends_are_said() -> None:
    own = USUAL._replace(learning_rate=0.01, update_norm=0.5)
    total = USUAL._replace(learning_rate=math.nan)
    text = flat(explain(report_of(own, others=2, total=total)))
    assert "The learning rates are between 0.001 and 0.01." in text
    assert "; from 1 % (other_0/kernel) to 5 % (layer/kernel). A guide is 0.1 %, early" in text


def test_a_rate_that_has_fallen_is_compared_with_its_largest() -> None:
    own = USUAL._replace(learning_rate=0.0005)
    text = flat(explain(report_of(own)))
    assert "The learning rate is 0.0005; the largest sampled was 0.001." in text


def test_an_update_that_is_not_seen_is_not_judged() -> None:
    by_rule = ("update_norm", "largest_update", "mean_rate", "epsilon_share", "frozen_share")
    text = flat(explain(report_of(USUAL._replace(**dict.fromkeys(by_rule, math.nan)))))
    assert "How far the weights move is not known. No ailment found." in text


@pytest.mark.parametrize(
    ("warnings", "notes", "words"),
    [
        (1, 0, "1 warning:"),
        (1, 1, "1 warning and 1 note:"),
        (2, 2, "2 warnings and 2 notes:"),
        (0, 2, "No warning, but 2 notes:"),
        (0, 0, "No ailment found."),
    ],
)
def test_the_verdict_counts(warnings: int, notes: int, words: str) -> None:
    (warning,) = explain(report_of(USUAL._replace(frozen_share=0.1)))
    findings = [warning] * warnings + [warning._replace(severity="note")] * notes
    assert _explanation.verdict(report_of(), findings) == words


def test_the_text_fits_a_terminal_and_keeps_numbers_with_their_signs() -> None:
    *_, report = planted_runs.constant_gradient()
    lines = str(explain(report)).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert not any(line.strip().startswith("%") for line in lines)
    assert "\N{NO-BREAK SPACE}" not in str(explain(report))


def test_an_explanation_is_a_list_that_shows_as_text() -> None:
    explanation = explain(report_of(USUAL._replace(frozen_share=0.1, epsilon_share=1.0)))
    assert [finding.ailment for finding in explanation] == ["frozen weights"]
    assert explanation.warnings == list(explanation)
    assert repr(explanation) == str(explanation)
    finding = explanation[0]
    for text in (finding.evidence, finding.meaning, finding.advice):
        assert text in flat(explanation)


def test_markup_in_paths_stays_text() -> None:
    report = report_of(USUAL._replace(frozen_share=0.1), path="a*b*/<i>_x_/kernel")
    explanation = explain(report)
    markdown, html = explanation._repr_markdown_(), explanation._repr_html_()
    assert r"**Warning: frozen weights.** a\*b\*/\<i>\_x\_/kernel: 10 %" in markdown
    assert "`skip_nonfinite=True`" in markdown
    assert "<li><strong>Warning: frozen weights.</strong> a*b*/&lt;i&gt;_x_/kernel: 10 %" in html
    assert "<code>skip_nonfinite=True</code>" in html
    assert html.count("<ul>") == html.count("</ul>") == 1


def test_without_findings_there_is_no_list() -> None:
    explanation = explain(report_of())
    assert "<ul>" not in explanation._repr_html_()
    assert explanation._repr_markdown_().endswith("\n\nNo ailment found.\n")


def test_the_page_says_what_the_code_does() -> None:
    page = ailments_page.PAGE.read_text("utf-8")
    assert page == ailments_page.written(page), "run `python -m tests.tools.ailments_page`"
    for name in AILMENTS:
        assert f"### {name}\n" in page


def test_every_ailment_is_a_sentence_and_an_advice() -> None:
    for name, ailment in AILMENTS.items():
        assert name == name.strip()
        assert ailment.meaning[0].isupper() or ailment.meaning[0] == "`"
        assert ailment.meaning.endswith(".")
        assert ailment.advice[0].islower() or ailment.advice[0] in "`0"
        assert ailment.advice.endswith(".")
        assert set(ailment.explained_by) <= set(AILMENTS)
