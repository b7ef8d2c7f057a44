"""The experiment as a whole, on one small shape; and every kernel's configuration."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from quicksilver.experiments.__main__ import _with_every_kernel
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.harness.provenance import provenance, provenance_on
from quicksilver.experiments.kernel_bench import experiment as kernel_bench
from quicksilver.experiments.kernel_bench import stages as kernel_stages
from quicksilver.experiments.kernel_bench.baseline import HOW_TO_UPDATE
from quicksilver.experiments.kernel_bench.experiment import KernelBench, KernelCases
from quicksilver.experiments.kernel_bench.page import KernelReport
from quicksilver.experiments.kernel_bench.stages import Compiled
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .rehearsal import NoCase, fake_ceilings, fake_timer

ROOT = Path(__file__).resolve().parents[3]
CONF, EXPERIMENTS = ROOT / "conf", ROOT / "experiments"
KERNELS = sorted(path.stem for path in (CONF / "kernel").glob("*.yaml"))
MODELS = ("LLaDA-8B", "Qwen3-8B", "LLaDA-MoE-7B-A1B", "LLaDA2-mini", "Mistral-Small-4-like")
CASES = KernelCases(["bfloat16"], [AddRMSNormCase(2, 40)], {"LLaDA-8B row": AddRMSNormCase(1, 4096)})


def bench(baseline: Path) -> KernelBench:
    return KernelBench({"rms_norm": CASES}, targets=["sm_90"], other_tritons=[], full=False, update_baseline=False,
                       baseline=str(baseline), seconds=1, num_processes=1)


def test_every_kernel_is_found_where_none_is_named_and_builds_its_cases() -> None:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        config = compose("config", overrides=["experiment=kernel_bench"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config = _with_every_kernel(config, HydraConfig.get())
        experiment = instantiate(config.experiment, _convert_="all")
        assert sorted(experiment.kernels) == KERNELS
        experiment.check()
        for name, kernel in experiment.kernels.items():
            assert isinstance(kernel, KernelCases)
            assert kernel.shapes, name
            if kernel.dtypes:  # else it is for CPUs alone
                assert kernel.tiny, name
                assert not [shape for shape in kernel.shapes if not shape.startswith(MODELS)], name
        named = compose("config", overrides=["experiment=kernel_bench", "kernel=[rms_norm]"], return_hydra_config=True)
        HydraConfig.instance().set_config(named)
        assert list(_with_every_kernel(named, HydraConfig.get()).kernel) == ["rms_norm"]
        other = compose("config", overrides=["task=sudoku4"], return_hydra_config=True)
        HydraConfig.instance().set_config(other)
        assert _with_every_kernel(other, HydraConfig.get()) is other


def test_a_function_that_no_tiny_case_executes_is_named(tmp_path: Path) -> None:
    stages = kernel_bench._Stages(bench(tmp_path), tmp_path)
    stages.compiled.records = [{"function": "_one_kernel"}, {"function": "_other_kernel"}]
    stages.judged = [{"ran": "interpreter"}, {"functions": {"_one_kernel": 3}}]
    assert stages.unexecuted() == ["_other_kernel: no tiny case executes it as compiled"]


def test_a_full_run_executes_every_type_in_several_schedules_by_every_triton(tmp_path: Path) -> None:
    short, full = (kernel_bench._Stages(replace(bench(tmp_path), full=full, targets=["gfx942", "sm_90", "sm_80"],
                                                other_tritons=["elsewhere"]), tmp_path) for full in (False, True))
    assert [item.dtype for item in short.executed] == ["bfloat16"]
    assert [item.dtype for item in full.executed] == ["float32", "float16", "bfloat16"]
    assert short.execution == kernel_bench.ExecutionStage(["sm_80", "sm_90"], (None,), 1, 1)
    assert full.execution == kernel_bench.ExecutionStage(["sm_80", "sm_90"], (None, "elsewhere"), 3, 1)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU does")
def test_a_run_without_a_gpu_compiles_judges_and_guards(tmp_path: Path) -> None:
    accepting = replace(bench(tmp_path / "baseline"), update_baseline=True)
    accepting.check()
    assert accepting.run(tmp_path / "runs") == 0
    assert [path.name.partition("-triton")[0] for path in (tmp_path / "baseline").iterdir()] == ["rms_norm"]
    folder = tmp_path / "runs" / "kernels"
    (program,) = JsonLines(folder / "programs.jsonl").rows()
    assert (program["target"], program["shapes"]) == ("sm_90", ["LLaDA-8B row, bfloat16"])
    assert program["wide_loads"] is True
    assert program["provenance"]["device"] == "none"
    assert "kernels" not in program["provenance"]
    verdicts = JsonLines(folder / "verdicts.jsonl").rows()
    assert {(row["dtype"], row["ran"]) for row in verdicts} == {
        *((dtype, "interpreter") for dtype in ("float32", "float16", "bfloat16")),
        ("bfloat16", "executed as compiled for sm_90")}
    for row in verdicts:
        assert row["passed"]
        assert set(row["kernels"].values()) == {"triton"}
    assert not (folder / "times.jsonl").exists()
    page = (folder / "report.html").read_text()
    assert "not measured: no GPU here" in page
    assert KernelReport(str(folder)).run(tmp_path / "again") == 0
    assert (tmp_path / "again" / "report.html").read_text() == page
    existing = {("rms_norm", program["triton"]): {f"sm_90 {program['key']}"}}
    guarded = {(program["triton"], "sm_90", program["key"])}
    again = Compiled([program], existing, guarded, num_configurations=1)
    assert bench(tmp_path / "baseline").guard(again) == []
    worse = replace(again, records=[program | {"registers": 2 * program["registers"], "spill_bytes": 8}])
    wanted = ("spills 8 bytes of registers", "spills 8 bytes, 0 before", " before", "update_baseline=true")
    for found, words in zip(bench(tmp_path / "baseline").guard(worse), wanted, strict=True):
        assert words in found
    missing, how = bench(tmp_path / "nowhere").guard(again)
    assert missing.endswith("has no baseline")
    assert how == HOW_TO_UPDATE
    (many,) = bench(tmp_path / "baseline").guard(replace(again, num_configurations=91))
    assert many == "91 configurations, more than 90: rms_norm 1"


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that gives verdicts and times at once."""
    provenance()  # kept before it would ask the GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernel_stages, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(kernel_stages.Pool, "ask_all", lambda pool, function, calls, seconds: enumerate(
        {"passed": True, "error": 1e-4, "ran": "compiled", "tolerance": 5e-3, "integers_differ": 0} for _ in calls))
    monkeypatch.setattr(kernel_stages.Worker, "ask", lambda worker, function, case, *rest, seconds: fake_ceilings(
        "cuda") if function is kernel_stages.ceilings else fake_timer(NoCase(1), *rest))


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("on_a_gpu")
def test_a_run_that_is_cut_while_it_times_reports_what_it_has_and_says_what_is_missing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, asked = kernel_stages.Worker.ask, []

    def second_is_cut(worker: object, *call: object, seconds: float) -> object:
        asked.append(call)
        return interrupted() if len(asked) == 3 else ask(worker, *call, seconds=seconds)  # pyright: ignore

    monkeypatch.setattr(kernel_stages.Worker, "ask", second_is_cut)
    said: list[str] = []
    monkeypatch.setattr(kernel_bench.console, "print", lambda text, **_: said.append(str(text)))
    with pytest.raises(KeyboardInterrupt):
        replace(bench(tmp_path), targets=[], seconds=1000).run(tmp_path)
    assert said[0] == "cut: 2 times missing"
    assert said[-1] == f"report: {tmp_path / 'kernels' / 'report.html'}"
    page = (tmp_path / "kernels" / "report.html").read_text()
    assert "This run was cut: 2 times missing." in page
    assert ">8 <small" in page
    assert page.count("<td class=\"text\">right</td>") == 3


@pytest.mark.parametrize(("stage", "missing"), [
    ("floors", "3 of 3 verdicts, 4 times missing"), ("verdicts", "3 of 3 verdicts, 4 times missing"),
    ("CompileStage.run", "some programs, 4 of 4 verdicts, 4 times missing")])
@pytest.mark.usefixtures("on_a_gpu")
def test_a_run_may_be_cut_at_any_stage(
        stage: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"quicksilver.experiments.kernel_bench.experiment.{stage}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace(bench(tmp_path), targets=["sm_90"] if "Compile" in stage else []).run(tmp_path)
    assert f"This run was cut: {missing}." in (tmp_path / "kernels" / "report.html").read_text()


@pytest.mark.usefixtures("on_a_gpu")
def test_the_time_is_that_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(kernel_bench.TimingStage, "run", lambda stage, *_: given.append(stage.seconds) or 0)
    now = iter([100.0, 130.0])
    monkeypatch.setattr(kernel_bench, "time", SimpleNamespace(monotonic=lambda: next(now)))
    stages = kernel_bench._Stages(replace(bench(tmp_path), targets=[], seconds=50), tmp_path, next(now))
    stages.run()
    assert given == [20.0]


def test_a_baseline_that_could_not_be_written_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="baseline='.*/file/baseline': must be a folder that can be written"):
        replace(bench(tmp_path / "file" / "baseline"), update_baseline=True).check()


@pytest.mark.parametrize(("field", "value", "message"), [
    ("targets", ["sm_70"], "must be of sm_90, sm_100, sm_80, gfx942"),
    ("other_tritons", ["nowhere"], "'nowhere' must be a folder that holds Triton"),
    ("num_processes", 0, "num_processes=0"),
    ("seconds", -1, "seconds=-1"),
    ("cpu_seconds", -1, "cpu_seconds=-1"),
    ("axis", "columns", "axis='columns': must be one of rows, width"),
])
def test_bad_settings_are_refused(field: str, value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        replace(bench(tmp_path), **{field: value}).check()


def test_a_wrong_result_on_a_cpu_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = kernel_bench._Stages(replace(bench(tmp_path), targets=[], cpu_seconds=1), tmp_path)
    rows = [{"key": name, "contender": name, "kernel": "rms_norm", "shape": "a row", "dtype": "float32",
             "failed": "wrong result: not timed", "provenance": provenance_on("cpu")}
            for name in ("quicksilver", "torch eager")]
    monkeypatch.setattr(kernel_stages.TimingStage, "current", lambda *_: rows)
    assert stages.report() == ["rms_norm, a row, float32: wrong result: not timed"]
    assert "wrong result: not timed" in (tmp_path / "report.html").read_text()


def test_an_axis_is_timed_alone(tmp_path: Path) -> None:
    along = replace(bench(tmp_path), axis="rows", values=[1, 2])
    replace(along, targets=[]).check()
    with pytest.raises(ValueError, match=r"axis='rows' with targets=\['sm_90'\]: must be timed alone"):
        replace(along, targets=["sm_90"]).check()


def test_the_same_triton_twice_and_an_unknown_type_are_refused(tmp_path: Path) -> None:
    import triton

    folder = tmp_path / "triton"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"__version__ = '{triton.__version__}'\n")
    with pytest.raises(ValueError, match="must hold versions other than each other's"):
        replace(bench(tmp_path), other_tritons=[str(tmp_path)]).check()
    with pytest.raises(ValueError, match="dtypes=\\['float8'\\]: must be of float32, float16, bfloat16"):
        KernelCases(["float8"], [], {})
