"""Times one step of a decode: launched from Python, and replayed from a CUDA graph. Runs in a separate process, so that
a fault in one step costs one row; the process keeps the last model's weights.

A step's commits are undone between repetitions, outside the timed interval. A loaded profiler stays in its process and
slows launches, so profiles are taken separately, after the times.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ...decoders.capture.recorders import cuda_graph
from ...kernels.dispatch import Implementation, named, recording, using
from ..harness.devices import peak_memory_bytes, reset_peak_memory
from ..harness.gpu_clocks import ramp
from ..harness.records import Json
from .page import DOES_NOT_FIT, NOT_ON_A_CPU
from .point import StepPoint
from .prepared_step import DoesNotFit, PreparedStep, weights

_QUANTILES = (0.5, 0.2, 0.8)
_NUM_WARM_UPS = 3
_NUM_LARGEST = 8


class StepClock(Protocol):
    def measured(self, step: Callable[[], None], restore: Callable[[], None], result: Callable[[], Sequence[Tensor]]
                 ) -> Json:
        """Milliseconds of a step and further measurements; `restore` undoes a step, `result` copies what it wrote."""
        ...


@dataclass(frozen=True)
class HostClock:
    """Steps on a CPU, one by one."""

    num_steps: int = 5

    def measured(self, step: Callable[[], None], restore: Callable[[], None], result: Callable[[], Sequence[Tensor]]
                 ) -> Json:
        times = []
        for _ in range(self.num_steps + 1):
            restore()
            began = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - began))
        return {"eager_ms": quantiles(times[1:]), "graph_ms": None, "no_graph": NOT_ON_A_CPU}


@dataclass(frozen=True)
class GraphClock:
    """Steps on a GPU, launched from Python and replayed from a graph."""

    num_steps: int = 10
    num_replays: int = 25

    def measured(self, step: Callable[[], None], restore: Callable[[], None], result: Callable[[], Sequence[Tensor]]
                 ) -> Json:
        step()  # compiles
        restore()
        found: Json = {"eager_ms": self._launched(step, restore), "graph_ms": None}
        restore()
        step()
        expected = result()
        try:
            graph = _captured(step, restore)
            restore()
            graph.replay()
            if not all(torch.equal(one, other) for one, other in zip(result(), expected, strict=True)):
                return found | {"no_graph": "a replay commits something else than a step that is launched"}
            found["graph_ms"] = self._replayed(graph, restore)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return found | {"no_graph": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        return found

    def _launched(self, step: Callable[[], None], restore: Callable[[], None]) -> list[float]:
        """Milliseconds of steps that begin on an idle GPU; launch overhead dominates if it is larger."""
        times = []
        for _ in range(self.num_steps + 1):
            restore()
            start, end = _events()
            torch.cuda.synchronize()
            start.record()
            step()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return quantiles(times[1:])

    def _replayed(self, graph: torch.cuda.CUDAGraph, restore: Callable[[], None]) -> list[float]:
        # Replays are queued ahead of the GPU, so that no launch overhead falls between two events.
        pairs = [_events() for _ in range(self.num_replays + _NUM_WARM_UPS)]
        for start, end in pairs:
            restore()
            start.record()
            graph.replay()
            end.record()
        torch.cuda.synchronize()
        return quantiles([start.elapsed_time(end) for start, end in pairs[_NUM_WARM_UPS:]])


def summary(activities: Sequence[tuple[str, float]]) -> Json:
    """The profile, from the name and milliseconds of each activity on the GPU."""
    if not activities:
        return {"no_profile": "the profiler saw nothing on the GPU"}
    milliseconds: dict[str, float] = {}
    for name, duration in activities:
        milliseconds[name] = milliseconds.get(name, 0.0) + duration
    counts = Counter(name for name, _ in activities)
    num_copies = sum(count for name, count in counts.items() if name.startswith(("Memcpy", "Memset")))
    largest = sorted(milliseconds, key=lambda name: -milliseconds[name])[:_NUM_LARGEST]
    return {"num_kernels": len(activities) - num_copies, "num_copies": num_copies,
            "busy_ms": sum(milliseconds.values()), "largest": [
                {"name": name, "count": counts[name], "ms": milliseconds[name]} for name in largest]}


def _captured(step: Callable[[], None], restore: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of one step, warmed up on the stream that captures."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_NUM_WARM_UPS):
            step()
            restore()
    return cuda_graph(step, stream)[0]


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def quantiles(values: Sequence[float]) -> list[float]:
    """Median, 20th and 80th percentile."""
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()


@torch.inference_mode()
def measured(point: StepPoint, device_name: str, clock: StepClock | None = None) -> Json:
    """The row of a point: times, roofline bounds, experts touched, and the kernels that ran; or that it does not
    fit."""
    device = torch.device(device_name)
    clock = clock or (GraphClock() if device.type == "cuda" else HostClock())
    with using(Implementation.named(point.kernels)), recording() as ran:
        try:
            step = _ready(point, device_name)
        except DoesNotFit as error:
            return {DOES_NOT_FIT: str(error)}
        reset_peak_memory(device)
        touched = step.distinct_experts()
        facts = ramp(device)
        found = clock.measured(step, step.restore, step.committed)
    mean_touched = sum(touched) / len(touched) if touched else None
    return {**found, **point.floors(mean_touched), "distinct_experts": touched,
            "expected_experts": point.expected_experts(), "peak_memory_bytes": peak_memory_bytes(device),
            "hardware": facts, "threads": torch.get_num_threads(), "kernels": named(ran)}


@torch.inference_mode()
def profiled(point: StepPoint, device_name: str) -> Json:
    """The GPU profile of one launched step of a point: kernels, copies, their time, and the largest kernels."""
    with using(Implementation.named(point.kernels)):
        step = _ready(point, device_name)
        step()  # compiles
        step.restore()
        torch.cuda.synchronize()
        try:
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                step()
                torch.cuda.synchronize()
        except RuntimeError as error:
            return {"no_profile": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return summary([(event.name, event.time_range.elapsed_us() / 1e3) for event in profiler.events() or []
                    if event.device_type.name == "CUDA"])


def _ready(point: StepPoint, device_name: str) -> PreparedStep:
    return PreparedStep.of(point, weights(point, device_name))
