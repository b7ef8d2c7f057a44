"""Progress display: a bar with the remaining time on a terminal, a line every 15 seconds in a log."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0

_file = sys.stderr if sys.stderr is not None else Path(os.devnull).open("w")  # noqa: SIM115  open to the end
console = Console(file=_file, highlight=False, soft_wrap=True, width=None if _file.isatty() else 110)


_in_lines = False


def print_lines() -> None:
    """Print lines instead of bars on a terminal too, since other processes print to it."""
    global _in_lines
    _in_lines = True


class Bar(Protocol):
    def update(self, done: int, facts: str) -> None:
        """`done` of the total are finished; `facts` is a short text next to the bar."""
        ...


@contextmanager
def bar(title: str, total: int, start: int = 0) -> Iterator[Bar]:
    """A bar of `total` units, of which `start` are done already."""
    if _in_lines or not console.is_terminal:
        yield _LogLines(title, total, start)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"),
               TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total, completed=start, facts="")
        yield _TerminalBar(progress, task)


@dataclass(frozen=True)
class _TerminalBar:
    progress: Progress
    task: object

    def update(self, done: int, facts: str) -> None:
        self.progress.update(self.task, completed=done, facts=facts)  # pyright: ignore[reportArgumentType]


@dataclass
class _LogLines:
    title: str
    total: int
    start: int
    began: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)

    def update(self, done: int, facts: str) -> None:
        now = time.monotonic()
        if now - self.printed < _SECONDS_BETWEEN_LINES or done <= self.start:
            return
        left = (now - self.began) / (done - self.start) * (self.total - done)
        console.print(f"{self.title}  {done}/{self.total}  {facts}  {left:.0f} s left", markup=False)
        self.printed = now
