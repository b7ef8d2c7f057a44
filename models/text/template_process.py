"""Chat templates run in a process of their own, which may take so much memory and time and no more.

A template asks for any amount of either in a few characters, and in more ways than could be forbidden one by one:
'a' * 10**10, loops in loops, a text doubled fifty times. The process is started at the first template, serves all that
follow, and is replaced where one ends it.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any, cast

_WORKER = Path(__file__).with_name("template_worker.py")


@dataclass(frozen=True)
class Bounds:
    """Of one text: the characters it may have, the address space of its process and the seconds of a processor."""

    characters: int = 1 << 24
    memory_bytes: int = 1 << 29
    seconds: int = 5


BOUNDS = Bounds()


class TemplateRefused(Exception):
    """A template is none, refuses what it is given, or takes too much: one line."""


def rendered(source: str, variables: Mapping[str, Any], bounds: Bounds | None = None) -> str:
    """The text that a template of `source` writes of the variables, which JSON must be able to hold, within the bounds
    (None: BOUNDS). TemplateRefused says why there is none."""
    bounds = BOUNDS if bounds is None else bounds
    try:
        request = json.dumps({"source": source, "variables": dict(variables), **asdict(bounds)})
    except (TypeError, ValueError, RecursionError) as error:
        raise TemplateRefused(f"its variables must be values of JSON ({error})") from None
    answer = _PROCESS.asked(request.encode())
    if isinstance(answer, int):
        raise TemplateRefused(f"takes more than {bounds.seconds} s of a processor" if answer == -signal.SIGXCPU
                              else f"its process ended with status {answer}")
    if "error" in answer:
        raise TemplateRefused(answer["error"])
    return answer["text"]


class _Process:
    """The process, started when it is first asked; a process that is forked from this one has its own."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def asked(self, request: bytes) -> dict[str, str] | int:
        """The answer, or the exit status with which the process ended before there was one."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._process, self._owner = _started(), os.getpid()
            process, answer = self._process, b""
            try:
                answer = _exchanged(process, request)
            finally:
                if not answer.endswith(b"\n"):  # nor may whoever asks next read the answer to this
                    self.end()
            return json.loads(answer) if answer.endswith(b"\n") else process.wait()

    def end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                cast(IO[bytes], pipe).close()


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-P", str(_WORKER)], bufsize=0, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _exchanged(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """A line, or what there is of one where the process ends."""
    try:
        cast(IO[bytes], process.stdin).write(request + b"\n")
    except BrokenPipeError:
        return b""
    return cast(IO[bytes], process.stdout).readline()


_PROCESS = _Process()
atexit.register(_PROCESS.end)
