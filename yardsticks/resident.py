"""The memory of this process as the system sees it: its resident bytes, now and at their peak."""

import re
import resource
import sys
from pathlib import Path

import psutil

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def now() -> int:
    """Return the bytes in use."""
    return psutil.Process().memory_info().rss


# psutil tells the peak on Windows only.


def forget_peak() -> None:
    """Start a new peak at the bytes in use now; only Linux can."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak() -> int:
    """Return the peak in bytes."""
    if _STATUS.exists():
        (kibibytes,) = re.findall(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        return 1024 * int(kibibytes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
