"""The process of one engine: what `in_turns.py` asks it, and how much memory of its own it took."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import torch

from ...kernels.dispatch import named, recording
from ..harness.records import Json
from .engines import Engine, Running, Task

_STATUS = Path("/proc/self/status")
_SECONDS_BETWEEN_LOOKS = 0.005

_running: dict[str, Running] = {}


def memory_bytes(kind: str) -> int:
    """The process's resident memory of a kind of /proc/self/status: RssAnon, its own, or RssFile, that of files."""
    found = re.search(rf"^{kind}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{_STATUS} does not tell {kind}")
    return 1024 * int(found[1])


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """What the process's own memory is, looked at every few milliseconds."""
    seen, done = [memory_bytes("RssAnon")], threading.Event()

    def look() -> None:
        while not done.wait(_SECONDS_BETWEEN_LOOKS):
            seen.append(memory_bytes("RssAnon"))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen.append(memory_bytes("RssAnon"))


def started(engine: Engine, path: Path, task: Task) -> Json:
    """Load the engine's weights; how long that took, the memory that it took at most, and the libraries' versions."""
    torch.set_num_threads(task.threads)
    began = time.perf_counter()
    with watched_memory() as seen:
        _running["engine"] = engine.start(path, task)
    return {"start_seconds": time.perf_counter() - began, "start_peak_bytes": max(seen),
            "versions": {name: metadata.version(name) for name in ("torch", *engine.libraries)}}


def decoded(prompt: list[int]) -> Json:
    """One decode, and what ran in it where that is this library's."""
    with recording() as ran:
        found = _running["engine"].decode(prompt)
    return asdict(found) | {"kernels": named(ran), "own_bytes": memory_bytes("RssAnon"),
                            "file_bytes": memory_bytes("RssFile")}


def forward_seconds(prompt: list[int], repeats: int) -> list[float]:
    """Of so many forwards behind the prompt, after a first one that is not counted."""
    run, seconds = _running["engine"].forward(prompt), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]
