"""The clocks of a step, what is made of their times, and the row of a step."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from quicksilver.experiments.harness.records import Json
from quicksilver.experiments.step_bench import timing as step_timing
from quicksilver.experiments.step_bench.point import StepPoint
from quicksilver.experiments.step_bench.timing import GraphClock, HostClock, measured, profiled, summary

from tests.experiments.step_bench.small_steps import MIXED, name, point


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


@dataclass(frozen=True)
class Steps:
    """A step that adds `change` to a counter, and the graph of one."""

    counter: torch.Tensor
    change: int

    def __call__(self) -> None:
        self.counter.add_(self.change)

    def replay(self) -> None:
        self()


@pytest.fixture
def row_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Json]:
    """The row of a graph clock that is given its times, and a graph or the error of its capture."""
    def row(change: int = 1, error: Exception | None = None) -> Json:
        counter = torch.zeros(1)

        def captured(*_: object) -> Steps:
            if error is not None:
                raise error
            return Steps(counter, change)

        monkeypatch.setattr(GraphClock, "_launched", lambda *_: [3.0, 2.0, 4.0])
        monkeypatch.setattr(GraphClock, "_replayed", lambda *_: [1.0, 0.5, 2.0])
        monkeypatch.setattr(step_timing, "_captured", captured)
        return GraphClock().measured(Steps(counter, 1), Steps(counter, -1), lambda: [counter.clone()])

    return row


def test_a_graph_that_commits_what_a_launched_step_commits_has_its_time(row_of: Callable[..., Json]) -> None:
    assert row_of() == {"eager_ms": [3.0, 2.0, 4.0], "graph_ms": [1.0, 0.5, 2.0]}


def test_a_replay_that_commits_something_else_has_no_time(row_of: Callable[..., Json]) -> None:
    assert row_of(change=2) == {"eager_ms": [3.0, 2.0, 4.0], "graph_ms": None,
                                "no_graph": "a replay commits something else than a step that is launched"}


def test_what_cannot_be_captured_keeps_its_launched_time_and_says_why(row_of: Callable[..., Json]) -> None:
    error = RuntimeError("not permitted when stream is capturing\nand more")
    assert row_of(error=error) == {"eager_ms": [3.0, 2.0, 4.0], "graph_ms": None,
                                   "no_graph": "RuntimeError: not permitted when stream is capturing"}


def test_a_capture_that_runs_out_of_memory_is_no_missing_graph(row_of: Callable[..., Json]) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        row_of(error=torch.OutOfMemoryError("no room"))


def test_a_profile_counts_kernels_and_copies_and_names_the_largest() -> None:
    row = summary([("gemm", 0.3), ("norm", 0.1), ("gemm", 0.2), ("Memcpy DtoD", 0.05), ("Memset", 0.05)])
    assert (row["num_kernels"], row["num_copies"]) == (3, 2)
    assert row["busy_ms"] == pytest.approx(0.7)
    assert row["largest"][:2] == [{"name": "gemm", "count": 2, "ms": 0.5}, {"name": "norm", "count": 1, "ms": 0.1}]


def test_what_cannot_be_profiled_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("no permission to count\nand more")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(step_timing, "profile", refuse)
    assert profiled(point(), "cpu") == {"no_profile": "RuntimeError: no permission to count"}


def test_a_profiler_that_sees_nothing_says_so() -> None:
    assert summary([]) == {"no_profile": "the profiler saw nothing on the GPU"}
