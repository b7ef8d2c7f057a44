"""Locks between processes: one for each file being written, and one for the machine, shared by a user's processes.

Timing holds the machine lock exclusively; other heavy work (training) shares it. flock releases a lock when its process
ends, however it ends, so no stale lock remains.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MACHINE = Path(tempfile.gettempdir()) / f"quicksilver-{os.getuid()}.lock"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, which is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path, fcntl.LOCK_EX):
        yield


@contextmanager
def machine_alone() -> Iterator[None]:
    """Hold the machine lock exclusively, for timing: waits for this user's other work, then blocks it."""
    with _held(_MACHINE, fcntl.LOCK_EX):
        yield


@contextmanager
def machine_shared() -> Iterator[None]:
    """Hold the machine lock shared: for work that may run concurrently with other work, but not with timing."""
    with _held(_MACHINE, fcntl.LOCK_SH):
        yield


@contextmanager
def _held(path: Path, mode: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, mode)
        yield
