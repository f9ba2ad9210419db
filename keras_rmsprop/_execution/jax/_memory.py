"""Memory for the second copy: how much the device has, new arrays, and which arrays share some."""

import collections
import contextlib
import functools
import operator
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp

# What `sys.getrefcount` returns for an object that only a list references.
SOLE_REFERENCE = max(map(sys.getrefcount, [object()]))


def allocated(like: Sequence[jax.Array]) -> list[jax.Array]:
    """Return new arrays of the same shapes and dtypes, on the same devices."""
    if len(like) > 8 and not any(array.committed for array in like):
        return _zeros(tuple((array.shape, array.dtype) for array in like))
    return [jnp.zeros(x.shape, x.dtype, device=x.sharding if x.committed else None) for x in like]


@functools.partial(jax.jit, static_argnums=0)
def _zeros(avals: tuple[tuple[tuple[int, ...], Any], ...]) -> list[jax.Array]:
    return [jnp.zeros(shape, dtype) for shape, dtype in avals]


# On a CPU the C library returns memory of this many bytes to the system when an array is freed
# (`DEFAULT_MMAP_THRESHOLD_MAX` of glibc). The system clears it, page by page, when it is allocated
# again, which takes longer than the rest of a step.
LARGE = 2**25


def reusable(arrays: Sequence[jax.Array]) -> list[int]:
    """Return the indices of the arrays of which a second copy is kept (see `_double_buffer`).

    None on accelerators, whose memory JAX keeps; in a free-threaded Python, where reference counts
    are not reliable; and if arrays are spread over several devices.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return []
    if any(len(array.sharding.device_set) > 1 for array in arrays):
        return []
    setting = os.environ.get("KERAS_RMSPROP_JAX_SECOND_COPY", "auto")
    if setting in ("0", "1"):
        return list(range(len(arrays))) if setting == "1" else []
    large = [i for i, array in enumerate(arrays) if array.nbytes >= LARGE]
    needed: dict[Any, int] = {}
    for i in large:
        for device in arrays[i].devices():
            needed[device] = needed.get(device, 0) + arrays[i].nbytes
    pays = all(
        device.platform == "cpu" and 8 * size <= _memory_of(device)
        for device, size in needed.items()
    )
    return large if pays else []


def with_aliases(arrays: Sequence[jax.Array]) -> set[int]:
    """Return the indices of the arrays whose memory another array shares.

    JAX makes such an array without any sign of it, for example by `jax.device_put` to the device
    that the array is already on. (It never donates memory that is exported to NumPy or by DLPack.)
    """
    # They are the arguments of one program, so all on devices of one platform.
    device: Any = next(iter(arrays[0].devices()))
    live = jax.live_arrays(device.platform)
    mine = list(map(_ADDRESS, arrays))
    try:
        addresses = list(map(_ADDRESS, live))
    except RuntimeError:
        # Some array has several addresses or none.
        addresses = [address for array in live for address in _addresses(array)]
    if sum(map(set(mine).__contains__, addresses)) == len(arrays):
        # Each array itself.
        return set()
    counts = collections.Counter(addresses)
    return {i for i, address in enumerate(mine) if counts[address] > 1}


_ADDRESS = operator.methodcaller("unsafe_buffer_pointer")


def _addresses(array: jax.Array) -> list[int]:
    """Return the addresses of the memory of an array, which may be spread over devices."""
    try:
        if len(array.sharding.device_set) == 1:
            return [_ADDRESS(array)]
        return [_ADDRESS(shard.data) for shard in array.addressable_shards]
    except RuntimeError:
        # It has been deleted.
        return []


@functools.cache
def _memory_of(device: Any) -> int:
    """Return a device's total memory in bytes; for a CPU, what the process may use."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    limits = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in _CGROUP_LIMITS:
        # Without a limit the file contains the word "max".
        with contextlib.suppress(ValueError, OSError):
            limits.append(int(pathlib.Path(name).read_text()))
    return min(limits, default=sys.maxsize)


_CGROUP_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)
