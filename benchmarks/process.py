"""Fresh processes: one for each backend, and one for whatever happens once in a process only."""

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

# A fork would inherit the framework's state.
_CONTEXT = multiprocessing.get_context("spawn")


class ProcessDiedError(Exception):
    """The process ended otherwise than by the end of its work; the message says how."""


def stream(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    """Run a generator function in a fresh process and yield what it yields, as it does.

    Raises: ProcessDiedError once the process has ended with an error, or was killed.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()  # So that the pipe ends with the process.
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        pass
    finally:
        receiver.close()
        process.join()
    if process.exitcode:
        raise ProcessDiedError(f"the process ended with code {process.exitcode}")


def _send(
    sender: Connection, function: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]
) -> None:
    for item in function(*arguments):
        sender.send(item)
