"""How does another thread read the state while steps are made, and get that of one step?

A step holds the gate while it writes, and a reader while it reads. A step does not wait for
another step: the replicas of a TensorFlow strategy are threads that wait for each other within
one, and would wait forever.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

# Longer than any step and any read of a state; who has waited so long goes on.
PATIENCE = 60.0


class Gate:
    """Keeps steps and readers of one optimizer apart; a copy has a gate of its own."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        self._is_read = False

    def enter(self) -> bool:
        """Let a step in; returns whether it has to `leave` again."""
        # Where a step of another thread's holds the gate, this one goes on without it.
        return self._mutex.acquire(blocking=False) or (
            self._is_read and self._mutex.acquire(timeout=PATIENCE)
        )

    def leave(self) -> None:
        """Let others in again."""
        self._mutex.release()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Within the context a step is made."""
        entered = False
        try:
            entered = self.enter()
            yield
        finally:
            if entered:
                self.leave()

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Within the context no step is made by another thread."""
        held = self._mutex.acquire(timeout=PATIENCE)
        outer, self._is_read = self._is_read, True
        try:
            yield
        finally:
            self._is_read = outer
            if held:
                self._mutex.release()

    def __deepcopy__(self, _: Any) -> "Gate":
        return Gate()

    def __reduce__(self) -> tuple[Any, ...]:
        return Gate, ()
