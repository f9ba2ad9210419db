"""A lock that lets one thread read a consistent state while another makes steps.

Steps hold the gate while they write, readers while they read. A step never waits for another step:
the replicas of a TensorFlow strategy are threads that wait for each other within a step, so they
would deadlock.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# Longer than any step or read, in seconds. A thread that has waited this long proceeds anyway.
PATIENCE = 60.0

# The interval in seconds at which to check who holds the gate.
POLL = 0.001


class Gate:
    """Keeps steps and readers of one optimizer apart; a copied optimizer gets its own gate."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        # Whether a reader holds the mutex, rather than a step.
        self._reads = False
        # The threads that make a step without the mutex, while another thread's step holds it.
        self._loose: set[int] = set()

    def make_step(self, step: Callable[..., None], *arguments: Any) -> None:
        """Call `step(*arguments)` while no other thread reads."""
        if self._mutex.acquire(blocking=False):
            # A Ctrl-C can arrive at every call of Python code, but not within the lock's own
            # context, which is C code. So the lock is never left behind.
            with self._mutex:
                self._mutex.release()
                step(*arguments)
        else:
            self._make_step_beside(step, *arguments)

    def _make_step_beside(self, step: Callable[..., None], *arguments: Any) -> None:
        """Make a step once the other thread has left, or at once if it makes a step as well."""
        waited, me = 0.0, threading.get_ident()
        try:
            while not self._mutex.acquire(timeout=POLL):
                waited += POLL
                # Registered before checking: a reader that enters after the other step has left
                # must see this one.
                self._loose.add(me)
                if not self._reads or waited > PATIENCE:
                    step(*arguments)
                    return
                self._loose.discard(me)
        finally:
            self._loose.discard(me)
        with self._mutex:
            self._mutex.release()
            step(*arguments)

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Return a context in which no other thread makes a step."""
        held = self._mutex.acquire(timeout=PATIENCE)
        waited, is_nested = 0.0, self._reads
        try:
            self._reads = held or is_nested
            while self._loose - {threading.get_ident()} and waited < PATIENCE:
                time.sleep(POLL)
                waited += POLL
            yield
        finally:
            if held:
                self._reads = is_nested
                self._mutex.release()

    def __deepcopy__(self, _: Any) -> "Gate":
        return Gate()

    def __reduce__(self) -> tuple[Any, ...]:
        return Gate, ()
