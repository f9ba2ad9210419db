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


# With fewer bytes, allocating memory for the results takes no longer than checking the old one.
SECOND_COPY_FROM = 2**20


def keeps_second_copy(arrays: Sequence[jax.Array]) -> bool:
    """Whether steps over these arrays keep a second copy of them to donate (see `_double_buffer`).

    Never in a free-threaded Python, where reference counts are not reliable, nor for arrays spread
    over several devices.
    """
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    if any(len(array.sharding.device_set) > 1 for array in arrays):
        return False
    setting = os.environ.get("KERAS_RMSPROP_JAX_SECOND_COPY", "auto")
    if setting in ("0", "1"):
        return setting == "1"
    needed: dict[Any, int] = {}
    for array in arrays:
        for device in array.devices():
            needed[device] = needed.get(device, 0) + array.nbytes
    return sum(needed.values()) >= SECOND_COPY_FROM and all(
        8 * size <= _memory_of(device) for device, size in needed.items()
    )


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
