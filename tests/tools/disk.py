"""Let no file grow, as on a full disk."""

import contextlib
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def full(free: int = 100) -> Iterator[None]:
    """Refuse this process to write more than so many bytes to a file."""
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that tells of it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
