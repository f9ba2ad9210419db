"""How every command ends: failures in one sentence, the status, Ctrl-C, and `--debug`."""

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import click

from keras_rmsprop._diagnostics._format import printable

PROGRAM = "python -m keras_rmsprop"

# A longer sentence is one that quotes something.
_LONGEST = 700

# What to install where a module is missing.
_INSTALL = {
    "click": "keras_rmsprop[cli]",
    "matplotlib": "keras_rmsprop[cli]",
    "rich": "keras_rmsprop[cli]",
    "jax": "keras_rmsprop[jax]",
    "tensorflow": "keras_rmsprop[tensorflow]",
    "torch": "keras_rmsprop[torch]",
}

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Failure(click.ClickException):
    """A failure that was foreseen, in a sentence."""

    exit_code = 2


class Interrupted(click.ClickException):
    """Ctrl-C."""

    exit_code = 130


class Program(click.Group):
    """A group of commands whose failures are one sentence on stderr, and a status."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run a command, and exit: with 0, with 2 after a failure, with 130 after Ctrl-C."""
        given = list(sys.argv[1:] if args is None else args)
        is_debugging = "--debug" in given
        status: Any = 0
        try:
            with warnings.catch_warnings():
                if not is_debugging:
                    # What matters of them is in the results.
                    warnings.simplefilter("ignore")
                status = super().main(args, PROGRAM, standalone_mode=False)
        except (Interrupted, click.Abort):
            click.echo("Interrupted.", err=True)
            status = Interrupted.exit_code
        except Exception as error:
            if is_debugging:
                traceback.print_exception(error)
            click.echo(f"Error: {in_one_sentence(error)}", err=True)
            status = Failure.exit_code
        sys.exit(status or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Click would print an empty line.
            raise Interrupted("Interrupted.") from None


def debug_option(function: Decorated) -> Decorated:
    """Add `--debug`, which `Program` looks for among the arguments."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of a failure."
    )(function)


def in_one_sentence(error: BaseException) -> str:
    """Say in one line what failed."""
    # It may quote a file.
    words = printable(" ".join(_in_words(error).split()))
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 2]} …"


def _in_words(error: BaseException) -> str:
    if isinstance(error, click.UsageError):
        context = error.ctx
        hint = "" if context is None else f" See `{context.command_path} --help`."
        return f"{error.format_message()}{hint}"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module:
            what = _INSTALL.get(module, module)
            return f'This needs {module}, which is not installed here: pip install "{what}".'
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f" ({error.filename})"
        return f"{error.strerror}{where}."
    if is_ours(error):
        return str(error)
    return (
        f"{type(error).__name__}: {error} (This was not foreseen; run the command with --debug to "
        "see where it happens.)"
    )


@contextlib.contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Name a file in what is found wrong with it."""
    try:
        yield
    except ValueError as error:
        if not is_ours(error):
            raise
        raise Failure(f"{path} cannot be read: {error}") from error


class File(click.Path):
    """A path that can be one of a file, as an argument or an option."""

    def __init__(self, *, exists: bool = False, dir_okay: bool = False) -> None:
        super().__init__(exists=exists, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path.

        Raises: click.BadParameter if no file can have it, or none does that must exist.
        """
        words = os.fspath(value)
        try:
            is_possible = b"\0" not in os.fsencode(words)
        except UnicodeEncodeError:
            is_possible = False
        is_file = words if self.dir_okay else Path(words).name not in ("", "..")
        if not is_possible or not is_file:
            self.fail(f"the path of a file is needed, received {words!a}", param, ctx)
        return super().convert(value, param, ctx)


def is_ours(error: BaseException) -> bool:
    """Whether an error is one that this package raises for its caller to read."""
    return isinstance(error, ValueError | ImportError) and _raised_in(
        error.__traceback__
    ).startswith("keras_rmsprop.")


def _raised_in(trace: TracebackType | None) -> str:
    """Return the name of the module in which an error was raised."""
    name = ""
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return str(name)
