"""Open HDF5 files, also those in models that Keras saves, if their content is all in them.

An entry of such a file may also be a link to another file, or a dataset whose numbers are bytes of
another file, whichever its author names. Reading it would copy what only the reader has access to.
"""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def opened_hdf5(content: Any) -> Iterator[Any]:
    """Open a file, and yield its root.

    Args:
        content: a path, or a binary file.

    Raises: ValueError if an entry leads out of the file, before anything is read of it; what h5py
        raises if it is no HDF5 file.
    """
    import h5py  # type: ignore[import-untyped]

    with h5py.File(content, "r") as file:
        found = _leading_out(file)
        if found is not None:
            raise ValueError(f"its entry {found!r} leads to another file, which is not read")
        yield file


def check_no_entry_leads_out(path: Path) -> None:
    """Refuse a model's file that `opened_hdf5` would refuse, without reading its arrays.

    Raises: ValueError that names the entry; what zipfile and h5py raise if the file is damaged.
    """
    import h5py

    # A file may be of both kinds.
    if h5py.is_hdf5(path):
        with opened_hdf5(path):
            pass
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        # Others are a model's assets, which may be anything.
        for name in archive.namelist():
            if name.startswith("model.weights") and name.endswith(".h5"):
                # In a compressed archive, each step back inflates all from the start.
                with opened_hdf5(io.BytesIO(archive.read(name))):
                    pass


def _leading_out(file: Any) -> str | None:
    """Return the name of an entry that is in another file, None if there is none.

    All of the file is looked at: a soft link from within what is read may lead to any of it.
    """
    import h5py

    # Links of further kinds are those that a program defines.
    inside = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)

    def out_by_link(name: bytes, link: Any) -> str | None:
        return None if link.type in inside else name.decode(errors="backslashreplace")

    def out_by_storage(name: str, entry: Any) -> str | None:
        is_out = isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual)
        return name if is_out else None

    # Both visit all entries once, and go on until there is a result. Neither follows soft links and
    # links to other files.
    found: str | None = file.id.links.visit(out_by_link, info=True)
    return file.visititems(out_by_storage) if found is None else found
