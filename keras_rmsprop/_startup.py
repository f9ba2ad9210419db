"""Import the package for `python -m keras_rmsprop` as a program should start.

Python imports a package, here with Keras and its backend, before it runs the package's `__main__`.
Start-up noise, a missing backend, and Ctrl-C during these seconds can be dealt with only while that
import lasts.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import NoReturn


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Run the block, which imports; tidily if it is for the command line."""
    if not _is_for_the_command_line():
        yield
        return
    if not is_debugging():
        sys.excepthook = _uncaught
    with tidy():
        yield


@contextlib.contextmanager
def tidy() -> Iterator[None]:
    """Run the block without noise; a failure exits with one sentence, and status 2.

    Ctrl-C exits with status 130. With `--debug` nothing is hidden.
    """
    if is_debugging():
        yield
        return
    try:
        with quiet():
            yield
    except KeyboardInterrupt:
        _end("Interrupted.", 130)
    except (ImportError, ValueError) as error:
        # A backend that is not installed, or not one.
        _end(f"Error: {' '.join(str(error).split())}", 2)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        _end(f"Error: {words} (unforeseen; --debug shows where)", 2)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard what the block writes to file descriptor 2, such as TensorFlow's start-up lines.

    TF_CPP_MIN_LOG_LEVEL, 3 unless it is set, silences TensorFlow's native code once it is
    initialized, but not these lines. At level 0 everything is shown.
    """
    try:
        is_shown = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0"
        stderr = None if is_shown else os.dup(2)
    except OSError:  # It is closed.
        stderr = None
    if stderr is None:
        yield
        return
    # Imported late, as Ctrl-C is dealt with only after the imports above.
    import tempfile

    with tempfile.TemporaryFile() as discarded:
        _flush()
        os.dup2(discarded.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(stderr, 2)
            os.close(stderr)


def is_debugging() -> bool:
    """Whether the command line has `--debug`."""
    return "--debug" in sys.argv[1:]


def _is_for_the_command_line() -> bool:
    """Whether Python is importing the package because of `python -m keras_rmsprop`."""
    arguments = getattr(sys, "argv", [])
    # While Python locates the module that it is to run.
    if arguments[:1] != ["-m"]:
        return False
    module = sys.orig_argv[-len(arguments)]
    return module.removeprefix("-m") == "keras_rmsprop"


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End with status 130 at Ctrl-C between two blocks; Python would end itself by a signal."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("Interrupted.", file=sys.stderr, flush=True)
    os._exit(130)


def _end(words: str, status: int) -> NoReturn:
    print(words, file=sys.stderr)
    raise SystemExit(status)
