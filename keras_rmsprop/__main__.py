"""The command line: `python -m keras_rmsprop --help`."""

import logging
import signal

from keras_rmsprop import _startup


def main() -> None:
    """Run the command line, and exit with its status."""
    if not _startup.is_debugging():
        # Frameworks log what they think of the machine; results and failures are printed.
        logging.disable(logging.WARNING)
    with _startup.tidy():
        try:
            from keras_rmsprop._command_line import program
        except ModuleNotFoundError as error:
            if error.name != "click":
                raise
            raise ImportError(
                'The command line needs click: pip install "keras_rmsprop[cli]".'
            ) from error
    try:
        program()
    finally:
        # What frameworks do at the end takes a moment, in which Ctrl-C has nothing left to stop:
        # it would write a traceback after the result, or end the process by the signal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
