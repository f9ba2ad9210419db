"""How does another thread read the state while steps are made, and get that of one step?

A step holds the gate while it writes, and a reader while it reads. A step does not wait for
another step: the replicas of a TensorFlow strategy are threads that wait for each other within
one, and would wait forever.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

# Longer than any step and any read of a state; who has waited so long goes on. In seconds.
PATIENCE = 60.0

# How long to wait before a look at who holds the gate.
POLL = 0.001


class Gate:
    """Keeps steps and readers of one optimizer apart; a copy has a gate of its own."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        # Whether it is a step that holds the mutex, and how many lie within one another.
        self._steps = 0
        # The threads that make a step without it, while a step of another thread's holds it.
        self._loose: set[int] = set()

    def enter(self) -> bool:
        """Let a step in; returns whether it holds the gate."""
        if not self._mutex.acquire(blocking=False):
            waited, me = 0.0, threading.get_ident()
            while not self._mutex.acquire(timeout=POLL):
                waited += POLL
                # Entered before the look: who reads once that step has left must know of this one.
                self._loose.add(me)
                if self._steps or waited > PATIENCE:
                    return False
                self._loose.discard(me)
        self._steps += 1
        return True

    def leave(self, held: bool) -> None:
        """Let others in again."""
        if held:
            self._steps -= 1
            self._mutex.release()
        else:
            self._loose.discard(threading.get_ident())

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Within the context a step is made."""
        held = None
        try:
            held = self.enter()
            yield
        finally:
            if held is not None:
                self.leave(held)

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Within the context no step is made by another thread."""
        held = self._mutex.acquire(timeout=PATIENCE)
        try:
            waited = 0.0
            while self._loose - {threading.get_ident()} and waited < PATIENCE:
                time.sleep(POLL)
                waited += POLL
            yield
        finally:
            if held:
                self._mutex.release()

    def __deepcopy__(self, _: Any) -> "Gate":
        return Gate()

    def __reduce__(self) -> tuple[Any, ...]:
        return Gate, ()
