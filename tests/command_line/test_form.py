"""Test that files are replaced whole or not at all, also at Ctrl-C."""

import contextlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keras_rmsprop._command_line import _form
from tests.conftest import BACKEND

if BACKEND != "jax":
    pytest.skip("does not depend on the backend", allow_module_level=True)


def one(target: Path, content: str) -> None:
    with _form.replacing(target) as temporary:
        temporary.write_text(content)


def several(target: Path, content: str) -> None:
    with _form.replacing_all(target) as folder:
        for name in ("data", "index"):
            (folder / f"{target.name}.{name}").write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text() if path.is_file() else "a folder" for path in folder.iterdir()
    }


@pytest.mark.parametrize("write", [one, several])
def test_ctrl_c_at_any_line_leaves_the_old_files_or_the_new(tmp_path, no_collection, write):
    target = tmp_path / "name"
    write(target, "new")
    after = contents(tmp_path)
    write(target, "old")
    before = contents(tmp_path)
    found = []
    for start in range(1, 10_000):
        write(target, "old")
        was_sent, was_interrupted = interrupted(lambda: write(target, "new"), start)
        left = contents(tmp_path)
        assert left in (before, after), start
        if not was_sent:
            break
        assert was_interrupted
        found.append(left)
    assert before in found
    assert after in found


def interrupted(write: Callable[[], None], start: int) -> tuple[bool, bool]:
    """Send SIGINT at a line, and return whether there was one so late, and an interrupt."""
    events = start

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal events
        if event == "line":
            events -= 1
            if events == 0:
                signal.raise_signal(signal.SIGINT)
        # Files that are open are not closed at once when `pathlib` is interrupted.
        name = str(frame.f_globals.get("__name__"))
        return trace if name in (_form.__name__, __name__, "contextlib", "shutil") else None

    previous = sys.gettrace()
    was_interrupted = True
    with contextlib.suppress(KeyboardInterrupt):
        try:
            sys.settrace(trace)
            write()
        finally:
            sys.settrace(previous)
        was_interrupted = False
    return events <= 0, was_interrupted


@pytest.mark.parametrize("failing", ["name.data", "name.index"])
def test_files_of_which_one_cannot_be_replaced_all_stay(tmp_path, failing):
    several(tmp_path / "name", "old")
    (tmp_path / failing).unlink()
    (tmp_path / failing).mkdir()
    before = contents(tmp_path)
    with pytest.raises(OSError, match="irectory"):
        several(tmp_path / "name", "new")
    assert contents(tmp_path) == before
