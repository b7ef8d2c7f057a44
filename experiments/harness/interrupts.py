"""SIGINT handled once, in one process. `timeout` and terminals send it to every process of a group, and `timeout` twice
to the first process: the second would abort the report that is written after the first."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

INTERRUPTED = "interrupted: the same command goes on from here"
_SAME_SECONDS = 1.0


@dataclass
class _Once:
    """A handler that raises KeyboardInterrupt, unless the last one was less than a second ago."""

    last: float = -math.inf

    def __call__(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if now - self.last >= _SAME_SECONDS:
            self.last = now
            raise KeyboardInterrupt


def _end(number: int, frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(130)


def end_when_interrupted() -> None:
    """Exit with one line on SIGINT during imports: a KeyboardInterrupt would be raised inside a library, which may
    swallow it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def interrupt_once() -> None:
    """Raise KeyboardInterrupt once for repeated SIGINTs. If the shell ignores SIGINT, it stays ignored."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _end):
        signal.signal(signal.SIGINT, _Once())


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold a SIGINT back until the block ends: for what may not be left half done. Only the main thread is ever
    interrupted."""
    handler, held = signal.getsignal(signal.SIGINT), []
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(signal.SIGINT, None)


def leave_interrupts_to_parent() -> None:
    """Ignore SIGINT in a child process: the parent gets it too, and ends the child itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
