"""Locks between processes: one for each file being made, and one for the whole machine while something is timed.

Timed work holds the machine lock alone; other heavy work (training) shares it. flock releases a lock when its process
ends, however it ends, so nothing is ever left locked.
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
    """Hold `path` (made if missing) alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path, fcntl.LOCK_EX):
        yield


@contextmanager
def machine_alone() -> Iterator[None]:
    """Wait until no other process of this library works, then keep them waiting: for timing."""
    with _held(_MACHINE, fcntl.LOCK_EX):
        yield


@contextmanager
def machine_shared() -> Iterator[None]:
    """Work that may run beside other work, but not beside timing."""
    with _held(_MACHINE, fcntl.LOCK_SH):
        yield


@contextmanager
def _held(path: Path, mode: int) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, mode)
        yield
