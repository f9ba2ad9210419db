"""Test the CSV file, as pandas reads it."""

import math

import numpy as np
import pandas as pd
import pytest

from keras_rmsprop._diagnostics import _rows
from keras_rmsprop._diagnostics._report import Statistics
from tests.tools.reports import NASTY, not_finite, report, statistics


def write(path, *reports, start=0):
    file = _rows.RowFile(path, start)
    for each in reports:
        file.write(each, each.variables)
    file.close()


def steps(path):
    """The steps of the rows of all variables together."""
    table = pd.read_csv(path)
    return table[table.variable == "(all)"].step.tolist()


def test_pandas_reads_the_numbers(tmp_path):
    total = statistics(10, gradient_norm=0.1, clipped=2)
    write(tmp_path / "f.csv", report(step=10, total=total), report(step=20))
    table = pd.read_csv(tmp_path / "f.csv")
    assert table.step.tolist() == [10] * 3 + [20] * 3
    assert table.variable.tolist() == ["(all)", "model/kernel", "model/bias"] * 2
    assert table.gradient_norm.dtype == np.float64
    assert table.gradient_norm.tolist() == [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert table.update_ratio.tolist() == [2.0**-10] * 6
    assert table.clipped_share[0] == 0.4
    names = {*Statistics._fields, "update_ratio", "clipped_share", "variable"}
    assert set(table.columns) == names


def test_numbers_keep_the_digits_of_a_float32(tmp_path):
    values = np.random.default_rng(0).lognormal(0.0, 30.0, 50).astype("float32")
    rows = {str(i): statistics(gradient_norm=float(x)) for i, x in enumerate(values)}
    write(tmp_path / "f.csv", report(rows))
    table = pd.read_csv(tmp_path / "f.csv")
    np.testing.assert_array_equal(table.gradient_norm[1:].astype("float32"), values)


def test_only_chosen_variables_are_written(tmp_path):
    file = _rows.RowFile(tmp_path / "f.csv", 0)
    file.write(report(), ["model/bias"])
    file.close()
    assert pd.read_csv(tmp_path / "f.csv").variable.tolist() == ["(all)", "model/bias"]


def test_a_variable_without_a_new_gradient_has_no_new_row(tmp_path):
    def at(step, last):
        return report({"a": statistics(step), "b": statistics(last)}, step=step)

    never = report({"a": Statistics()}, step=10)
    write(tmp_path / "f.csv", never, at(20, 20), at(40, 20), at(60, 50))
    table = pd.read_csv(tmp_path / "f.csv").groupby("variable").step.apply(list)
    assert table["a"] == [20, 40, 60]
    assert table["b"] == [20, 50]


def test_numbers_that_are_not_finite_are_read_as_such(tmp_path):
    write(tmp_path / "f.csv", not_finite())
    table = pd.read_csv(tmp_path / "f.csv").set_index("variable")
    assert math.isnan(table.gradient_norm["missing"])
    assert table.gradient_norm["infinite"] == math.inf
    assert "never" not in table.index


def test_any_path_is_read_back(tmp_path):
    write(
        tmp_path / "f.csv",
        report({NASTY: statistics()}),
        report({NASTY: statistics(200)}, step=200),
    )
    assert pd.read_csv(tmp_path / "f.csv").variable.tolist() == ["(all)", NASTY] * 2
    write(tmp_path / "f.csv", report({NASTY: statistics(300)}, step=300), start=200)
    assert pd.read_csv(tmp_path / "f.csv").variable.tolist() == ["(all)", NASTY] * 3


def test_rows_are_in_the_file_as_soon_as_they_are_written(tmp_path):
    file = _rows.RowFile(tmp_path / "f.csv", 0)
    file.write(report(step=10), [])
    assert steps(tmp_path / "f.csv") == [10]
    file.close()


def test_a_resumed_training_extends_its_file(tmp_path):
    write(tmp_path / "f.csv", report(step=10), report(step=20))
    before = (tmp_path / "f.csv").read_text()
    write(tmp_path / "f.csv", report(step=20), report(step=30), start=20)
    assert (tmp_path / "f.csv").read_text().startswith(before)
    assert (tmp_path / "f.csv").read_text().count("step") == 1
    assert steps(tmp_path / "f.csv") == [10, 20, 30]


def test_rows_after_the_checkpoint_are_replaced(tmp_path):
    write(tmp_path / "f.csv", *(report(step=step) for step in (10, 20, 30, 40)))
    write(tmp_path / "f.csv", report(step=30, total=statistics(30, gradient_norm=7.0)), start=25)
    assert steps(tmp_path / "f.csv") == [10, 20, 30]
    table = pd.read_csv(tmp_path / "f.csv")
    assert table[table.step == 30].gradient_norm.tolist() == [7.0, 0.5, 0.5]


def test_a_training_from_the_start_replaces_all_rows(tmp_path):
    write(tmp_path / "f.csv", report(step=10), report(step=20))
    write(tmp_path / "f.csv", report(step=10))
    assert steps(tmp_path / "f.csv") == [10]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_row_that_was_cut_off_is_dropped(tmp_path, cut):
    path = tmp_path / "f.csv"
    write(path, report(step=10), report(step=20))
    whole = path.read_text()
    path.write_text(whole[:-cut])
    write(path, report(step=30), start=20)
    table = pd.read_csv(path)
    assert table[table.step == 20].variable.tolist() == ["(all)", "model/kernel"]
    assert steps(path) == [10, 20, 30]


@pytest.mark.parametrize("kept", [0, 10])
def test_a_header_that_was_cut_off_is_written_again(tmp_path, kept):
    path = tmp_path / "f.csv"
    path.write_text(",".join(_rows.HEADER)[:kept])
    write(path, report(step=10))
    assert steps(path) == [10]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"notes", b"\xff\xfe\x00"])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"`csv` must be a new file.*mine\.csv.*Give it another name"
    ):
        _rows.RowFile(path, 0)
    assert path.read_bytes() == content
