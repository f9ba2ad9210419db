"""The bandwidth limit: how fast this machine can make a plain step at all.

A plain step has to read weight, square average and gradient and write the first two: 20 bytes per
float32 parameter. A single-pass loop over all cores is bound by that traffic. It is written in C;
without a C compiler it is left out.

The triad of the STREAM benchmark (McCalpin 1995), a = b + q * c, is the usual measure of a
machine's bandwidth. It runs over as many elements as it takes to move those 20 bytes in STREAM's
own counting, 12 bytes per element, which ignores that a cache line is read before it is written. On
an accelerator, a copy moves the same number of bytes.
"""

import concurrent.futures
import ctypes
import functools
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.measure import Array, Builders, Contender, NotComparableError
from benchmarks.problems import EPSILON, LEARNING_RATE, Problem

RHO = 0.9
LOOP, TRIAD, COPY = "fused C loop", "STREAM triad", "device copy"
COMPILER = shutil.which("cc")
# With fewer parameters the caches are measured instead of the memory.
TRIAD_FROM = 10_000_000
# For smaller tensors a thread costs more than it gains.
THREADS_FROM = 100_000

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


def bound(problem: Problem, copy: Callable[[int], Contender] | None) -> Builders:
    """Return the bound by its name: the loop, or on an accelerator a copy."""
    if copy is None:
        return {LOOP: functools.partial(fused_loop, problem)}

    def copy_as_many_bytes() -> Contender:
        _refuse_options(problem)
        # 10 bytes per parameter read and as many written.
        return copy(max(1, 5 * problem.parameters // 2))

    return {COPY: copy_as_many_bytes}


def fused_loop(problem: Problem) -> Contender:
    """Return the loop over all cores, in place on its own arrays."""
    _refuse_options(problem)
    weights = [w.copy() for w in problem.start]
    tensors = [
        (w.reshape(-1), np.zeros(w.size, np.float32), g.reshape(-1))
        for w, g in zip(weights, problem.gradients, strict=True)
    ]
    step = _over_cores("step", tensors, RHO, 1.0 - RHO, LEARNING_RATE, EPSILON)
    return step._replace(weights=lambda: weights)


def triad(problem: Problem) -> Contender:
    """Return the triad over all cores, moving as many bytes as the plain step."""
    _refuse_options(problem)
    size = 5 * problem.parameters // 3
    return _over_cores("triad", [tuple(np.ones(size, np.float32) for _ in range(3))], 0.5)


def _refuse_options(problem: Problem) -> None:
    if problem.options:
        raise NotComparableError("the limit stands for the plain step only")


def _over_cores(name: str, tensors: Sequence[tuple[Array, ...]], *numbers: float) -> Contender:
    """Run a function of the library over triples of arrays, splitting large ones over the cores."""
    if COMPILER is None:
        raise NotComparableError("there is no C compiler")
    function, pool, cores = getattr(_library(COMPILER), name), _threads(), machine.cores()
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_size_t] + [ctypes.c_float] * len(numbers)
    function.restype = None
    shares = [_shares(t, cores if t[0].size > THREADS_FROM else 1) for t in tensors]

    def run(share: tuple[Array, ...]) -> None:
        function(*(array.ctypes.data for array in share), share[0].size, *numbers)

    def step() -> None:
        for tensor in shares:
            if len(tensor) == 1:
                run(tensor[0])
            else:
                list(pool.map(run, tensor))

    return Contender(step, wait=lambda: None, weights=None)


def _shares(arrays: tuple[Array, ...], count: int) -> list[tuple[Array, ...]]:
    edges = np.linspace(0, arrays[0].size, count + 1).astype(int)
    return [tuple(array[i:j] for array in arrays) for i, j in itertools.pairwise(edges)]


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(machine.cores())


@functools.cache
def _library(compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "loops.c"), Path(folder, "loops.so")
        source.write_text(_SOURCE)
        subprocess.run([compiler, *_FLAGS, source, "-o", library, "-lm"], check=True)
        return ctypes.CDLL(str(library))
