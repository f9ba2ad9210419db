"""How does a step stay whole when Ctrl-C comes in the middle of it?

Python raises KeyboardInterrupt between any two of its operations in the main thread. A step that
writes in place waits with it until it is made.
"""

import signal
import threading
from types import FrameType
from typing import Any

try:
    # The functions in C: those of `signal` turn each handler into an enumeration's member and back,
    # which takes as long as a small step.
    from _signal import getsignal as _getsignal  # type: ignore[import-not-found, unused-ignore]
    from _signal import signal as _signal
except ImportError:
    from signal import getsignal as _getsignal
    from signal import signal as _signal

_main_thread_id = threading.main_thread().ident
_SIGINT = int(signal.SIGINT)


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
            handler = _getsignal(_SIGINT)
            if callable(handler):
                # A signal that arrives before this assignment is raised here, before the step.
                self._handler = handler
                _signal(_SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            _signal(_SIGINT, self._handler)
            for received in self._received:
                self._handler(*received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received.append((number, frame))
