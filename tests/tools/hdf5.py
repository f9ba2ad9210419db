"""Make files of Keras that lead to other files."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def _storage(group: Any, name: str, shape: tuple[int, ...], folder: Path) -> None:
    np.ones(shape, np.float32).tofile(folder / "other.bin")
    size = 4 * int(np.prod(shape))
    group.create_dataset(name, shape, np.float32, external=[(str(folder / "other.bin"), 0, size)])


def _link(group: Any, name: str, shape: tuple[int, ...], folder: Path) -> None:
    group[name] = h5py.ExternalLink(_other(folder, shape), "/x")


def _link_behind_a_soft_one(group: Any, name: str, shape: tuple[int, ...], folder: Path) -> None:
    group.file[name] = h5py.ExternalLink(_other(folder, shape), "/")
    group[name] = h5py.SoftLink(f"/{name}/x")


def _virtual(group: Any, name: str, shape: tuple[int, ...], folder: Path) -> None:
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[...] = h5py.VirtualSource(_other(folder, shape), "x", shape)
    group.create_virtual_dataset(name, layout)


def _other(folder: Path, shape: tuple[int, ...]) -> str:
    """Write a file with numbers, and return its path."""
    path = folder / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(shape, np.float32)
    return str(path)


WAYS_OUT: dict[str, Callable[..., None]] = {
    "storage": _storage,
    "link": _link,
    "link behind a soft one": _link_behind_a_soft_one,
    "virtual": _virtual,
}


def lead_out(path: Path, way: str) -> str:
    """Replace the last slot in a file of Keras by one in another file, beside it.

    Returns: the name of the entry that leads there.
    """
    if path.suffix == ".h5":
        return _lead_out(path, path.parent, way)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO(contents["model.weights.h5"])
    entry = _lead_out(weights, path.parent, way)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**contents, "model.weights.h5": weights.getvalue()}.items():
            archive.writestr(name, content)
    return entry


def _lead_out(content: Any, folder: Path, way: str) -> str:
    with h5py.File(content, "a") as file:
        group = file["optimizer/vars"]
        name = max(group, key=int)
        shape = group[name].shape
        del group[name]
        WAYS_OUT[way](group, name, shape, folder)
    return name if "behind" in way else f"optimizer/vars/{name}"
