"""How a step is captured: as the list of its operators, or as a CUDA graph."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..step import Step
from .tape import Tape

T = TypeVar("T")


@dataclass(frozen=True)
class Recorded:
    """A step that was taken, and a function that takes it again with what then stands in the same memory, writing the
    step's tensors; None where that cannot be, with the reason."""

    step: Step
    replay: Callable[[], None] | None
    reason: str | None = None


class Recorder(Protocol):
    def record(self, take: Callable[[], Step], constants: Sequence[Tensor]) -> Recorded:
        """Take a step and capture it. `constants` do not change between one step and another."""
        ...


class Operators(Recorder):
    """On any device, a GPU's Triton kernels excepted: the step's operators, run one after another."""

    def record(self, take: Callable[[], Step], constants: Sequence[Tensor]) -> Recorded:
        with Tape(constants) as tape:
            step = take()
        if tape.reason is not None:
            return Recorded(step, None, tape.reason)
        replay, step = tape.program(step)
        return Recorded(step, replay)


class CUDAGraphs(Recorder):
    """On a GPU. All graphs share one pool of memory, since they never run at the same time."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def record(self, take: Callable[[], Step], constants: Sequence[Tensor]) -> Recorded:
        try:
            graph, step = self._captured(take)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return Recorded(take(), None, f"{type(error).__name__}: {str(error).splitlines()[0]}")
        graph.replay()
        return Recorded(step, graph.replay)

    def _captured(self, take: Callable[[], Step]) -> tuple[torch.cuda.CUDAGraph, Step]:
        if self._stream is None:
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        return cuda_graph(take, self._stream, self._pool)


def cuda_graph(run: Callable[[], T], stream: torch.cuda.Stream, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """A graph of what `run` does, which has run before, and its result, which a replay writes."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    gc.collect()
    gc.disable()  # unloading a module would break the capture
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            result = run()
    finally:
        gc.enable()
    torch.cuda.synchronize()
    return graph, result


def recorder_for(device: torch.device) -> Recorder:
    return CUDAGraphs() if device.type == "cuda" else Operators()
