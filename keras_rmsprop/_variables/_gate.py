"""A lock that lets one thread read a consistent state while another makes steps.

Steps hold the gate while they write, readers while they read. A step never waits for another step:
the replicas of a TensorFlow strategy are threads that wait for each other within a step, so they
would deadlock.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

# Longer than any step or read, in seconds. A thread that has waited this long proceeds anyway.
PATIENCE = 60.0

# The interval in seconds at which to check who holds the gate.
POLL = 0.001


class Gate:
    """Keeps steps and readers of one optimizer apart; a copied optimizer gets its own gate."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()
        # How many nested steps hold the mutex; 0 if a reader holds it.
        self._steps = 0
        # The threads that make a step without the mutex, while another thread's step holds it.
        self._loose: set[int] = set()

    def enter(self) -> bool:
        """Let a step in; return whether it holds the gate."""
        if not self._mutex.acquire(blocking=False):
            waited, me = 0.0, threading.get_ident()
            while not self._mutex.acquire(timeout=POLL):
                waited += POLL
                # Registered before checking: a reader that enters after the other step has left
                # must see this one.
                self._loose.add(me)
                if self._steps or waited > PATIENCE:
                    return False
                self._loose.discard(me)
        self._steps += 1
        return True

    def leave(self, held: bool) -> None:
        """Leave the gate after a step."""
        if held:
            self._steps -= 1
            self._mutex.release()
        else:
            self._loose.discard(threading.get_ident())

    def step(self) -> "_Passage":
        """Return a context in which to make a step."""
        return _Passage(self)

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Return a context in which no other thread makes a step."""
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


class _Passage:
    """The context of one step. A generator would take three times as long."""

    __slots__ = ("_gate", "_held")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        self._held = self._gate.enter()

    def __exit__(self, *_: object) -> None:
        self._gate.leave(self._held)
