"""The resident memory of this process, current and peak."""

import re
import resource
import sys
from pathlib import Path

import psutil

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def now() -> int:
    """Return the current resident bytes."""
    return psutil.Process().memory_info().rss


# psutil provides the peak on Windows only.


def forget_peak() -> None:
    """Reset the peak to the current bytes; works on Linux only."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak() -> int:
    """Return the peak resident bytes."""
    if _STATUS.exists():
        (kibibytes,) = re.findall(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        return 1024 * int(kibibytes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
