"""Interruption (SIGINT) that comes once, and in one process: `timeout` and a terminal send it to every process of a
group, and `timeout` twice to the first, where the second would break the report that the first lets it write."""

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
    """A handler that raises KeyboardInterrupt, except so soon after the last one that it is the same interruption."""

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
    """Let an interruption end the process with one line, while it imports and has done nothing: a KeyboardInterrupt
    would be raised inside a library, which need not let it through."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def interrupt_once() -> None:
    """Let an interruption raise KeyboardInterrupt once; where a shell has switched interruption off it stays off."""
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _end):
        signal.signal(signal.SIGINT, _Once())


def leave_interrupts_to_parent() -> None:
    """In a child process: the parent is interrupted as well, and ends this process when it is done with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
