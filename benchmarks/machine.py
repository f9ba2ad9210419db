"""Describe the machine and the versions that were measured."""

import importlib.metadata
import platform
import re
from pathlib import Path

import psutil

PACKAGES = (
    "keras_rmsprop", "keras", "tensorflow", "tf_keras", "jax", "optax", "torch", "numpy",
)  # fmt: skip


def describe() -> dict[str, str]:
    """Return the machine and the versions."""
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "system": platform.platform(),
        "load at the start": f"{psutil.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def cores() -> int:
    """Count the cores that this process may run on."""
    process = psutil.Process()
    # macOS has no CPU affinity.
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count()


def _processor() -> str:
    # On Linux neither Python nor psutil provides the brand.
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    brand = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    return brand[1] if brand else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
