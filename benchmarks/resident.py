"""The memory of this process as the system sees it: the peak of its resident bytes."""

import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak() -> None:
    """Start a new peak at the bytes in use now; only Linux can."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def peak() -> int:
    """Return the peak in bytes."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
