"""Test TensorBoard's files, as TensorBoard reads them."""

import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_rmsprop._diagnostics import _events, _flat
from keras_rmsprop._diagnostics._report import Histograms, Statistics
from keras_rmsprop._math._statistics import EDGES
from tests.tools.reports import NASTY, histograms, not_finite, report, statistics


def write(folder, *reports, start=0):
    file = _events.EventFile(folder, "rmsprop", start)
    for each in reports:
        file.write(each, each.variables)
    file.close()


def read(folder, run="optimizer"):
    """What TensorBoard finds in a run, without leaving out any value."""
    accumulator = EventAccumulator(str(folder / run), {"scalars": 0, "histograms": 0})
    return accumulator.Reload()


def values(accumulator, tag):
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_scalars_have_the_keys_of_flat_and_the_optimizer_s_steps(tmp_path):
    first = report(step=10, total=statistics(10, gradient_norm=3.0))
    second = report(step=20)
    write(tmp_path, first, second)
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == set(first.flat(".*")) - {"rmsprop/step"}
    assert values(found, "rmsprop/gradient_norm") == [(10, 3.0), (20, 0.5)]
    assert values(found, "rmsprop/model/bias/update_ratio") == [(10, 2.0**-10), (20, 2.0**-10)]


def test_only_chosen_variables_are_written(tmp_path):
    file = _events.EventFile(tmp_path, "rmsprop", 0)
    file.write(report(), ["model/bias"])
    file.close()
    tags = read(tmp_path).Tags()["scalars"]
    assert any("model/bias" in tag for tag in tags)
    assert not any("model/kernel" in tag for tag in tags)


def test_events_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    file = _events.EventFile(tmp_path, "rmsprop", 0)
    file.write(report(), [])
    assert values(read(tmp_path), "rmsprop/gradient_norm") == [(100, 0.5)]
    file.close()


def test_optimizers_of_other_names_have_runs_and_keys_of_their_own(tmp_path):
    # Each file hides what earlier ones of its run say of later steps.
    runs = {
        "rmsprop": "optimizer",
        "généré": "optimizer_généré",
        "a/b c": "optimizer_a%2Fb c",
        "a%2Fb c": "optimizer_a%252Fb c",
    }
    for steps, start in (((10, 20), 0), ((20, 30), 10)):
        files = [_events.EventFile(tmp_path, name, start) for name in runs]
        for step in steps:
            for name, file in zip(runs, files, strict=True):
                file.write(report(name=name, step=step), [])
        for file in files:
            file.close()
    assert {each.name for each in tmp_path.iterdir()} == {*runs.values()}
    for name, run in runs.items():
        found = read(tmp_path, run)
        assert [step for step, _ in values(found, f"{name}/gradient_norm")] == [10, 20, 30]


def test_a_value_that_was_not_measured_again_is_not_repeated(tmp_path):
    late = report({"a": statistics(20), "b": statistics(10), "c": Statistics()}, step=20)
    early = report({"a": statistics(10), "b": statistics(10), "c": Statistics()}, step=10)
    write(tmp_path, early, late, late)
    found = read(tmp_path)
    assert [step for step, _ in values(found, "rmsprop/gradient_norm")] == [10, 20]
    assert [step for step, _ in values(found, "rmsprop/a/gradient_norm")] == [10, 20]
    assert [step for step, _ in values(found, "rmsprop/b/gradient_norm")] == [10]
    assert not any("/c/" in tag for tag in found.Tags()["scalars"])


def test_infinite_numbers_are_written_and_nan_is_left_out(tmp_path):
    write(tmp_path, not_finite())
    found = read(tmp_path)
    assert values(found, "rmsprop/infinite/gradient_norm") == [(100, math.inf)]
    assert "rmsprop/missing/gradient_norm" not in found.Tags()["scalars"]
    assert values(found, "rmsprop/missing/nonfinite") == [(100, 1.0)]


def test_any_path_is_a_tag(tmp_path):
    write(tmp_path, report({NASTY: statistics()}))
    assert values(read(tmp_path), f"rmsprop/{NASTY}/gradient_norm") == [(100, 0.5)]


# Histograms.


def trimmed(counts):
    """Counts from the first to the last that is not 0, which TensorBoard shows, and where it is."""
    full = np.flatnonzero(counts)
    return list(counts[full[0] : full[-1] + 1]), full[0]


def test_histograms_have_the_bins_and_counts_of_the_report(tmp_path):
    given = {"model/kernel": histograms(1), "model/bias": histograms(2)}
    write(tmp_path, report(histograms=given))
    found = read(tmp_path)
    assert set(found.Tags()["histograms"]) == {
        f"rmsprop{path}/log10_{name}"
        for path in ("", "/model/kernel", "/model/bias")
        for name in Histograms._fields
    }
    for path, own in given.items():
        for name, counts in own._asdict().items():
            (event,) = found.Histograms(f"rmsprop/{path}/log10_{name}")
            assert event.step == 100
            want, first = trimmed(counts)
            got, offset = trimmed(event.histogram_value.bucket)
            assert got == want
            # The edge after the first bin, and so on; the last bin has none.
            edges = event.histogram_value.bucket_limit[offset : offset + len(got) - 1]
            inside = np.log10(EDGES)[first : first + len(got) - 1]
            np.testing.assert_allclose(edges, inside, rtol=1e-6)


def test_the_histogram_of_the_whole_is_the_sum(tmp_path):
    given = {"model/kernel": histograms(1), "model/bias": histograms(2)}
    write(tmp_path, report(histograms=given))
    (event,) = read(tmp_path).Histograms("rmsprop/log10_rates")
    want = given["model/kernel"].rates + given["model/bias"].rates
    assert trimmed(event.histogram_value.bucket)[0] == trimmed(want)[0]


def test_the_outermost_bins_are_drawn_as_wide_as_the_others(tmp_path):
    counts = np.zeros(len(EDGES) + 1, int)
    counts[0] = counts[-1] = 1
    value = _events._histogram("tag", "", counts).histo
    assert (value.min, value.max) == pytest.approx((-12.5, 3.5))
    assert value.bucket_limit[:2] == pytest.approx([-12.0, -11.5])
    assert len(value.bucket_limit) == len(value.bucket) == len(counts)


def test_an_empty_histogram_is_written(tmp_path):
    nothing = Histograms(*np.zeros((2, len(EDGES) + 1)))
    write(tmp_path, report(histograms={"model/kernel": nothing}))
    (event,) = read(tmp_path).Histograms("rmsprop/model/kernel/log10_rates")
    assert sum(event.histogram_value.bucket) == 0


# Several files.


def test_a_resumed_training_replaces_what_it_makes_again(tmp_path):
    write(tmp_path, *(report(step=step) for step in (10, 20, 30, 40)))
    write(tmp_path, report(step=30, total=statistics(30, gradient_norm=7.0)), start=20)
    found = values(read(tmp_path), "rmsprop/gradient_norm")
    assert found == [(10, 0.5), (20, 0.5), (30, 7.0)]


def test_a_training_that_goes_on_extends_the_run(tmp_path):
    write(tmp_path, report(step=10), report(step=20))
    write(tmp_path, report(step=30), start=20)
    assert [step for step, _ in values(read(tmp_path), "rmsprop/gradient_norm")] == [10, 20, 30]


def test_files_of_the_same_second_are_read_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(_events.time, "time", lambda: 1.7e9)
    for step in range(10, 140, 10):
        write(tmp_path, report(step=step), start=step - 10)
    assert len(list((tmp_path / _events.RUN).iterdir())) == 13
    found = values(read(tmp_path), "rmsprop/gradient_norm")
    assert [step for step, _ in found] == list(range(10, 140, 10))


def test_what_is_logged_has_a_name_in_the_report():
    assert {*_flat.OF_ONE} < {*_flat.OF_ALL} < {*dir(Statistics)}
