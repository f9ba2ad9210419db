"""Test the page of a training: what it says and draws, and that it needs nothing else."""

import json
import math
import re

import pytest
from plotly.offline import get_plotlyjs

from keras_rmsprop._diagnostics import _page
from keras_rmsprop._diagnostics._report import Statistics
from tests.tools.html import Page
from tests.tools.reports import DEAD, NASTY, not_finite, report, statistics, unsampled

CHARTS = ["ratios", "norms", "rates", "layers", "shares", "counts"]


def training(steps=(10, 20, 30), **changed):
    """Reports in which the weights' norm is the step."""
    rows = {
        step: {
            "model/kernel": statistics(step, weight_norm=float(step), **changed),
            "model/bias": statistics(step),
        }
        for step in steps
    }
    return [report(rows[step], step=step, total=rows[step]["model/kernel"]) for step in steps]


def page_of(reports, findings=(), last=None, description="RMSprop"):
    return _page.page(reports, last or reports[-1], findings, description)


def figures(source):
    """The traces, layout and configuration of each chart, as a browser reads them."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    decoder = json.JSONDecoder(parse_constant=refuse)
    found = {}
    for script in Page(source).scripts[1:]:
        call = re.search(r'Plotly\.newPlot\(\s*"chart-(\w+)",\s*', script)
        at, values = call.end(), []
        for _ in range(3):
            value, at = decoder.raw_decode(script, at)
            values.append(value)
            at += len(re.match(r",?\s*", script[at:])[0])
        found[call[1]] = tuple(values)
    return found


def traces(source, chart):
    return {trace["name"]: trace for trace in figures(source)[chart][0] if "name" in trace}


# What it needs.


def test_the_page_loads_nothing():
    page = Page(page_of(training(), [DEAD]))
    assert not {"link", "iframe", "img", "object", "embed"} & set(page.tags)
    assert not {"src", "href", "srcset", "onload"} & {name for name, _ in page.attributes}
    assert not any("@import" in text or "url(" in text for text in [_page._STYLE])
    assert page.tags.count("script") == 1 + len(CHARTS)
    assert ("charset", "utf-8") in page.attributes


def test_no_button_of_a_chart_sends_data_away():
    for _, _, configuration in figures(page_of(training())).values():
        assert configuration["showSendToCloud"] is False
        assert configuration["displaylogo"] is False
        assert "plotlyServerURL" not in configuration


def test_a_long_training_of_many_layers_is_a_small_page():
    rows = {f"model/layer_{i}/kernel": statistics(mean_rate=0.1 / 3.0) for i in range(200)}
    reports = [
        report(
            {
                path: row._replace(step=step, update_norm=1.0 / (3.0 + step))
                for path, row in rows.items()
            },
            step=step,
        )
        for step in range(1, 1001)
    ]
    assert len(page_of(reports)) - len(get_plotlyjs()) < 2_000_000


# What it says.


def test_the_findings_come_first_and_in_words():
    text = Page(page_of(training(), [DEAD])).text
    assert "What is wrong: 1 warning" in text
    parts = ["dead gradients", "In model/kernel", DEAD.evidence, DEAD.meaning, DEAD.advice]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert places[-1] < text.index("Size of the updates")


def test_advice_is_said_to_be_advice_and_code_is_set_as_code():
    advised = DEAD._replace(evidence="5 < 6", advice="use `clipnorm=1.0` or <b>")
    source = page_of(training(), [advised])
    assert "<p>5 &lt; 6.</p>" in source
    assert "What to do: use <code>clipnorm=1.0</code> or &lt;b&gt;</p>" in source


def test_warnings_come_before_notes():
    note = DEAD._replace(ailment="cold averages", severity="note", variables=())
    text = Page(page_of(training(), [note, DEAD, note])).text
    assert "What is wrong: 1 warning and 2 notes" in text
    assert text.index("Warning: dead gradients") < text.index("Note: cold averages")


def test_a_finding_in_many_variables_names_a_few():
    many = DEAD._replace(variables=tuple(f"layer_{i}" for i in range(30)))
    text = Page(page_of(training(), [many])).text
    assert "layer_7 and 22 more" in text
    assert "layer_8" not in text


def test_a_healthy_training_is_said_to_be_healthy():
    text = Page(page_of(training())).text
    assert "What is wrong: nothing found" in text
    assert "No known ailment shows in the last sample." in text


def test_without_explanations_nothing_is_said_to_be_healthy():
    assert "What is wrong" not in Page(page_of(training(), None)).text


def test_the_last_report_and_the_optimizer_are_shown():
    page = Page(page_of(training(), last=report(step=40), description="w <- w - lr * g / r"))
    assert [row[0] for row in page.rows[1:]] == ["all variables", "model/kernel", "model/bias"]
    assert "Last sample: step 40" in page.text
    assert "w <- w - lr * g / r" in page.text


def test_before_the_first_sample_there_are_no_charts_and_no_numbers():
    page = Page(page_of([], last=unsampled()))
    assert "Nothing has been sampled yet" in page.text
    assert "No known ailment" not in page.text
    assert page.rows == []
    assert page.scripts == []


def test_paths_and_words_are_escaped_everywhere():
    def of(path):
        rows = {path: statistics(10, frozen_share=1.0), "b": statistics(10)}
        finding = DEAD._replace(ailment=path, variables=(path,), evidence=path, advice=path)
        shown = report(rows, step=10, name=path)
        return page_of([shown], [finding], description=path)

    nasty, harmless = Page(of(NASTY)), Page(of("path"))
    assert nasty.tags == harmless.tags
    assert "<script>alert(1)</script>" in nasty.text
    shown = NASTY.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert shown in [row[0] for row in nasty.rows]
    texts = json.dumps(figures(of(NASTY)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in texts
    assert "<b>" not in texts
    # Only to group traces, which nobody sees.
    drawn = [trace for data, _, _ in figures(of(NASTY)).values() for trace in data]
    for trace in drawn:
        trace.pop("legendgroup", None)
    assert "<script>" not in json.dumps(drawn)


# What it draws.


def test_all_charts_are_there_with_labelled_axes():
    found = figures(page_of(training()))
    assert list(found) == CHARTS
    for name, (data, layout, _) in found.items():
        assert data, name
        assert layout["xaxis"]["title"]["text"] == "optimizer step"
        if name != "layers":
            assert layout["yaxis"]["title"]["text"], name
    unit = found["layers"][0][0]["colorbar"]["title"]["text"]
    assert "weight per unit of gradient" in unit


def test_the_ratios_of_the_whole_and_the_layers_are_drawn_over_steps():
    source = page_of(training())
    drawn = traces(source, "ratios")
    assert list(drawn) == ["all variables", "model/kernel", "model/bias"]
    want = [float(f"{2.0**-9 / step:.4g}") for step in (10, 20, 30)]
    assert drawn["model/kernel"]["x"] == [10, 20, 30]
    assert drawn["model/kernel"]["y"] == want
    assert drawn["model/bias"]["y"] == [pytest.approx(2.0**-10, rel=1e-3)] * 3
    _, layout, _ = figures(source)["ratios"]
    assert layout["yaxis"]["type"] == "log"
    assert layout["shapes"][0]["y0"] == layout["shapes"][0]["y1"] == 1e-3


def test_the_guide_is_named_in_the_legend():
    _, layout, _ = figures(page_of(training()))["ratios"]
    (guide,) = layout["shapes"]
    assert guide["showlegend"]
    assert guide["name"] == "usual: 0.001"


def test_marks_are_explained_where_there_are_any():
    triangle, cross = "A triangle at the bottom", "A cross at the top"
    healthy, still = (Page(page_of(training(**rows))).text for rows in ({}, {"update_norm": 0.0}))
    assert triangle not in healthy
    assert cross not in healthy
    # Of the ratios, and of the norms.
    assert still.count(triangle) == 2
    assert cross not in still
    assert cross in Page(page_of([not_finite()])).text


def test_further_layers_wait_in_the_legend():
    rows = {f"layer_{i}": statistics(10, update_norm=2.0**i) for i in range(10)}
    drawn = traces(page_of([report(rows, step=10)]), "ratios")
    shown = [name for name, trace in drawn.items() if trace.get("visible") != "legendonly"]
    assert shown == ["all variables", *(f"layer_{i}" for i in range(9, 3, -1))]
    assert len(drawn) == 11


def test_a_layer_that_fell_ill_and_is_well_again_is_shown():
    healthy = {f"layer_{i}": statistics() for i in range(20)}
    ill = {**healthy, "layer_17": statistics(frozen_share=1.0)}
    reports = [report(rows, step=step) for step, rows in ((1, ill), (2, ill), (3, healthy))]
    assert "visible" not in traces(page_of(reports), "ratios")["layer_17"]


def test_a_layer_is_drawn_where_it_was_measured():
    rows = [
        {"a": statistics(step), "b": statistics(last) if last else Statistics()}
        for step, last in ((10, 0), (20, 15), (30, 15), (40, 40))
    ]
    reports = [report(row, step=row["a"].step) for row in rows]
    assert traces(page_of(reports), "ratios")["b"]["x"] == [15, 40]


def test_zeros_and_what_is_not_finite_are_marked_on_a_logarithmic_axis():
    reports = [
        report({"a": statistics(step, update_norm=value)}, step=step)
        for step, value in ((10, 1.0), (20, 0.0), (30, math.nan), (40, math.inf), (50, 2.0))
    ]
    drawn = traces(page_of(reports), "ratios")
    assert drawn["a: 0"]["x"] == [20]
    assert drawn["a: 0"]["y"][0] < 2.0**-10
    assert drawn["a: not finite"]["x"] == [30, 40]
    assert drawn["a: not finite"]["y"][0] > 1.0
    # The line goes down to the 0, and has gaps where nothing can be drawn.
    assert drawn["a"]["y"] == [0.5, drawn["a: 0"]["y"][0], None, None, 1.0]


def test_the_norm_after_clipping_is_drawn_where_gradients_are_clipped():
    clipped = [each._replace(clip="norm") for each in training()]
    assert traces(page_of(clipped), "norms")["gradient after clipping"]["y"] == [0.25] * 3
    assert "gradient after clipping" not in traces(page_of(training()), "norms")


def test_where_groups_differ_the_largest_learning_rate_is_drawn():
    rows = {"a": statistics(10, learning_rate=0.5), "b": statistics(10, learning_rate=0.25)}
    total = statistics(10, learning_rate=math.nan)
    drawn = traces(page_of([report(rows, step=10, total=total)]), "rates")
    assert drawn["learning rate (weight per step)"]["y"] == [0.5]


def test_the_band_of_effective_rates_has_gaps_where_they_are_not_known():
    rates = [(1.0, 8.0), (2.0, 8.0), (math.nan, 8.0), (4.0, 8.0)]
    reports = [
        report(step=step, total=statistics(step, smallest_rate=low, largest_rate=high))
        for step, (low, high) in enumerate(rates, start=1)
    ]
    band = traces(page_of(reports), "rates")["band"]
    assert band["x"] == [1, 2, 2, 1, None, 4, 4, None]
    assert band["y"] == [1.0, 2.0, 8.0, 8.0, None, 4.0, 8.0, None]


def test_the_map_has_a_row_for_each_layer_and_gaps():
    rows = {"a": statistics(10, mean_rate=1e-2), "b": statistics(10, mean_rate=0.0)}
    later = {**rows, "a": statistics(20, mean_rate=1e-5), "c": Statistics()}
    (trace,), layout, _ = figures(page_of([report(rows, step=10), report(later, step=20)]))[
        "layers"
    ]
    assert trace["x"] == [10, 20]
    assert trace["y"] == ["a", "b", "c"]
    assert trace["z"] == [[-2.0, -5.0], [None, None], [None, None]]
    assert layout["yaxis"]["ticktext"] == ["a", "b", "c"]


def test_shares_are_drawn_of_the_whole_and_of_the_worst_variable():
    rows = {"a": statistics(10, frozen_share=0.25), "b": Statistics()}
    total = statistics(10, frozen_share=0.125)
    drawn = traces(page_of([report(rows, step=10, total=total)]), "shares")
    assert drawn["frozen: average not finite"]["y"] == [12.5]
    assert drawn["frozen: average not finite, at worst"]["y"] == [25.0]


def test_counts_are_drawn():
    total = statistics(10, sampled=9, clipped=4, nonfinite=3, skipped=2)
    drawn = traces(page_of([report(step=10, total=total)]), "counts")
    assert {name: trace["y"] for name, trace in drawn.items()} == {
        "sampled steps": [9],
        "clipped": [4],
        "gradient not finite": [3],
        "sampled calls skipped": [2],
    }


def test_a_training_without_a_finite_number_is_drawn():
    source = page_of([not_finite(10), not_finite(20)])
    assert traces(source, "norms")["gradient: not finite"]["x"] == [10, 20]
    assert list(figures(source)) == CHARTS


def test_one_report_is_drawn_as_points():
    assert "markers" in traces(page_of(training((10,))), "ratios")["all variables"]["mode"]
