"""What was measured on, and with which versions."""

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = (
    "keras_rmsprop", "keras", "tensorflow", "tf_keras", "jax", "optax", "torch", "numpy",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Return the machine and the versions, in words."""
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"),
        "system": platform.platform(),
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
