"""Test the callback in `fit` and in loops: when it reads, and what it writes."""

import errno
import functools
import inspect
import logging
import os
import re
import shutil
import types

import keras
import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_rmsprop
from keras_rmsprop import callbacks
from keras_rmsprop._diagnostics import _files
from keras_rmsprop.callbacks import OptimizerDiagnostics
from tests.conftest import BACKEND
from tests.tools import models
from tests.tools.html import Page
from tests.tools.reports import DEAD, EVERY, Reporting

# `fit` makes 4 steps an epoch, of which every second is sampled.
assert (models.BATCHES, EVERY) == (4, 2)

has_diagnostics = pytest.mark.skipif(
    "diagnostics" not in inspect.signature(keras_rmsprop.RMSprop).parameters,
    reason="this RMSprop has no argument `diagnostics`",
)


def fit(callback, optimizer=None, *, epochs=2, others=(), **compiling):
    """Train a small model, and return the optimizer."""
    optimizer = optimizer or Reporting()
    model = models.model()
    models.fit(model, optimizer, epochs=epochs, callbacks=[callback, *others], **compiling)
    return optimizer


def train(callback, optimizer=None, *, epochs=2, others=()):
    """Call what `fit` calls, around steps without a model, which need no compilation."""
    optimizer = optimizer or Reporting()
    everything = keras.callbacks.CallbackList([callback, *others])
    everything.set_model(types.SimpleNamespace(optimizer=optimizer))
    everything.on_train_begin()
    for epoch in range(epochs):
        everything.on_epoch_begin(epoch)
        for batch in range(models.BATCHES):
            step(optimizer)
            everything.on_train_batch_end(batch)
        everything.on_epoch_end(epoch)
    everything.on_train_end()
    return optimizer


def steps_of(history):
    return [report.total.step for report in history]


def rows_of(path):
    """The steps of the rows of all variables together."""
    table = pd.read_csv(path)
    return table[table.variable == "(all)"].step.tolist()


def events_of(folder, name="rmsprop", run="optimizer"):
    """The steps and gradient norms of all variables together."""
    accumulator = EventAccumulator(str(folder / run), {"scalars": 0}).Reload()
    tag = f"{name}/gradient_norm"
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def step(optimizer, count=1):
    """Make steps without a model."""
    if not optimizer.built:
        optimizer.build([keras.Variable([1.0], name="w")])
    for _ in range(count):
        optimizer.apply([keras.ops.convert_to_tensor([1.0])])


class Raising(keras.callbacks.Callback):
    """Raises an error after the batch of a number, counted from the start."""

    def __init__(self, error, batch):
        super().__init__()
        self.error, self.left = error, batch

    def on_train_batch_end(self, *_, **__):
        """Count, and raise the error when its time has come."""
        self.left -= 1
        if self.left == 0:
            raise self.error


# What it writes.


def test_fit_writes_everything(tmp_path):
    logged = []
    fit(
        OptimizerDiagnostics(
            tensorboard=tmp_path / "logs",
            csv=tmp_path / "run.csv",
            html=tmp_path / "run.html",
            log=logged.append,
        )
    )
    # The gradient norm of a hand-made report is its step.
    steps = [2, 4, 6, 8]
    assert events_of(tmp_path / "logs") == [(step, step) for step in steps]
    assert rows_of(tmp_path / "run.csv") == steps
    assert pd.read_csv(tmp_path / "run.csv").variable.unique().tolist() == [
        "(all)",
        "kernel",
        "bias",
    ]
    assert [values["rmsprop/step"] for values in logged] == steps
    assert [values["rmsprop/kernel/gradient_norm"] for values in logged] == steps
    page = Page((tmp_path / "run.html").read_text("utf-8"))
    assert "Last sample: step 8" in page.text
    assert "Reporting: w <- w - lr * g / r" in page.text
    assert '"x":[2,4,6,8]' in page.scripts[1]


def test_without_a_place_to_write_to_it_keeps_the_history():
    callback = OptimizerDiagnostics()
    train(callback)
    assert steps_of(callback.history) == [2, 4, 6, 8]
    assert callback.history[1].total.gradient_norm == 4.0


@pytest.mark.parametrize(
    ("every", "want"), [(None, [2, 4, 6, 8]), (1, [2, 4, 6, 8]), (3, [2, 4, 6, 8]), (4, [4, 8])]
)
def test_it_reads_after_so_many_batches_and_at_the_end_of_an_epoch(every, want):
    callback = OptimizerDiagnostics(every)
    fit(callback)
    assert steps_of(callback.history) == want


def test_between_readings_it_does_not_read():
    optimizer = fit(OptimizerDiagnostics(every=1000))
    # At the start, at the end of each of 2 epochs, and at the end.
    assert optimizer.reads == 4


@pytest.mark.skipif(BACKEND == "torch", reason="Keras on torch executes steps one by one")
def test_batches_are_counted_if_several_are_executed_at_once():
    callback = OptimizerDiagnostics(every=4)
    optimizer = fit(callback, steps_per_execution=2)
    assert steps_of(callback.history) == [4, 8]
    # At the start, after the second execution of each epoch and at its end, and at the end.
    assert optimizer.reads == 1 + 2 * 2 + 1
    each = OptimizerDiagnostics(every=2)
    fit(each, steps_per_execution=2)
    assert steps_of(each.history) == [2, 4, 6, 8]


def test_the_variables_of_a_pattern_are_written(tmp_path):
    callback = OptimizerDiagnostics(csv=tmp_path / "run.csv", variables="ker.*")
    train(callback)
    assert set(pd.read_csv(tmp_path / "run.csv").variable) == {"(all)", "kernel"}


def test_a_pattern_that_matches_nothing_is_refused_before_the_first_step_of_fit():
    # On TensorFlow the optimizer is built during the first one.
    optimizer = keras_rmsprop.RMSprop(diagnostics=True)
    with pytest.raises(ValueError, match="No variable of the optimizer matches 'nothing'"):
        fit(OptimizerDiagnostics(variables="nothing"), optimizer)
    assert int(optimizer.iterations) == 0


def test_a_name_that_is_too_long_for_a_folder_is_an_error_when_training_starts(tmp_path):
    late = Raising(AssertionError("late"), 1)
    with pytest.raises(OSError, match="too long"):
        train(OptimizerDiagnostics(tensorboard=tmp_path), Reporting(name="x" * 300), others=[late])


def test_a_page_that_cannot_be_written_is_an_error_when_training_starts(tmp_path, monkeypatch):
    def refuse(path, *arguments, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(PermissionError):
        train(
            OptimizerDiagnostics(html=tmp_path / "run.html"),
            others=[Raising(AssertionError("late"), 1)],
        )


@pytest.mark.parametrize("name", ["csv", "html", "tensorboard"])
def test_a_folder_that_cannot_be_made_is_an_error_when_training_starts(tmp_path, name, monkeypatch):
    def refuse(*arguments, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied")

    callback = OptimizerDiagnostics(**{name: tmp_path / "folder" / "run"})
    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(PermissionError):
        train(callback)


def test_a_pattern_that_matches_nothing_is_refused_when_training_starts():
    with pytest.raises(ValueError, match="No variable of the optimizer matches 'dense'"):
        train(OptimizerDiagnostics(variables="dense"), others=[Raising(AssertionError("late"), 1)])


def test_by_default_the_worst_few_variables_are_written(tmp_path):
    paths = tuple(f"layer_{i}" for i in range(12))
    train(OptimizerDiagnostics(csv=tmp_path / "run.csv"), Reporting(paths))
    assert set(pd.read_csv(tmp_path / "run.csv").variable) == {"(all)", *paths[:5]}


def test_histograms_are_written(tmp_path):
    from tests.tools.reports import histograms

    optimizer = Reporting()
    optimizer.histograms = {"kernel": histograms()}
    train(OptimizerDiagnostics(tensorboard=tmp_path), optimizer)
    tags = EventAccumulator(str(tmp_path / "optimizer")).Reload().Tags()["histograms"]
    assert "rmsprop/kernel/log10_update_ratios" in tags


def test_two_optimizers_share_a_folder_and_a_logger(tmp_path):
    logged = []
    optimizers = [Reporting(name=name) for name in ("generator", "discriminator")]
    callbacks = [
        OptimizerDiagnostics(tensorboard=tmp_path, log=logged.append, optimizer=optimizer)
        for optimizer in optimizers
    ]
    with callbacks[0], callbacks[1]:
        for count in (2, 4, 2):
            for optimizer, callback in zip(optimizers, callbacks, strict=True):
                step(optimizer, count)
                callback.read()
    for name in ("generator", "discriminator"):
        events = events_of(tmp_path, name, f"optimizer_{name}")
        assert events == [(2, 2.0), (6, 6.0), (8, 8.0)]
    assert [sum(f"{each.name}/step" in x for x in logged) for each in optimizers] == [3, 3]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's callback needs TensorFlow")
def test_the_folder_of_keras_s_tensorboard_is_shared(tmp_path):
    theirs = keras.callbacks.TensorBoard(tmp_path, update_freq="batch")
    fit(OptimizerDiagnostics(tensorboard=tmp_path), others=[theirs])
    assert {each.name for each in tmp_path.iterdir()} >= {"train", "optimizer"}
    assert [step for step, _ in events_of(tmp_path)] == [2, 4, 6, 8]


# Functions that log.


def logs_like_wandb(data, step=None, commit=None):
    return ("wandb", data["rmsprop/step"], step)


def logs_by_keyword_only(metrics, *, step):
    return ("keyword", metrics["rmsprop/step"], step)


def logs_by_position(metrics, iteration):
    return ("position", metrics["rmsprop/step"], iteration)


def logs_without_step(metrics, **tags):
    assert not tags
    return ("without", metrics["rmsprop/step"], None)


@pytest.mark.parametrize(
    ("function", "gets_step"),
    [
        (logs_like_wandb, True),
        (logs_by_keyword_only, True),
        (logs_by_position, True),
        (logs_without_step, False),
        (functools.partial(logs_like_wandb, commit=True), True),
    ],
)
def test_a_function_that_logs_gets_the_step_as_it_takes_it(function, gets_step):
    calls = []

    @functools.wraps(function)
    def log(*arguments, **keywords):
        calls.append(function(*arguments, **keywords))

    train(OptimizerDiagnostics(log=log))
    assert [logged for _, logged, _ in calls] == [2, 4, 6, 8]
    assert [step for _, _, step in calls] == ([2, 4, 6, 8] if gets_step else [None] * 4)


def test_a_function_without_a_signature_gets_the_dict():
    # `dict.update` of C has none on some versions of Python.
    logged = {}
    train(OptimizerDiagnostics(log=logged.update))
    assert logged["rmsprop/gradient_norm"] == 8.0


def test_an_error_of_a_function_that_logs_is_passed_on_and_files_are_whole(tmp_path):
    def log(values):
        if values["rmsprop/step"] == 4:
            raise ConnectionError("no network")

    callback = OptimizerDiagnostics(csv=tmp_path / "run.csv", log=log)
    with pytest.raises(ConnectionError, match="no network"):
        train(callback)
    assert rows_of(tmp_path / "run.csv") == [2, 4]


# Trainings that end, go on, or break.


def test_a_second_fit_goes_on(tmp_path):
    callback = OptimizerDiagnostics(
        csv=tmp_path / "run.csv", tensorboard=tmp_path, html=tmp_path / "run.html"
    )
    model = models.model()
    models.fit(model, Reporting(), callbacks=[callback])
    models.go_on(model, callbacks=[callback])
    steps = [2, 4, 6, 8, 10, 12, 14, 16]
    assert steps_of(callback.history) == steps
    assert rows_of(tmp_path / "run.csv") == steps
    assert [step for step, _ in events_of(tmp_path)] == steps
    assert (tmp_path / "run.csv").read_text().count("step") == 1


def test_a_training_goes_on_with_a_new_callback_and_an_initial_epoch(tmp_path):
    model = models.model()
    models.fit(model, Reporting(), callbacks=[OptimizerDiagnostics(csv=tmp_path / "run.csv")])
    x, y = models.data()
    again = OptimizerDiagnostics(csv=tmp_path / "run.csv")
    arguments = {"batch_size": models.BATCH, "verbose": 0, "callbacks": [again]}
    model.fit(x, y, epochs=3, initial_epoch=2, **arguments)
    assert rows_of(tmp_path / "run.csv") == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("place", [0, 1], ids=["before", "after"])
def test_what_was_written_before_a_backup_is_kept_when_it_is_restored(tmp_path, place):
    def run(*others):
        file = tmp_path / "run.csv"
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        watched = [OptimizerDiagnostics(csv=file, tensorboard=tmp_path)]
        watched.insert(place, backup)
        optimizer = keras_rmsprop.RMSprop(diagnostics=keras_rmsprop.Diagnostics(every=1))
        models.fit(models.model(), optimizer, epochs=3, callbacks=[*watched, *others])

    with pytest.raises(InterruptedError):
        run(Raising(InterruptedError(), models.BATCHES + 3))
    run()
    steps = list(range(1, 3 * models.BATCHES + 1))
    assert rows_of(tmp_path / "run.csv") == steps
    assert [step for step, _ in events_of(tmp_path)] == steps


def test_a_training_that_goes_back_to_a_checkpoint_replaces_what_came_after(tmp_path):
    callback = OptimizerDiagnostics(csv=tmp_path / "run.csv", tensorboard=tmp_path)
    model = models.model()
    models.fit(model, Reporting(), callbacks=[callback])
    model.optimizer.iterations.assign(4)
    models.go_on(model, epochs=1, callbacks=[callback])
    steps = [2, 4, 6, 8]
    assert steps_of(callback.history) == steps
    assert rows_of(tmp_path / "run.csv") == steps
    assert [step for step, _ in events_of(tmp_path)] == steps


def test_a_training_that_goes_back_while_it_is_read_is_followed(tmp_path):
    optimizer = Reporting()
    with OptimizerDiagnostics(csv=tmp_path / "run.csv", optimizer=optimizer) as callback:
        for target in (2, 4, 6, 4, 8):
            step(optimizer)
            optimizer.iterations.assign(target)
            callback.read()
    assert rows_of(tmp_path / "run.csv") == [2, 4, 8]
    assert steps_of(callback.history) == [2, 4, 8]


def test_another_optimizer_has_its_own_history():
    callback = OptimizerDiagnostics()
    train(callback)
    train(callback, epochs=1)
    assert steps_of(callback.history) == [2, 4]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
def test_an_interrupted_training_keeps_what_was_written(tmp_path, error):
    callback = OptimizerDiagnostics(csv=tmp_path / "run.csv", html=tmp_path / "run.html")
    model = models.model()
    with pytest.raises(type(error)):
        models.fit(model, Reporting(), callbacks=[callback, Raising(error, 7)])
    assert rows_of(tmp_path / "run.csv") == [2, 4, 6]
    assert "Last sample: step 4" in Page((tmp_path / "run.html").read_text("utf-8")).text
    # The next training finds everything in order.
    models.fit(model, model.optimizer, epochs=1, callbacks=[callback])
    done = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    assert steps_of(callback.history)[-1] == done // 2 * 2
    assert rows_of(tmp_path / "run.csv")[-1] == done // 2 * 2


def test_inside_with_the_page_of_an_interrupted_training_is_complete(tmp_path):
    callback = OptimizerDiagnostics(html=tmp_path / "run.html")
    with pytest.raises(KeyboardInterrupt), callback:
        fit(callback, others=[Raising(KeyboardInterrupt(), 7)])
    assert "Last sample: step 6" in Page((tmp_path / "run.html").read_text("utf-8")).text


def test_inside_with_a_training_that_ends_is_written_once(tmp_path):
    callback = OptimizerDiagnostics(html=tmp_path / "run.html", csv=tmp_path / "run.csv")
    with callback:
        train(callback)
        written = (tmp_path / "run.html").stat().st_mtime_ns
    assert (tmp_path / "run.html").stat().st_mtime_ns == written
    assert rows_of(tmp_path / "run.csv") == [2, 4, 6, 8]


# Disks that are full, and files that are not one's own.


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("name", "file"), [("csv", "run.csv"), ("tensorboard", "logs")])
def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, name, file):
    logged = []
    callback = OptimizerDiagnostics(log=logged.append, **{name: tmp_path / file})
    optimizer = Reporting()
    with callback:
        model = models.model()
        model.compile(optimizer, loss="mse")
        callback.set_model(model)
        callback.on_train_begin()
        step(optimizer, 2)
        callback.read()
        monkeypatch.setattr(_files.Appending, "write", full_disk)
        step(optimizer, 2)
        with pytest.warns(UserWarning, match=f"`{name}`.*No space left.*Training goes on"):
            callback.read()
        monkeypatch.undo()
        # Once is enough.
        step(optimizer, 2)
        callback.read()
    assert [values["rmsprop/step"] for values in logged] == [2, 4, 6]
    steps = (
        rows_of(tmp_path / file) if name == "csv" else [s for s, _ in events_of(tmp_path / file)]
    )
    assert steps == [2]


def test_two_optimizers_with_one_file_are_warned(tmp_path):
    optimizers = [Reporting(name=name) for name in ("generator", "discriminator")]
    callbacks = [OptimizerDiagnostics(csv=tmp_path / "run.csv", optimizer=o) for o in optimizers]
    with callbacks[0], callbacks[1]:
        for optimizer, callback in zip(optimizers, callbacks, strict=True):
            step(optimizer, 2)
            callback.read()
        step(optimizers[0], 4)
        with pytest.warns(UserWarning, match="`csv`.*such as another OptimizerDiagnostics"):
            callbacks[0].read()
        step(optimizers[1], 2)
        callbacks[1].read()
    assert rows_of(tmp_path / "run.csv") == [2, 4]


def test_a_folder_that_is_removed_does_not_end_the_training(tmp_path):
    optimizer = Reporting()
    folder = tmp_path / "run"
    with OptimizerDiagnostics(
        csv=folder / "run.csv", tensorboard=folder, optimizer=optimizer
    ) as callback:
        step(optimizer, 2)
        callback.read()
        shutil.rmtree(folder)
        step(optimizer, 2)
        with (
            pytest.warns(UserWarning, match="`csv`.*could not be written.*removed"),
            pytest.warns(UserWarning, match="`tensorboard`.*could not be written.*removed"),
        ):
            callback.read()
    assert steps_of(callback.history) == [2, 4]


def test_a_page_that_cannot_be_written_does_not_end_the_training(tmp_path, monkeypatch):
    callback = OptimizerDiagnostics(html=tmp_path / "run.html")
    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.warns(UserWarning, match="`html`.*No space left"):
        train(callback)
    assert list(tmp_path.iterdir()) == []
    assert steps_of(callback.history) == [2, 4, 6, 8]


# The page.


@pytest.mark.parametrize(("pause", "times"), [(0.0, 5), (1e9, 2)])
def test_the_page_is_written_as_often_as_its_cost_allows(tmp_path, monkeypatch, pause, times):
    written = []
    monkeypatch.setattr(callbacks, "_PAUSE", pause)
    monkeypatch.setattr(_files, "replace", lambda path, _: written.append(path.name))
    train(OptimizerDiagnostics(html=tmp_path / "run.html"), epochs=4)
    # After the epochs, or only the first, and at the end.
    assert written == ["run.html"] * times


def test_a_training_that_makes_no_step_has_a_page_that_says_so(tmp_path):
    optimizer = Reporting()
    with OptimizerDiagnostics(html=tmp_path / "run.html", optimizer=optimizer):
        step(optimizer)
    text = Page((tmp_path / "run.html").read_text("utf-8")).text
    assert "Nothing has been sampled yet" in text


# Words.


def test_findings_are_on_the_page_and_warned_of_once(tmp_path, caplog):
    optimizer = Reporting()
    optimizer.findings = [DEAD, DEAD._replace(ailment="cold", severity="note")]
    with caplog.at_level(logging.INFO, "keras_rmsprop"):
        train(OptimizerDiagnostics(html=tmp_path / "run.html"), optimizer)
    warned = [each.getMessage() for each in caplog.records if "keras_rmsprop" in each.name]
    assert warned == [DEAD.in_words()]
    text = Page((tmp_path / "run.html").read_text("utf-8")).text
    assert DEAD.advice in text
    assert "cold" in text


def test_without_explain_nothing_is_explained(tmp_path, caplog):
    optimizer = Reporting()
    optimizer.findings = [DEAD]
    train(OptimizerDiagnostics(html=tmp_path / "run.html", explain=False), optimizer)
    assert not [each for each in caplog.records if "keras_rmsprop" in each.name]
    assert "What is wrong" not in Page((tmp_path / "run.html").read_text("utf-8")).text


def test_a_summary_is_printed_at_the_end_of_each_epoch(capsys):
    optimizer = Reporting()
    optimizer.findings = [DEAD]
    train(OptimizerDiagnostics(summary=True), optimizer)
    output = capsys.readouterr().out
    assert re.findall(r"Last sample: step (\d+)", output) == ["4", "8"]
    assert output.count(DEAD.in_words()) == 2
    assert "kernel" in output


# Loops without a model.


def test_a_loop_is_read_every_so_many_batches(tmp_path):
    optimizer = Reporting()
    with OptimizerDiagnostics(
        every=4, csv=tmp_path / "run.csv", html=tmp_path / "run.html", optimizer=optimizer
    ) as callback:
        for i in range(10):
            step(optimizer)
            callback.on_train_batch_end(i)
    assert rows_of(tmp_path / "run.csv") == [4, 8, 10]
    assert "Last sample: step 10" in Page((tmp_path / "run.html").read_text("utf-8")).text


def test_a_loop_that_counts_its_batches_anew_is_read_too():
    optimizer = Reporting()
    with OptimizerDiagnostics(every=2, optimizer=optimizer) as callback:
        for _ in range(3):
            for i in range(2):
                step(optimizer)
                callback.on_train_batch_end(i)
    assert steps_of(callback.history) == [2, 4, 6]


def test_a_loop_outside_with_is_read_every_so_many_batches_too():
    optimizer = Reporting()
    callback = OptimizerDiagnostics(every=4, optimizer=optimizer)
    for i in range(10):
        step(optimizer)
        callback.on_train_batch_end(i)
    assert steps_of(callback.history) == [4, 8]
    callback.close()


def test_it_can_be_read_at_any_time_closed_and_read_again(tmp_path):
    optimizer = Reporting()
    callback = OptimizerDiagnostics(
        csv=tmp_path / "run.csv", tensorboard=tmp_path, optimizer=optimizer
    )
    step(optimizer, 2)
    assert callback.read().total.step == 2
    assert rows_of(tmp_path / "run.csv") == [2]
    callback.close()
    callback.close()
    step(optimizer, 2)
    callback.read()
    callback.read()
    callback.close()
    assert rows_of(tmp_path / "run.csv") == [2, 4]
    assert [step for step, _ in events_of(tmp_path)] == [2, 4]


def test_flush_writes_the_page_of_now(tmp_path):
    optimizer = Reporting()
    callback = OptimizerDiagnostics(html=tmp_path / "run.html", optimizer=optimizer)
    for _ in range(2):
        step(optimizer, 2)
        callback.flush()
        done = int(keras.ops.convert_to_numpy(optimizer.iterations))
        text = Page((tmp_path / "run.html").read_text("utf-8")).text
        assert f"Last sample: step {done}" in text
    callback.close()


# Which optimizer.


def test_an_optimizer_that_scales_the_loss_is_looked_into():
    callback = OptimizerDiagnostics()
    inner = Reporting()
    fit(callback, keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0))
    assert steps_of(callback.history) == [2, 4, 6, 8]
    given = OptimizerDiagnostics(optimizer=keras.optimizers.LossScaleOptimizer(inner))
    assert given.read().total.step == 8
    given.close()


def test_a_given_optimizer_is_read_instead_of_the_model_s():
    other = Reporting()
    step(other, 6)
    callback = OptimizerDiagnostics(optimizer=other)
    train(callback)
    assert steps_of(callback.history) == [6]


def test_another_optimizer_is_refused_when_training_starts():
    with pytest.raises(ValueError, match=r"received keras.*Adam.*diagnostics=True"):
        fit(OptimizerDiagnostics(), keras.optimizers.Adam(), others=[Raising(AssertionError(), 1)])
    with pytest.raises(ValueError, match=r"received keras.*Adam"):
        OptimizerDiagnostics(optimizer=keras.optimizers.Adam())


def test_without_diagnostics_the_optimizer_s_own_error_is_raised_when_training_starts(tmp_path):
    class Without(Reporting):
        def diagnostics(self):
            raise ValueError("Pass `diagnostics=True`.")

    with pytest.raises(ValueError, match="Pass `diagnostics=True`"):
        fit(OptimizerDiagnostics(csv=tmp_path / "run.csv"), Without())
    assert list(tmp_path.iterdir()) == []


def test_a_loop_without_an_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"`OptimizerDiagnostics\(\.\.\., optimizer=optimizer\)`"):
        OptimizerDiagnostics().read()


# Arguments.


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "epoch"])
def test_every_is_an_integer(every):
    with pytest.raises(ValueError, match=rf"integer >= 1, received every={every!r}\."):
        OptimizerDiagnostics(every)


@pytest.mark.parametrize("name", ["csv", "html", "tensorboard"])
@pytest.mark.parametrize("value", [3, True, "", b"bytes", "gs://bucket/logs"])
def test_files_are_local_paths(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be .* path of a local .*{name}="):
        OptimizerDiagnostics(**{name: value})


def test_a_folder_is_not_a_file_and_a_file_not_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for name in ("csv", "html"):
        with pytest.raises(ValueError, match=rf"`{name}` must be the path of a file.*is a folder"):
            OptimizerDiagnostics(**{name: tmp_path})
    with pytest.raises(ValueError, match=r"path of a folder, .* is a file"):
        OptimizerDiagnostics(tensorboard=tmp_path / "file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log": lambda step, values: (step, values)}, r"whose arguments are \(step, values\)"),
        ({"log": "wandb"}, r"function of a dict.*received log='wandb'"),
        ({"log": lambda: None}, r"received log=<function .*whose arguments are \(\)"),
        (
            {"log": setattr},
            r"received log=<built-in function setattr>, whose arguments are \(obj, ",
        ),
        ({"variables": "("}, r"received variables='\('"),
        ({"variables": ["a"]}, r"received variables=\['a'\]"),
        ({"summary": 1}, "received summary=1"),
        ({"explain": None}, "received explain=None"),
        ({"csv": "run/./a", "html": "run/a"}, "must be different files"),
    ],
)
def test_other_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        OptimizerDiagnostics(**arguments)


@pytest.mark.parametrize("name", ["csv", "html"])
def test_a_file_of_something_else_is_not_replaced(tmp_path, name):
    file = tmp_path / "notes"
    file.write_text("my notes")
    with pytest.raises(ValueError, match=rf"`{name}` must be a new file.*starts with 'my notes'"):
        train(OptimizerDiagnostics(**{name: file}))
    assert file.read_text() == "my notes"
    # An empty one, as `tempfile` makes them, and one of an earlier training are replaced.
    file.write_text("")
    for _ in range(2):
        train(OptimizerDiagnostics(**{name: file}))
        assert file.stat().st_size


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("html", "plotly")])
def test_a_missing_package_is_named_before_the_training(tmp_path, monkeypatch, name, package):
    monkeypatch.setattr(callbacks, "find_spec", lambda _: None)
    OptimizerDiagnostics(csv=tmp_path / "run.csv", summary=True)
    with pytest.raises(
        ImportError, match=rf"`{name}` needs the package {package}.*\[diagnostics\]"
    ):
        OptimizerDiagnostics(**{name: tmp_path / "there"})


def test_a_path_is_of_the_folder_in_which_the_callback_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    callback = OptimizerDiagnostics(csv="run.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(callback)
    assert rows_of(tmp_path / "run.csv") == [2, 4, 6, 8]


# The optimizer itself.


@has_diagnostics
def test_fit_with_this_optimizer_is_read(tmp_path):
    optimizer = keras_rmsprop.RMSprop(0.01, diagnostics=True)
    callback = OptimizerDiagnostics(
        every=1,
        csv=tmp_path / "run.csv",
        tensorboard=tmp_path,
        html=tmp_path / "run.html",
        variables=".*",
    )
    model = models.model()
    models.fit(model, optimizer, epochs=8, callbacks=[callback])
    assert callback.history
    last = callback.history[-1]
    assert set(last.variables) == {weight.path for weight in model.trainable_variables}
    assert 0.0 < last.total.gradient_norm < np.inf
    table = pd.read_csv(tmp_path / "run.csv")
    assert set(table.variable) == {"(all)", *last.variables}
    assert events_of(tmp_path)[-1] == (
        last.total.step,
        pytest.approx(last.total.gradient_norm, rel=1e-6),
    )
    assert "model/hidden/kernel" in Page((tmp_path / "run.html").read_text("utf-8")).text


@has_diagnostics
def test_this_optimizer_without_diagnostics_says_what_to_pass():
    with pytest.raises(ValueError, match="diagnostics=True"):
        fit(OptimizerDiagnostics(), keras_rmsprop.RMSprop())


@has_diagnostics
def test_reading_changes_no_weight():
    def weights(*extra):
        optimizer = keras_rmsprop.RMSprop(0.01, diagnostics=True)
        return models.fit(models.model(), optimizer, callbacks=extra)

    models.assert_identical(weights(OptimizerDiagnostics(every=1)), weights())


@pytest.mark.parametrize("name", ["csv", "html"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, name):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="device or pipe"):
        callbacks.OptimizerDiagnostics(**{name: pipe})
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["csv", "html", "tensorboard"])
def test_a_path_below_a_file_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        callbacks.OptimizerDiagnostics(**{name: tmp_path / "file" / "below"})
