"""The step benchmark as an experiment: its rows, its budget, what a failure costs, and the rehearsals on a CPU."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.harness.roofline import Card
from quicksilver.experiments.harness.worker import CallFailed, CutShort
from quicksilver.experiments.step_bench import experiment as step_bench
from quicksilver.experiments.step_bench.experiment import StepBench
from quicksilver.experiments.step_bench.point import ModelShape, StepPoint
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import ExpertShape, FusedHead, SeparateHead, Shape

DENSE = ModelShape(20, Shape(width=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_width=8))
MIXED = ModelShape(20, Shape(width=16, num_layers=1, num_heads=2, num_kv_heads=1,
                             experts=ExpertShape(8, 4, Routing(2))))


def bench(**changes: Any) -> StepBench:
    settings: dict[str, Any] = {
        "shapes": {"dense": DENSE, "mixed": MIXED}, "contexts": [16, 32], "blocks": [1, 4, 8],
        "heads": {"separate": SeparateHead(), "fused": FusedHead()}, "reference_block": 4, "device": "cpu",
        "kernels": "auto", "dtype": "float32", "seconds": 1000, "card": "H200"}
    return StepBench(**(settings | changes))


def test_a_model_s_most_telling_rows_come_first_and_the_reference_once() -> None:
    points = list(bench(device="cuda").points())
    assert [point.name for point in points] == ["dense"] * 17 + ["mixed"] * 17
    first = [(point.context, point.block, point.head_name, point.kernels) for point in points[:9]]
    assert first == [(16, None, "separate", "triton"), (16, 4, "separate", "triton"), (16, 1, "separate", "triton"),
                     (16, 8, "separate", "triton"), (16, None, "fused", "triton"), (16, 4, "fused", "triton"),
                     (16, 1, "fused", "triton"), (16, 8, "fused", "triton"), (16, 4, "separate", "reference")]
    assert len(set(points)) == len(points)
    assert all(point.max_length == 40 for point in points)


def test_on_a_cpu_its_own_kernels_run_unless_triton_is_asked_for() -> None:
    assert {point.kernels for point in bench().points()} == {"cpu"}
    assert {point.kernels for point in bench(kernels="triton").points()} == {"reference", "triton"}
    assert {point.kernels for point in bench(kernels="triton", reference_block=None).points()} == {"triton"}


@pytest.mark.parametrize(("changes", "reason"), [
    ({"shapes": {}}, "shapes="), ({"shapes": {"x": 3}}, "shapes.x=3"), ({"heads": {}}, "heads="),
    ({"contexts": []}, "contexts="), ({"contexts": [16, 16]}, "contexts="), ({"blocks": [0]}, "blocks=0"),
    ({"blocks": [3]}, "block=3: must divide context=16"), ({"device": "tpu"}, "device='tpu'"),
    ({"kernels": "cuda"}, "kernels='cuda'"), ({"seconds": 0}, "seconds=0"), ({"dtype": "int4"}, "dtype='int4'"),
    ({"reference_block": 0}, "reference_block=0"),
    ({"card": "H300"}, "card='H300': must be one of H200, H100, A100, measured")], ids=str)
def test_bad_settings_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bench(**changes).check()


class Worker:
    """Stands in for the process that measures: every row takes as long as it is told; one point fails, is late, or is
    interrupted; profiles say how often they were asked for."""

    seconds, failing, asked = 0.0, -1, 0
    error: BaseException = CallFailed("OutOfMemoryError: CUDA out of memory")
    limits: ClassVar[list[float]] = []
    profiled: ClassVar[list[str]] = []

    def __init__(self, environment: dict[str, str]) -> None:
        self.num_ended = 0

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing to stop."""

    def end(self) -> None:
        self.num_ended += 1

    def ask(self, function: Any, point: StepPoint, device: str, seconds: float) -> dict[str, Any]:
        kind = type(self)
        if function is step_bench.profiled:
            kind.profiled.append(point.label)
            return {"num_kernels": len(kind.profiled)}
        kind.asked += 1
        kind.limits.append(seconds)
        Clock.now += kind.seconds
        if kind.asked - 1 == kind.failing:
            raise kind.error
        return {"graph_ms": [1.0, 0.9, 1.1], "eager_ms": [2.0, 1.9, 2.1], "distinct_experts": [], **point.floors()}


class Clock:
    now = 0.0

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    monkeypatch.setattr(step_bench, "Worker", Worker)
    monkeypatch.setattr(step_bench, "time", Clock)
    for name, value in {"seconds": 0.0, "failing": -1, "error": Worker.error, "asked": 0, "limits": [],
                        "profiled": []}.items():
        monkeypatch.setattr(Worker, name, value)
    return Worker


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(step_bench.console, "print", lambda text, **_: lines.append(str(text)))
    return lines


def rows(folder: Path) -> list[dict[str, Any]]:
    return JsonLines(folder / "steps" / "rows.jsonl").rows()


def test_every_row_is_recorded_and_a_second_run_measures_nothing(tmp_path: Path, worker: type[Worker]) -> None:
    experiment = bench()
    assert experiment.run(tmp_path) == 0
    found = rows(tmp_path)
    assert len(found) == worker.asked == len(list(experiment.points())) == 32
    assert found[0]["point"]["kind"] == "StepPoint"
    assert found[0]["provenance"]["device"] == "cpu"
    assert found[0]["provenance"]["dtype"] == "float32"
    assert found[0]["provenance"]["kernels"] == "cpu"
    assert experiment.run(tmp_path) == 0
    assert worker.asked == 32


def test_a_row_that_fails_is_recorded_with_its_reason_the_others_go_on_and_it_is_tried_again(
        tmp_path: Path, worker: type[Worker], said: list[str]) -> None:
    worker.failing = 2
    assert bench().run(tmp_path) == 1
    assert [row["result"].get("failed") for row in rows(tmp_path)[1:4]] == [
        None, "OutOfMemoryError: CUDA out of memory", None]
    assert said[0].startswith("failed: dense, context 16, block of 1, separate head, cpu: OutOfMemoryError")
    report = tmp_path / "steps" / "report.md"
    assert "- failed: OutOfMemoryError: CUDA out of memory (16 block of 1 separate cpu)" in report.read_text()
    assert bench().run(tmp_path) == 0
    assert worker.asked == 33
    assert "failed" not in report.read_text()


def test_a_row_that_does_not_fit_is_recorded_fails_nothing_and_is_tried_again(
        tmp_path: Path, worker: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "does not fit: 33 GB of 23 GB that are free"
    monkeypatch.setattr(worker, "ask", lambda *_, **__: {"does_not_fit": reason})
    assert bench().run(tmp_path) == 0
    assert {row["result"]["does_not_fit"] for row in rows(tmp_path)} == {reason}
    assert reason in (tmp_path / "steps" / "report.md").read_text()
    assert bench().run(tmp_path) == 0
    assert len(rows(tmp_path)) == 64


def test_the_time_of_others_on_the_machine_is_not_its_own(
        tmp_path: Path, worker: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def waits() -> Iterator[None]:
        Clock.now += 10_000
        yield

    monkeypatch.setattr(step_bench, "machine_alone", waits)
    assert bench().run(tmp_path) == 0
    assert worker.asked == 32


def test_floors_are_of_this_machine_where_its_cpu_is_timed(tmp_path: Path, worker: type[Worker],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_bench, "this_machine", lambda dtype: Card("this CPU", 1e9, {dtype: 1e9}))
    bench(card=None).run(tmp_path)
    page = (tmp_path / "steps" / "report.md").read_text()
    assert "on this CPU: 1 GB/s, 0.001 TFLOP/s in float32" in page
    assert "Break-even, predicted for this CPU" in page
    bench(card="A100").run(tmp_path)
    assert "on A100: 2,039 GB/s" in (tmp_path / "steps" / "report.md").read_text()


def test_each_model_has_its_share_of_the_time_and_what_is_left_is_said(
        tmp_path: Path, worker: type[Worker], said: list[str]) -> None:
    worker.seconds = 10.0
    assert bench(seconds=65).run(tmp_path) == 0
    names = [row["point"]["name"] for row in rows(tmp_path)]
    assert names == ["dense"] * 4 + ["mixed"] * 3
    assert said[0] == "25 of 32 rows are missing; the same command goes on from here"
    assert "not measured: the time ran out" in (tmp_path / "steps" / "report.md").read_text()
    worker.seconds = 0.0
    bench(seconds=65).run(tmp_path)
    assert len(rows(tmp_path)) == 32


def test_a_late_row_gets_what_is_left_and_ten_seconds(tmp_path: Path, worker: type[Worker]) -> None:
    worker.seconds = 10.0
    bench(seconds=65).run(tmp_path)
    assert worker.limits == pytest.approx([42.5, 32.5, 22.5, 12.5, 35.0, 25.0, 15.0])


def test_a_row_that_the_end_of_the_time_cut_is_missing_and_not_failed(
        tmp_path: Path, worker: type[Worker], said: list[str]) -> None:
    worker.failing, worker.error = 2, CutShort("no answer within 12 s")
    assert bench().run(tmp_path) == 0
    assert said[:2] == ["cut: dense, context 16, block of 1, separate head, cpu: no answer within 12 s",
                        "1 of 32 rows are missing; the same command goes on from here"]
    assert len(rows(tmp_path)) == 31
    assert bench().run(tmp_path) == 0
    assert worker.asked == 33


def test_an_interrupted_run_reports_what_it_has_and_says_what_is_missing(
        tmp_path: Path, worker: type[Worker], said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    worker.failing = 4
    monkeypatch.setattr(worker, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench().run(tmp_path)
    assert said[0] == "28 of 32 rows are missing; the same command goes on from here"
    assert said[-1] == f"report: {tmp_path / 'steps' / 'report.md'}"
    report = (tmp_path / "steps" / "report.md").read_text()
    assert report.count("| 1.000 | 0.900 - 1.100 |") == 4
    assert "not measured: the time ran out" in report


def test_on_a_gpu_profiles_come_after_all_times_once_a_row(
        tmp_path: Path, worker: type[Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(step_bench, "device_name", lambda device: "a GPU")
    experiment = bench(device="cuda", reference_block=None, heads={"separate": SeparateHead()}, contexts=[16])
    points = list(experiment.points())
    ask, first = worker.ask, list[object]()

    def noting(self: Worker, function: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        first.append(function)
        return ask(self, function, *arguments, **options)

    monkeypatch.setattr(worker, "ask", noting)
    assert experiment.run(tmp_path) == 0
    assert first == [step_bench.measured] * 8 + [step_bench.profiled] * 8
    assert worker.profiled == [point.label for point in reversed(points)]
    assert [row["result"].get("num_kernels") for row in rows(tmp_path)] == [None] * 8 + list(range(1, 9))
    assert experiment.run(tmp_path) == 0
    assert len(first) == 16


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "quicksilver.experiments", "experiment=step_bench", *arguments],
                          cwd=cwd, text=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_the_command_prints_floors_and_succeeds(tmp_path: Path) -> None:
    finished = run(cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.startswith("not measured: no GPU here\n")
    assert finished.stdout == ""
    for text in ("LLaDA-8B", "Qwen3-8B", "LLaDA-MoE-7B-A1B", "LLaDA2-mini", "block 32     4.844        9.20  (163.3)"):
        assert text in finished.stderr
    assert [path.name for path in (tmp_path / "runs" / "steps").iterdir()] == ["report.md"]


@pytest.mark.slow
def test_the_rehearsal_on_a_cpu_times_tiny_shapes_and_records_them(tmp_path: Path) -> None:
    arguments = ["shapes=tiny", "device=cpu", "experiment.contexts=[16]", "experiment.blocks=[8]",
                 "experiment.reference_block=null"]
    finished = run(*arguments, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = rows(tmp_path / "runs")
    assert len(found) == 8
    assert all(row["result"]["eager_ms"][0] > 0 for row in found)
    assert {row["point"]["name"] for row in found} == {"tiny dense", "tiny mixture"}
    assert {row["result"]["kernels"]["commit"] for row in found} == {"reference"}
