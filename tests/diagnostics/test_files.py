"""Test that files stay valid when writing fails."""

import errno
import os
import stat

import pytest

from keras_rmsprop._diagnostics import _files


class FullDisk:
    """A raw file on a disk that has room for `room` more bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        """Write what there is room for, as the system does."""
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._file.write(bytes(data[: self._room]))
        self._room -= written
        return written

    def __getattr__(self, name):
        """Leave everything else to the file."""
        return getattr(self._file, name)


def test_what_is_appended_is_there_at_once(tmp_path):
    file = _files.Appending(tmp_path / "new" / "folder" / "file")
    file.write(b"one\n")
    file.write(b"two\n")
    assert (tmp_path / "new/folder/file").read_bytes() == b"one\ntwo\n"
    file.close()
    again = _files.Appending(tmp_path / "new/folder/file")
    again.write(b"three\n")
    again.close()
    assert (tmp_path / "new/folder/file").read_bytes() == b"one\ntwo\nthree\n"


def test_short_writes_are_completed(tmp_path):
    file = _files.Appending(tmp_path / "file")

    class Slow(FullDisk):
        def write(self, data):
            return self._file.write(bytes(data[:2]))

    file._file = Slow(file._file, 0)
    file.write(b"seven b")
    assert (tmp_path / "file").read_bytes() == b"seven b"
    file.close()


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    file = _files.Appending(tmp_path / "file")
    file.write(b"complete\n")
    file._file = FullDisk(file._file, 3)
    with pytest.raises(OSError, match="No space left"):
        file.write(b"incomplete\n")
    assert (tmp_path / "file").read_bytes() == b"complete\n"
    file.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: _files.replace(path, "one\n"),
        lambda path: path.write_bytes(b"one\ntwo\n"),
    ],
    ids=["removed", "replaced", "extended"],
)
def test_what_something_else_has_written_is_not_extended(tmp_path, change):
    path = tmp_path / "file"
    file = _files.Appending(path)
    file.write(b"one\n")
    change(path)
    left = path.read_bytes() if path.exists() else None
    with pytest.raises(OSError, match="file was removed, replaced or extended by something else"):
        file.write(b"three\n")
    assert (path.read_bytes() if path.exists() else None) == left
    file.close()


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("€" * 85)
    _files.check_replaceable(path)
    assert list(tmp_path.iterdir()) == []
    _files.replace(path, "text")
    assert path.read_text() == "text"


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "page.html"
    _files.replace(path, "first")
    _files.replace(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


def test_a_file_can_be_read_by_those_who_can_read_new_files(tmp_path):
    umask = os.umask(0o022)
    try:
        _files.replace(tmp_path / "page.html", "text")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o644


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    _files.replace(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    _files.replace(path, "old")

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fails)
    with pytest.raises(OSError, match="No space left"):
        _files.replace(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
