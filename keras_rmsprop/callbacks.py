"""A callback that writes down what an optimizer does to the weights.

    optimizer = keras_rmsprop.RMSprop(0.001, diagnostics=True)
    model.compile(optimizer, loss="mse")
    model.fit(x, y, callbacks=[OptimizerDiagnostics(tensorboard="logs", html="training.html")])

In a loop of one's own:

    with OptimizerDiagnostics(every=100, html="training.html", optimizer=optimizer) as diagnostics:
        for i, batch in enumerate(batches):
            ...                                         # a step
            diagnostics.on_train_batch_end(i)           # or, at any time, diagnostics.read()
"""

import contextlib
import inspect
import logging
import numbers
import os
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import keras

from keras_rmsprop._diagnostics import _events, _files, _flat, _page, _rows, _selection, _tables
from keras_rmsprop._diagnostics._history import History
from keras_rmsprop._diagnostics._report import Report

__all__ = ["OptimizerDiagnostics"]

_log = logging.getLogger(__name__)

# What an argument needs that the package does not.
_PACKAGES = {"tensorboard": "tensorboard", "html": "plotly"}

# A page is written again after this many times the seconds that writing it took.
_PAUSE = 9.0


class _Sink(Protocol):
    """Where the reports of a training go, other than a page."""

    def write(self, report: Report, paths: Iterable[str]) -> None: ...

    def close(self) -> None: ...


class OptimizerDiagnostics(keras.callbacks.Callback):
    """Read an optimizer's diagnostics during training, and write them where they are looked at.

    The optimizer is the model's `keras_rmsprop.RMSprop`, also inside a
    `keras.optimizers.LossScaleOptimizer`; it must have been made with `diagnostics`. Reading takes
    one transfer from the device, every so many batches and at the end of each epoch. Everything is
    written under the step in which it was measured, once.

    Shown are the numbers of all variables together, and of the few that look worst. For TensorBoard
    and `log` they have the keys of `Report.flat`, such as "rmsprop/gradient_norm" and
    "rmsprop/<path>/update_ratio", or with the optimizer's name for "rmsprop" if it was given one
    or is of a subclass. Several optimizers need names to be told apart, and each a callback.

    What was written up to an interruption stays. The page is of the last epochs that ended, unless
    the training runs inside `with callback:`, which writes it in any case. A file that cannot be
    written any more, for example because the disk is full or another callback writes it, too, is
    left valid with a warning, and the training goes on. An error that `log` raises is passed on.

    Args:
        every: read after so many batches, an integer >= 1; None for as many as the steps of which
            the optimizer samples one. Default None.
        tensorboard: None, or the folder of TensorBoard, which may be that of
            `keras.callbacks.TensorBoard`: the run in it is called "optimizer", or for example
            "optimizer_generator" if the optimizer was given the name "generator".
            Histograms, if the optimizer keeps them, are of decimal logarithms. Needs the package
            `tensorboard`, not TensorFlow. Default None.
        csv: None, or a file with one row for each step and variable; the variable "(all)" is all
            of them together. A training that continues from a checkpoint extends its file. Rows of
            steps after its start are replaced, so a training from the beginning replaces them all.
            Default None.
        log: None, or a function of a dict, such as `wandb.log`, `mlflow.log_metrics` or
            `trackio.log`. If it has an argument `step`, it receives the step in it. Default None.
        html: None, or the file of a page with charts and explanations, which needs no network to
            be opened. It is written at the end of an epoch, if that has not taken more than a
            tenth of the time so far, and at the end of training. Needs the package `plotly`.
            Default None.
        variables: None for the worst few, or which variables are written to all but the page: an
            exact path or a regular expression that matches whole paths; ".*" for all. Default None.
        summary: whether to print a table at the end of each epoch. Default False.
        explain: whether to say in words what is wrong: on the page, with the summary and, once for
            each ailment, as a warning of the logger "keras_rmsprop.callbacks". Default True.
        optimizer: the optimizer to read, in a loop without a model, or if the model's contains
            several. Default None, the model's.

    Raises:
        ValueError: if an argument has the wrong type or is out of range; when training starts, if
            the optimizer has no diagnostics, if `csv` or `html` is a file of something else or if
            `variables` matches none.
        OSError: when training starts, if a file or its folder cannot be created.
        ImportError: if a package is missing that an argument needs.

    Example:
    >>> import keras, keras_rmsprop
    >>> from keras_rmsprop.callbacks import OptimizerDiagnostics
    >>> OptimizerDiagnostics(every=0)
    Traceback (most recent call last):
        ...
    ValueError: `every` must be None or an integer >= 1, received every=0.
    """

    def __init__(
        self,
        every: int | None = None,
        *,
        tensorboard: str | os.PathLike[str] | None = None,
        csv: str | os.PathLike[str] | None = None,
        log: Callable[..., Any] | None = None,
        html: str | os.PathLike[str] | None = None,
        variables: str | None = None,
        summary: bool = False,
        explain: bool = True,
        optimizer: Any = None,
    ) -> None:
        super().__init__()
        _check(every=every, log=log, summary=summary, explain=explain)
        self._every = every
        self._folder = _checked_path("tensorboard", tensorboard)
        self._csv = _checked_path("csv", csv)
        self._html = _checked_path("html", html)
        if self._csv is not None and self._csv == self._html:
            raise ValueError(
                f"`csv` and `html` must be different files, received csv={csv!r} and html={html!r}."
            )
        self._log = None if log is None else _with_step(log)
        self._pattern = _selection.checked_pattern("variables", variables)
        self._summary, self._explain = summary, explain
        self._given = None if optimizer is None else _checked_optimizer(optimizer)

        # The optimizer that is read.
        self._optimizer: Any = None
        self._history = History()
        self._selection = _selection.Selection(self._pattern)
        # The step of the last report that was written.
        self._last_step = 0
        # What the page says of the present.
        self._report: Report | None = None
        self._findings: list[Any] = []
        self._description = ""
        # Ailments that were warned of.
        self._said: set[str] = set()

        # Of the training in progress.
        self._is_started, self._is_open = False, False
        # The steps made before it, as far as is known when it starts, and the optimizer's name.
        self._begun_at, self._name = 0, ""
        self._sinks: dict[str, _Sink] = {}
        self._interval = 1
        self._batch = -1
        self._unread = 0
        # When a page may be written again, in seconds of the monotonic clock.
        self._page_due = 0.0

    @property
    def history(self) -> list[Report]:
        """The reports that were read, in order of their steps; thinned evenly if there are many."""
        return self._history.reports

    def read(self) -> Report:
        """Read the optimizer's diagnostics now, and write what is new.

        Returns: the report.
        Raises: ValueError if the optimizer has no diagnostics; whatever `log` raises.
        """
        optimizer = self._find()
        if not self._is_started:
            self._start()
        if not self._is_open:
            self._open(self._begun_at)
        report: Report = optimizer.diagnostics()
        self._report, self._unread = report, 0
        step, before = report.total.step, self._last_step
        if not step or step == before:
            return report
        if step < before:
            # Earlier weights have been loaded, and training goes on from there.
            self._open(step - 1)
            before = 0
        self._last_step = step
        self._write(report, before)
        return report

    def flush(self) -> None:
        """Read the diagnostics and write the page now."""
        self._look()
        self._write_page()

    def close(self) -> None:
        """Read the diagnostics, write the page and close all files, unless that has been done.

        A later `read` opens the files again.
        """
        if self._is_started:
            try:
                self.flush()
            finally:
                self._close()

    def __enter__(self) -> "OptimizerDiagnostics":
        """Check the files if the optimizer is known; otherwise `fit` does."""
        if self._given is not None:
            self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        """Write the page and close the files, also after an exception."""
        if kind is not None and self._is_started:
            # An interrupted step on JAX has given its state away: the page then says what is known.
            with contextlib.suppress(Exception):
                self._look()
            self._write_page()
            self._close()
        self.close()

    # What Keras calls.

    def on_train_begin(self, logs: Any = None) -> None:
        """Check the optimizer and the files."""
        del logs
        self._start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count batches from 0 again."""
        del epoch, logs
        self._batch = -1

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Open the files, if this is the first batch: a checkpoint has been restored by now."""
        del batch, logs
        if self._is_started and not self._is_open:
            self._open(int(keras.ops.convert_to_numpy(self._find().iterations)))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Read the diagnostics if enough batches have passed.

        Args:
            batch: the number of the batch in its epoch, from 0. Keras leaves some out if
                `steps_per_execution` is more than 1.
            logs: unused.
        """
        del logs
        if not self._is_started:
            self._start()
        self._unread += batch - self._batch if batch > self._batch else 1
        self._batch = batch
        if self._unread >= self._interval:
            self.read()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Read the diagnostics, and write the page, the summary and the warnings."""
        del epoch, logs
        report = self._look()
        if time.monotonic() >= self._page_due:
            self._write_page()
        if self._summary:
            _tables.show(report)
            for finding in self._findings:
                print(finding.in_words())
        for finding in self._findings:
            if finding.severity == "warning" and finding.ailment not in self._said:
                self._said.add(finding.ailment)
                if not self._summary:
                    _log.warning("%s", finding.in_words())

    def on_train_end(self, logs: Any = None) -> None:
        """Write the page and close the files."""
        del logs
        self.close()

    # The optimizer.

    def _find(self) -> Any:
        """Return the optimizer to read."""
        # On JAX, Keras brings the optimizer's variables up to date when the model is asked for.
        model = self.model
        if self._given is not None:
            return self._given
        if model is None:
            raise ValueError(
                "There is no optimizer to read. In a loop without `fit`, make the callback with "
                "`OptimizerDiagnostics(..., optimizer=optimizer)`."
            )
        return _checked_optimizer(model.optimizer)

    def _start(self) -> None:
        """Begin a training: forget what is of another one, and check the files."""
        optimizer = self._find()
        # Raises an error if it was made without diagnostics.
        report: Report = optimizer.diagnostics()
        if optimizer is not self._optimizer:
            self._optimizer, self._history, self._last_step = optimizer, History(), 0
            self._selection = _selection.Selection(self._pattern)
            self._said = set()
        self._report, self._begun_at, self._name = report, report.iterations, report.name
        self._interval = report.every if self._every is None else self._every
        self._batch, self._unread, self._page_due = -1, 0, 0.0
        if self._pattern is not None:
            # Raises an error if it matches no variable. In `fit` the optimizer may be built later.
            model = None if report.variables else self.model
            if model is not None and model.built:
                weights = model.trainable_variables
                _selection.matching_of([weight.path for weight in weights], self._pattern)
            self._selection(report)
        self._close()
        if self._html is not None:
            _page.check_is_page(self._html)
        if self._csv is not None:
            _rows.check_is_table(self._csv)
        if self._html is not None:
            _files.check_replaceable(self._html)
        folders = [] if self._csv is None else [self._csv.parent]
        if self._folder is not None:
            folders.append(self._folder / _events.run_of(self._name))
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        self._is_started = True

    def _look(self) -> Report:
        """Read everything that a page says."""
        report, optimizer = self.read(), self._find()
        if self._explain:
            explanation = optimizer.explain()
            self._findings = list(getattr(explanation, "findings", explanation))
        description: list[str] = []
        optimizer.describe(description.append)
        self._description = "\n".join(description)
        return report

    # The files.

    def _open(self, start: int) -> None:
        """Open the files for a training that has made some steps already.

        In `fit` not before the first batch, because until then callbacks such as Keras's
        `BackupAndRestore` may load a state: what the files have of its steps is kept.
        """
        self._close_files()
        self._last_step = min(self._last_step, start)
        try:
            if self._csv is not None:
                self._sinks["csv"] = _rows.RowFile(self._csv, start)
            if self._folder is not None:
                self._sinks["tensorboard"] = _events.EventFile(self._folder, self._name, start)
        except BaseException:
            self._close_files()
            raise
        self._is_open = True

    def _close(self) -> None:
        self._is_started = False
        self._close_files()

    def _close_files(self) -> None:
        self._is_open = False
        for name in list(self._sinks):
            self._sinks.pop(name).close()

    def _write(self, report: Report, before: int) -> None:
        """Write a report everywhere but on the page.

        Args:
            report: the report.
            before: the step of the last one.
        """
        paths = self._selection(report)
        self._history.add(report)
        for name, sink in list(self._sinks.items()):
            try:
                sink.write(report, paths)
            except OSError as error:
                self._sinks.pop(name).close()
                _warn(name, error)
        if self._log is not None:
            new = [path for path in paths if report.variables[path].step > before]
            self._log(_flat.flat(report, new), report.total.step)

    def _write_page(self) -> None:
        if self._html is None or self._report is None:
            return
        start = time.monotonic()
        findings = self._findings if self._explain else None
        text = _page.page(self.history, self._report, findings, self._description)
        try:
            _files.replace(self._html, text)
        except OSError as error:
            _warn("html", error)
        end = time.monotonic()
        self._page_due = end + _PAUSE * (end - start)


def _warn(name: str, error: OSError) -> None:
    warnings.warn(
        f"`{name}` of OptimizerDiagnostics could not be written: {error}. Training goes on; what "
        "was written before is valid.",
        stacklevel=2,
    )


def _check(*, every: Any, log: Any, **flags: Any) -> None:
    is_integer = isinstance(every, numbers.Integral) and not isinstance(every, bool)
    if every is not None and not (is_integer and every >= 1):
        raise ValueError(f"`every` must be None or an integer >= 1, received every={every!r}.")
    if log is not None and not callable(log):
        raise ValueError(
            "`log` must be None or a function of a dict, such as `wandb.log`, received "
            f"log={log!r}."
        )
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"`{name}` must be True or False, received {name}={flag!r}.")


def _checked_path(name: str, path: Any) -> Path | None:
    """Return a path, or None.

    Raises:
        ValueError: if it is something else, or of what it cannot be.
        ImportError: if the package is missing that writes it.
    """
    if path is None:
        return None
    what = "folder" if name == "tensorboard" else "file"
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "://" in text or "\0" in text:
        raise ValueError(
            f"`{name}` must be None or the path of a local {what}, received {name}={path!r}."
        )
    # Whatever folder the training changes to.
    found = Path(text).expanduser().absolute()
    if found.exists():
        # A file is replaced as a whole, which a device or a pipe must not be.
        fits = found.is_dir() if what == "folder" else found.is_file()
        if not fits:
            there = "folder" if found.is_dir() else "file" if found.is_file() else "device or pipe"
            raise ValueError(
                f"`{name}` must be the path of a {what}, received {name}={text!r}, which is a "
                f"{there}. Give it another name."
            )
    blocking = next((each for each in found.parents if each.exists() and not each.is_dir()), None)
    if blocking is not None:
        raise ValueError(
            f"`{name}` must be the path of a {what}, received {name}={text!r}, but {blocking} is "
            "no folder. Give it another name."
        )
    package = _PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise ImportError(
            f"`{name}` needs the package {package}, which is not installed: "
            'pip install "keras_rmsprop[diagnostics]"'
        )
    return found


def _checked_optimizer(optimizer: Any) -> Any:
    """Return the optimizer, out of one that scales losses.

    Raises: ValueError if it has no diagnostics.
    """
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    if not callable(getattr(optimizer, "diagnostics", None)):
        raise ValueError(
            "OptimizerDiagnostics reads a `keras_rmsprop.RMSprop`, received "
            f"{type(optimizer).__module__}.{type(optimizer).__name__}. Compile the model with "
            "`keras_rmsprop.RMSprop(..., diagnostics=True)`; if its optimizer contains such a one, "
            "pass that as `OptimizerDiagnostics(optimizer=...)`."
        )
    return optimizer


def _with_step(log: Callable[..., Any]) -> Callable[[dict[str, float], int], None]:
    """Return a function of the numbers and the step that calls `log` as it wants to be called.

    Raises: ValueError if it can be called in none of these ways.
    """
    signature = None
    # Some functions written in C have no signature.
    with contextlib.suppress(TypeError, ValueError):
        signature = inspect.signature(log)
    if signature is None:
        return lambda values, _: log(values)

    def accepts(*arguments: Any, **named: Any) -> bool:
        try:
            signature.bind(*arguments, **named)
        except TypeError:
            return False
        return True

    named = [p.name for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY]
    if "step" in named:
        if accepts({}, step=0):
            return lambda values, step: log(values, step=step)
    elif accepts({}):
        return lambda values, _: log(values)
    elif accepts({}, 0):
        return lambda values, step: log(values, step)
    raise ValueError(
        "`log` must be a function of a dict, and if it likes of the step, received "
        f"log={log!r}, whose arguments are {signature}."
    )
