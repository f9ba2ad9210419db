"""How does a step stay whole when Ctrl-C comes in the middle of it?

Python raises KeyboardInterrupt between any two of its operations in the main thread. A step that
writes in place waits with it until it is made.
"""

import signal
import threading
from types import FrameType
from typing import Any

_main_thread_id = threading.main_thread().ident


class deferred:  # noqa: N801 - a context manager, named as one reads it
    """Hold SIGINT back within the context, and deliver it at its end.

    It does nothing in other threads, which no signal reaches, and where SIGINT has no handler of
    Python's. A pair of calls takes about 3 microseconds.
    """

    __slots__ = ("_handler", "_received")

    def __enter__(self) -> None:
        self._handler: Any = None
        self._received: list[tuple[int, FrameType | None]] = []
        if threading.get_ident() == _main_thread_id:
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                # A signal that arrives before this assignment is raised here, before the step.
                self._handler = handler
                signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            for received in self._received:
                self._handler(*received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.append((number, frame))
