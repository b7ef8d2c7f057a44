"""The clocks of a step, on stand-ins of a GPU, and the row they make."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from quicksilver.experiments.step_bench import timing as step_timing
from quicksilver.experiments.step_bench.point import StepPoint
from quicksilver.experiments.step_bench.timing import GraphClock, HostClock, measured, profiled, summary

from tests.experiments.small_steps import MIXED, name, point


@pytest.mark.parametrize("of", [point(dtype="bfloat16"), point(MIXED, None, "fused", dtype="bfloat16")], ids=name)
def test_a_row_on_a_cpu_has_everything_but_a_graph(of: StepPoint) -> None:
    row = measured(of, "cpu", HostClock(2))
    median, low, high = row["eager_ms"]
    assert 0 < low <= median <= high
    assert row["graph_ms"] is None
    assert row["no_graph"] == "a CPU has none"
    assert row["kernels"]["commit"] == "reference"
    touched = row["distinct_experts"]
    assert row["floor_ms"] == of.floors(sum(touched) / len(touched) if touched else None)["floor_ms"]
    assert row["peak_memory_bytes"] > 0


class StandIn:
    """A GPU that does everything at once and takes a millisecond for whatever lies between two events."""

    def __init__(self, changes_on_replay: bool = False) -> None:
        self.changes_on_replay, self.now, self.capturing = changes_on_replay, 0.0, False
        self.captured: Callable[[], None] | None = None

    def event(self, enable_timing: bool) -> Any:
        event = SimpleNamespace(at=0.0)

        def record() -> None:
            self.now += 1.0
            event.at = self.now

        event.record, event.elapsed_time = record, lambda end: end.at - event.at
        return event

    @contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False

    def cuda_graph(self) -> Any:
        def replay() -> None:
            assert self.captured is not None
            self.captured()

        return SimpleNamespace(replay=replay)

    @contextmanager
    def profile(self, activities: Any) -> Iterator[Any]:
        def event(title: str, end: float, device: Any) -> Any:
            return SimpleNamespace(name=title, time_range=SimpleNamespace(elapsed_us=lambda: end), device_type=device)

        on, off = SimpleNamespace(name="CUDA"), SimpleNamespace(name="CPU")
        yield SimpleNamespace(events=lambda: [event("gemm", 300.0, on), event("gemm", 200.0, on),
                                              event("norm", 100.0, on), event("Memcpy DtoD", 50.0, on),
                                              event("cudaLaunchKernel", 9.0, off)])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    gpu = StandIn()
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for key, value in {"Event": gpu.event, "synchronize": lambda: None, "Stream": lambda: stream,
                       "current_stream": lambda: stream, "stream": lambda other: nullcontext(),
                       "CUDAGraph": gpu.cuda_graph, "graph": gpu.graph}.items():
        monkeypatch.setattr(torch.cuda, key, value)
    monkeypatch.setattr(step_timing, "profile", gpu.profile)
    return gpu


class Counter:
    """A step that counts: one is added, and taken back."""

    def __init__(self, gpu: StandIn) -> None:
        self.gpu, self.value, self.num_steps = gpu, torch.zeros(1), 0

    def step(self) -> None:
        if self.gpu.capturing:
            self.gpu.captured = self.replayed
            return
        self.num_steps += 1
        self.value += 1

    def replayed(self) -> None:
        self.value += 2 if self.gpu.changes_on_replay else 1

    def restore(self) -> None:
        self.value.zero_()

    def row(self) -> dict[str, Any]:
        return GraphClock(3, 4).measured(self.step, self.restore, lambda: [self.value.clone()])


def test_the_graph_clock_asks_a_gpu_for_everything_it_reports(stand_in: StandIn) -> None:
    counter = Counter(stand_in)
    row = counter.row()
    assert row["eager_ms"] == row["graph_ms"] == [1.0, 1.0, 1.0]
    assert "no_graph" not in row
    assert counter.value == 1


def test_no_profiler_is_loaded_where_steps_are_timed(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_timing, "profile", lambda **_: pytest.fail("a profiler slows every later launch"))
    assert Counter(stand_in).row().keys() == {"eager_ms", "graph_ms"}


def test_a_profile_counts_what_one_step_runs_on_the_gpu(stand_in: StandIn) -> None:
    row = profiled(point(), "cpu")
    assert (row["num_kernels"], row["num_copies"]) == (3, 1)
    assert row["busy_ms"] == pytest.approx(0.65)
    assert row["largest"][0] == {"name": "gemm", "count": 2, "ms": 0.5}


def test_a_replay_that_commits_something_else_has_no_time(stand_in: StandIn) -> None:
    stand_in.changes_on_replay = True
    row = Counter(stand_in).row()
    assert row["graph_ms"] is None
    assert "something else" in row["no_graph"]
    assert row["eager_ms"] == [1.0, 1.0, 1.0]


def test_what_cannot_be_captured_or_profiled_keeps_its_launched_time_and_says_why(
        stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    monkeypatch.setattr(step_timing, "profile", refuse)
    row = Counter(stand_in).row()
    assert row["eager_ms"] == [1.0, 1.0, 1.0]
    assert row["no_graph"] == "RuntimeError: not permitted when stream is capturing"
    assert profiled(point(), "cpu") == {"no_profile": row["no_graph"]}


def test_a_capture_that_runs_out_of_memory_is_no_missing_graph(
        stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        Counter(stand_in).row()


def test_a_profiler_that_sees_nothing_says_so() -> None:
    assert summary([]) == {"no_profile": "the profiler saw nothing on the GPU"}
