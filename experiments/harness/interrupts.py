"""SIGINT handled once, in one process. `timeout` and terminals send it to every process of a group, and `timeout` twice
to the first process: the second would abort the report that is written after the first."""

import contextlib
import math
import os
import signal
import time
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


def leave_interrupts_to_parent() -> None:
    """Ignore SIGINT in a child process: the parent gets it too, and ends the child itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
