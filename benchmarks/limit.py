"""The bandwidth limit: how fast can this machine make the plain step at all?

A plain step has to read weight, square average and gradient and to write the first two: 20
bytes per float32 parameter. One loop that does all of it in a single pass, on all cores, is
bound by that traffic. It is written in C; without a C compiler, in NumPy over blocks that
stay in the cache, which is slower and named so in the table.

The triad of the STREAM benchmark (McCalpin 1995), a = b + q * c, is the usual measure of a
machine's bandwidth. It is run over as many elements as move those 20 bytes in STREAM's own
counting, 12 bytes an element, which leaves out that a line is read before it is written.
"""

import concurrent.futures
import ctypes
import functools
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import Array, Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem

RHO = 0.9
COMPILER = shutil.which("cc")
NAME = "fused C loop" if COMPILER else "NumPy in blocks"
TRIAD = "STREAM triad"
# Below so many parameters the caches are measured and not the memory.
TRIAD_FROM = 10_000_000

_SOURCE = """
#include <math.h>
#include <stddef.h>
void step(float *restrict w, float *restrict s, const float *restrict g, size_t n,
          float keep, float weight, float learning_rate, float epsilon) {
    for (size_t i = 0; i < n; i++) {
        s[i] = keep * s[i] + weight * g[i] * g[i];
        w[i] -= learning_rate * g[i] / sqrtf(s[i] + epsilon);
    }
}
void triad(float *restrict a, const float *restrict b, const float *restrict c, size_t n,
           float q) {
    for (size_t i = 0; i < n; i++) a[i] = b[i] + q * c[i];
}
"""
# The two -fno flags let the compiler use vector square roots.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_BLOCK = 16_384

# Makes one step in place on parts of (weight, square average, gradient).
Kernel = Callable[[Array, Array, Array], None]


def fused_loop(problem: Problem) -> Contender:
    """The loop over all cores, in place on arrays of its own."""
    if problem.options:
        raise NotComparableError("the loop makes the plain step only")
    weights = [w.copy() for w in problem.start]
    flat = [(w.reshape(-1), np.zeros(w.size, np.float32)) for w in weights]
    kernel, threads, parts = _kernel(), _threads(), []
    for (w, s), g in zip(flat, problem.gradients, strict=True):
        # A thread costs more than a small tensor.
        count = threads.workers if w.size > 100_000 else 1
        parts.append(_shares(w, s, g.reshape(-1), count=count))

    def step() -> None:
        for tensor in parts:
            if len(tensor) == 1:
                kernel(*tensor[0])
            else:
                list(threads.pool.map(lambda part: kernel(*part), tensor))

    return Contender(step, wait=lambda: None, weights=lambda: weights)


def triad(problem: Problem) -> Contender:
    """The triad over all cores, moving as many bytes as the plain step."""
    if problem.options:
        raise NotComparableError("the triad stands for the plain step only")
    if COMPILER is None:
        raise NotComparableError("there is no C compiler")
    size = 5 * problem.parameters // 3
    arrays = [np.ones(size, np.float32) for _ in range(3)]
    function, threads = _library(COMPILER).triad, _threads()
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t, ctypes.c_float]
    function.restype = None
    parts = _shares(*arrays, count=threads.workers)

    def run(part: Sequence[Array]) -> None:
        function(*(array.ctypes.data for array in part), part[0].size, 0.5)

    return Contender(lambda: list(threads.pool.map(run, parts)), wait=lambda: None, weights=None)


def _shares(*arrays: Array, count: int) -> list[list[Array]]:
    """Cut flat arrays of one size into so many parts."""
    edges = np.linspace(0, arrays[0].size, count + 1).astype(int)
    return [[array[i:j] for array in arrays] for i, j in itertools.pairwise(edges)]


class _Threads:
    def __init__(self) -> None:
        self.workers = len(os.sched_getaffinity(0))
        self.pool = concurrent.futures.ThreadPoolExecutor(self.workers)


@functools.cache
def _threads() -> _Threads:
    return _Threads()


@functools.cache
def _kernel() -> Kernel:
    return _numpy_step if COMPILER is None else _c_step(COMPILER)


@functools.cache
def _library(compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "loops.c"), Path(folder, "loops.so")
        source.write_text(_SOURCE)
        subprocess.run([compiler, *_FLAGS, source, "-o", library, "-lm"], check=True)
        return ctypes.CDLL(str(library))


def _c_step(compiler: str) -> Kernel:
    function = _library(compiler).step
    pointer, number = ctypes.c_void_p, ctypes.c_float
    function.argtypes = [pointer] * 3 + [ctypes.c_size_t] + [number] * 4
    function.restype = None

    def step(w: Array, s: Array, g: Array) -> None:
        function(
            w.ctypes.data, s.ctypes.data, g.ctypes.data, w.size,
            RHO, 1.0 - RHO, LEARNING_RATE, EPSILON,
        )  # fmt: skip

    return step


def _numpy_step(w: Array, s: Array, g: Array) -> None:
    for start in range(0, w.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        square = np.square(g[part])
        square *= np.float32(1.0 - RHO)
        s[part] *= np.float32(RHO)
        s[part] += square
        root = np.sqrt(s[part] + np.float32(EPSILON))
        w[part] -= np.float32(LEARNING_RATE) * g[part] / root
