"""Defer Ctrl-C until an in-place step is complete.

Python can raise KeyboardInterrupt between any two bytecodes of the main thread, which would leave
a step half written.
"""

import signal
import threading
from types import FrameType
from typing import Any

try:
    # The C functions: those of `signal` convert each handler to an enum member and back, which
    # takes as long as a small step.
    from _signal import getsignal as _getsignal  # type: ignore[import-not-found, unused-ignore]
    from _signal import signal as _signal
except ImportError:
    from signal import getsignal as _getsignal
    from signal import signal as _signal

_main_thread_id = threading.main_thread().ident
_SIGINT = int(signal.SIGINT)


class deferred:  # noqa: N801 - a context manager, named as one reads it
    """Defer SIGINT to the end of the context.

    Does nothing in other threads, where signals are not handled, or if SIGINT has no Python
    handler. Entering and leaving takes about 3 microseconds.
    """

    __slots__ = ("_handler", "_received")

    def __enter__(self) -> None:
        self._handler: Any = None
        self._received: list[tuple[int, FrameType | None]] = []
        if threading.get_ident() == _main_thread_id:
            handler = _getsignal(_SIGINT)
            if callable(handler):
                # A signal that arrives before this assignment raises here, before the step.
                self._handler = handler
                _signal(_SIGINT, self._record)

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            _signal(_SIGINT, self._handler)
            for received in self._received:
                self._handler(*received)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._received.append((number, frame))
