"""How a step is captured: as the list of its operators, which may be compiled, or as a CUDA graph."""

import gc
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from ...kernels.dispatch import Ran, recording
from ..step import Step
from .operators import replay_of
from .program import CannotCompile, compiled, first_line
from .tape import Tape

T = TypeVar("T")


@dataclass(frozen=True)
class Recorded:
    """A step that was taken, what ran in it, and a function that takes it again with what then stands in the same
    memory, writing the step's tensors; None where that cannot be. Another replay may overwrite what this one wrote.
    `reason` says why there is no replay, or none that is compiled where one was asked for."""

    step: Step
    ran: Ran
    replay: Callable[[], None] | None
    reason: str | None = None
    is_compiled: bool = False


class Recorder(Protocol):
    def record(self, take: Callable[[], Step]) -> Recorded:
        """Take a step and capture it."""
        ...


class Operators(Recorder):
    """On a CPU: the step's operators, run one after another or compiled to one program."""

    def __init__(self, *, compiles: bool = False) -> None:
        self._compiles = compiles
        self._programs: set[Hashable] = set()

    def record(self, take: Callable[[], Step]) -> Recorded:
        with recording() as ran, Tape() as tape:
            step = take()
        if tape.reason is not None:
            return Recorded(step, ran, None, tape.reason)
        entries, step = tape.finish(step)
        if not self._compiles:
            return Recorded(step, ran, replay_of(entries))
        try:
            program = compiled(entries, self._programs)
        except CannotCompile as error:
            return Recorded(step, ran, replay_of(entries), str(error))
        return Recorded(step, ran, program, is_compiled=True)


class CUDAGraphs(Recorder):
    """On a GPU. Graphs share a pool of memory, so a replay may overwrite the results of another one's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._keeps_pool: torch.cuda.CUDAGraph | None = None  # a pool whose graphs are all gone takes no other

    def record(self, take: Callable[[], Step]) -> Recorded:
        try:
            with recording() as ran, torch.cuda.device(self._device):
                graph, step = self._captured(take)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._pool = self._keeps_pool = None  # what is left of it is not known
            with recording() as ran:
                step = take()
            return Recorded(step, ran, None, first_line(error))
        graph.replay()
        return Recorded(step, ran, graph.replay)

    def _captured(self, take: Callable[[], Step]) -> tuple[torch.cuda.CUDAGraph, Step]:
        if self._stream is None:
            self._stream = _warm_stream(self._device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph, step = cuda_graph(take, self._stream, self._pool)
        self._keeps_pool = self._keeps_pool or graph
        return graph, step


def _warm_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream whose workspaces for products are not allocated by a graph, which would free them with itself."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for dtype in (torch.float32, torch.bfloat16):
            matrix = torch.ones(16, 16, dtype=dtype, device=device)
            torch.addmm(matrix[0], matrix, matrix)
    return stream


def cuda_graph(run: Callable[[], T], stream: torch.cuda.Stream, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """A graph of what `run` does, which has run before, and its result, which a replay writes."""
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    torch.cuda.synchronize()
    gc.collect()
    gc.disable()  # unloading a module would break the capture
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            result = run()
    finally:
        gc.enable()
        torch.cuda.set_stream(current)  # which a capture that fails does not
    torch.cuda.synchronize()
    return graph, result


def recorder_for(device: torch.device, *, compiles: bool = False) -> Recorder:
    """`compiles`: on a CPU steps are compiled."""
    return CUDAGraphs(device) if device.type == "cuda" else Operators(compiles=compiles)
