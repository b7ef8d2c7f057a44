"""Times a kernel and its peers on a GPU. Runs in a separate process, so that a fault in one call costs one row.

Two clocks, never mixed in a column: `do_bench` launches from Python and flushes the cache before every call; CUDA graph
replay excludes launch overhead: warm on one set of inputs, cold on at least four that exceed the cache. A row says
where the two disagree, as they do of small kernels.
"""

import gc
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import triton.testing
from torch import Tensor

from ...kernels.case import Case, tensors_of
from ...kernels.dispatch import Implementation, using
from ...kernels.host_memory import cache_bytes, free_memory_bytes
from ..harness.gpu_clocks import ramp
from ..harness.records import Json
from .competitors import OURS, contender
from .rows import clock_ratio, clocks_disagree
from .verify import TOLERANCES, compared, copied, outputs, verdict

_LEAST_CACHE_BYTES = 60e6
_INFINITY_CACHE_BYTES = 2**28  # of an MI300, not reported by its driver
_MIN_INPUT_SETS, _MAX_INPUT_SETS = 4, 4096
_MAX_MEMORY_SHARE = 0.5  # of the free memory, for sets of inputs
_QUANTILES = (0.5, 0.2, 0.8)
_COPY_ELEMENTS, _PRODUCT_WIDTH = 2**30, 8192
_MAX_PEER_ERROR = 0.05  # relative error above which a peer is not timed


class Clock(Protocol):
    """Microseconds a call, of each of several repetitions."""

    def flushed(self, call: Callable[[], Any]) -> list[float]:
        """Launched from Python, the cache flushed before each call."""
        ...

    def replayed(self, calls: Sequence[Callable[[], Any]]) -> list[float]:
        """From the replay of a CUDA graph of the calls in sequence."""
        ...

    def sampler(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], float]:
        """What gives one repetition of `replayed` a call: for those that are taken in turns."""
        ...


@dataclass(frozen=True)
class CudaClock:
    """The GPU's own clock. `warm_up` and `repeat` are milliseconds under do_bench; `replay` is the milliseconds of one
    graph's calls, estimated from launching them one by one."""

    warm_up: int = 10
    repeat: int = 60
    replay: float = 10.0
    num_replays: int = 25
    max_calls: int = 4096

    def flushed(self, call: Callable[[], Any]) -> list[float]:
        found: Any = triton.testing.do_bench(call, warmup=self.warm_up, rep=self.repeat, return_mode="all")
        return [1e3 * milliseconds for milliseconds in found]

    def replayed(self, calls: Sequence[Callable[[], Any]]) -> list[float]:
        graph, num_calls = self._captured(calls)
        # Replays are queued ahead of the GPU, so that no launch overhead falls between two events.
        events = [torch.cuda.Event(enable_timing=True) for _ in range(self.num_replays + 1)]
        events[0].record()
        for event in events[1:]:
            graph.replay()
            event.record()
        torch.cuda.synchronize()
        return [1e3 * start.elapsed_time(end) / num_calls for start, end in itertools.pairwise(events)]

    def sampler(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], float]:
        graph, num_calls = self._captured(calls)
        return lambda: 1e3 * self._launched([graph.replay]) / num_calls

    def _captured(self, calls: Sequence[Callable[[], Any]]) -> tuple[torch.cuda.CUDAGraph, int]:
        """A warm graph of the calls in sequence, over and over, and how many they are."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for call in calls[:3]:  # compile and allocate before the capture
                call()
            estimate = self._launched(calls)
        rounds = max(1, min(int(self.replay / max(estimate, 1e-3)), self.max_calls // len(calls)))
        graph = torch.cuda.CUDAGraph()
        gc.collect()
        gc.disable()  # unloading a module would break the capture
        try:
            with torch.cuda.graph(graph, stream=stream):
                for _ in range(rounds):
                    for call in calls:
                        call()
        finally:
            gc.enable()
        torch.cuda.synchronize()
        for _ in range(3):
            graph.replay()
        return graph, rounds * len(calls)

    @staticmethod
    def _launched(calls: Sequence[Callable[[], Any]]) -> float:
        """Milliseconds of all calls, launched one by one."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def timed(case: Case, dtype_name: str, name: str, device_name: str = "cuda", clock: Clock | None = None) -> Json:
    """The row of one implementation on one case: its errors, and its times if it agrees with the reference, before and
    after."""
    function = contender(case, name)
    gate = verdict(case, dtype_name, device_name, None if name == OURS else function)
    correct = gate["passed"] if name == OURS else gate["error"] is not None and gate["error"] < _MAX_PEER_ERROR
    if not correct:
        return {"gate": gate, "failed": "wrong result: not timed"}
    device = torch.device(device_name)
    with using(Implementation.TRITON if name == OURS else None), torch.no_grad():
        return {"gate": gate, "hardware": ramp(device), **times(case, dtype_name, function, device,
                                                                clock or CudaClock())}


def times(case: Case, dtype_name: str, function: Callable[..., Any], device: torch.device, clock: Clock) -> Json:
    """Each clock's median, 20th and 80th percentile in microseconds, and its `samples`; the memory that a call takes
    beside its arguments (None on a CPU); `clocks_disagree`.
    No times, but the reason, if a call gives another result afterwards."""
    dtype = getattr(torch, dtype_name)
    inputs = [case.inputs(dtype, device)]
    before, extra_bytes = _first_call(function, copied(inputs[0]), device)
    flushed_us = clock.flushed(lambda: function(*inputs[0]))
    samples = {"flushed_us": flushed_us} if flushed_us else {}
    found: Json = {"warm_us": None, "cold_us": None, "extra_bytes": extra_bytes}
    num_sets, too_many = cold_sets(case, inputs[0], dtype)
    try:
        samples["warm_us"] = clock.replayed([lambda: function(*inputs[0])])
        if too_many is None:
            inputs += [case.inputs(dtype, device) for _ in range(num_sets - 1)]
            samples["cold_us"] = clock.replayed([lambda chosen=chosen: function(*chosen) for chosen in inputs])
        else:
            found["no_cold"] = too_many
    except (RuntimeError, torch.OutOfMemoryError) as error:  # a peer that reads the device cannot be captured
        found["no_graph"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    error, num_differ = compared(outputs(function(*copied(inputs[0]))), before)
    if error > TOLERANCES[dtype_name] or num_differ:
        return {"failed": f"another result after timing: error {error:.1e}, {num_differ} integers differ"}
    found |= {name: quantiles(values) for name, values in samples.items()}
    ratio = clock_ratio(found.get("flushed_us"), found["cold_us"] or found["warm_us"])
    return found | {"samples": samples, "clock_ratio": ratio, "clocks_disagree": clocks_disagree(ratio)}


def _first_call(function: Callable[..., Any], arguments: tuple[Any, ...], device: torch.device
                ) -> tuple[list[Tensor], int | None]:
    """The call's outputs, and the most memory that it held beside its arguments, outputs included."""
    if device.type != "cuda":
        return outputs(function(*arguments)), None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    found = outputs(function(*arguments))
    torch.cuda.synchronize()
    return found, torch.cuda.max_memory_allocated() - held


def quantiles(values: Sequence[float]) -> list[float]:
    """Median, 20th and 80th percentile."""
    return torch.tensor(values, dtype=torch.float64).quantile(torch.tensor(_QUANTILES, dtype=torch.float64)).tolist()


def cold_sets(case: Case, inputs: tuple[Any, ...], dtype: torch.dtype) -> tuple[int, str | None]:
    """The number of input sets that together touch twice the cache's size, and the reason if that is out of reach. A
    case may touch less than its inputs hold: a few rows of a store, some of the experts."""
    touched, held, device = case.cost(dtype).num_bytes, num_bytes(inputs), next(tensors_of(inputs)).device
    num_sets = max(_MIN_INPUT_SETS, math.ceil(2 * _cache_bytes(device) / max(1, min(touched, held))))
    if num_sets > _MAX_INPUT_SETS:
        return num_sets, f"{_MAX_INPUT_SETS} sets of inputs fit the cache"
    if num_sets * held > _MAX_MEMORY_SHARE * _free_bytes(device):
        return num_sets, f"{num_sets} sets of inputs do not fit the memory"
    return num_sets, None


def _cache_bytes(device: torch.device) -> float:
    """The size of the last-level cache, or an upper bound on it."""
    if device.type != "cuda":
        return max(cache_bytes(), _LEAST_CACHE_BYTES)
    counted = torch.cuda.get_device_properties(device).L2_cache_size
    return max(counted, _LEAST_CACHE_BYTES, _INFINITY_CACHE_BYTES if torch.version.hip else 0)


def _free_bytes(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()


def num_bytes(values: Any) -> int:
    """The bytes of all tensors among a case's arguments."""
    return sum(tensor.nbytes for tensor in tensors_of(values))


def ceilings(device_name: str = "cuda", clock: Clock | None = None, elements: int = _COPY_ELEMENTS,
             width: int = _PRODUCT_WIDTH, dtype_name: str = "bfloat16") -> Json:
    """The device's measured peaks: bytes per second of a copy, read and written, and FLOPs per second of a product of
    random square matrices."""
    clock, facts, dtype = clock or CudaClock(), ramp(torch.device(device_name)), getattr(torch, dtype_name)
    source = torch.ones(elements, dtype=dtype, device=device_name).bernoulli_()
    target = torch.empty_like(source)

    def timed_alone(call: Callable[[], Any]) -> list[float]:
        return quantiles(clock.flushed(call) or clock.replayed([call]))

    copied_us = timed_alone(lambda: target.copy_(source))
    a_EE, b_EE = torch.randn(2, width, width, device=device_name).to(dtype)
    multiplied_us = timed_alone(lambda: torch.mm(a_EE, b_EE))
    return {"hardware": facts, "copy_us": copied_us, "product_us": multiplied_us,
            "bytes_per_second": 1e6 * 2 * source.nbytes / copied_us[0],
            "flops_per_second": 1e6 * 2 * width**3 / multiplied_us[0]}
