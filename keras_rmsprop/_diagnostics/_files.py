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
        self._place = path
        # Unbuffered: what was written survives if the process is killed.
        self._file = path.open("ab", buffering=0)
        self._end = self._file.seek(0, os.SEEK_END)
        # An exception in `fit` leaves nobody to close it.
        self._finalizer = weakref.finalize(self, self._file.close)

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises: OSError if that fails; the file is then as before, if the system permits. Also if
            something else has written the file, so that neither would have all of its lines.
        """
        end = self._file.seek(0, os.SEEK_END)
        if end != self._end or not self._is_there():
            raise OSError(
                f"{self._place} was removed, replaced or extended by something else, such as "
                "another OptimizerDiagnostics. Give each its own files"
            )
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise
        self._end = end + len(data)

    def close(self) -> None:
        """Close the file."""
        self._finalizer()

    def _is_there(self) -> bool:
        """Whether the path is still that of the file."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._place.stat())
        except FileNotFoundError:
            return False


def check_replaceable(path: Path) -> None:
    """Check that `replace` can write a file.

    Raises: OSError if it cannot.
    """
    _, temporary = _places(path)
    temporary.touch()
    temporary.unlink()


def replace(path: Path, text: str) -> None:
    """Write a text file such that a reader finds the old text or the new.

    Args:
        path: of the file; its folder is created if it does not exist.
        text: the new text.

    Raises: OSError if that fails; the file is then as before.
    """
    target, temporary = _places(path)
    try:
        # Line ends as given, on every system.
        temporary.write_bytes(text.encode("utf-8"))
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _places(path: Path) -> tuple[Path, Path]:
    """Return the file that a path leads to, and where to write what replaces it.

    They are in the same folder, which is created if it does not exist.
    """
    # A link stays a link.
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`, whose files only their owner can read. The name may be as long as names
    # can be, of which each letter takes up to four bytes.
    return target, target.with_name(f".{target.name[:40]}.{os.getpid()}.tmp")
