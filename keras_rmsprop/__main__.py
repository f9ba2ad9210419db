"""The command line: `python -m keras_rmsprop --help`."""

import logging

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
    program()


if __name__ == "__main__":
    main()
