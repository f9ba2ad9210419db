"""Files that a failure, such as a full disk, leaves valid."""

import contextlib
import os
import weakref
from pathlib import Path


class Appending:
    """A file that each `write` extends completely or not at all."""

    def __init__(self, path: Path) -> None:
        """Open a file at its end, creating it and its folder if they do not exist.

        Args:
            path: of the file.

        Raises: OSError if it cannot be opened.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: what was written survives if the process is killed.
        self._file = path.open("ab", buffering=0)
        # An exception in `fit` leaves nobody to close it.
        self._finalizer = weakref.finalize(self, self._file.close)

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises: OSError if that fails; the file is then as before, if the system permits.
        """
        end = self._file.seek(0, os.SEEK_END)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise

    def close(self) -> None:
        """Close the file."""
        self._finalizer()


def replace(path: Path, text: str) -> None:
    """Write a text file such that a reader finds the old text or the new.

    Args:
        path: of the file; its folder is created if it does not exist.
        text: the new text.

    Raises: OSError if that fails; the file is then as before.
    """
    # A link stays a link.
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`, whose files only their owner can read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Line ends as given, on every system.
        temporary.write_bytes(text.encode("utf-8"))
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
