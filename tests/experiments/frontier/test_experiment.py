"""The frontier end to end on tiny models: records, resume, failure, the report."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from quicksilver.decoders import Append, Blocks
from quicksilver.experiments.frontier.experiment import Frontier
from quicksilver.experiments.harness import locks
from quicksilver.experiments.study import decode_point as module
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.experiments.training import trainer
from quicksilver.models import Shape

from tests.experiments.conftest import TASK, autoregressive_recipe, diffusion_recipe, tiny_frontier

pytestmark = pytest.mark.usefixtures("undrawn")  # but for the first run, made before
Build = Callable[..., Frontier]
UNTIMED = ("seconds", "tokens_per_second", "first_step_seconds_p50", "latency_seconds_p50", "latency_seconds_p95",
           "speed_up", "speed_up_p20", "speed_up_p80", "peak_memory_bytes")


def records(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, which tests read and copy."""
    folder = tmp_path_factory.mktemp("frontier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "_MACHINE", folder / "machine.lock")
        assert tiny_frontier().run(folder / "runs") == 0
    return folder / "runs"


@pytest.fixture
def whole(first_run: Path, tmp_path: Path) -> Path:
    """A copy of the run of its own."""
    return Path(shutil.copytree(first_run, tmp_path / "runs", symlinks=True))


def test_it_measures_every_point_and_writes_one_self_contained_report(first_run: Path) -> None:
    found = records(first_run)
    # 2 models; at each of 2 batch sizes autoregression, 2 fixed settings, 1 threshold; at the larger one another order.
    assert len(found) == 2 + 2 * (1 + 2 + 1) + 1
    decoded = [record for record in found.values() if record["point"]["kind"] == "DecodePoint"]
    assert [each["point"]["batch_size"] for each in decoded if each["point"]["order"] == "random"] == [4]
    for record in decoded:
        result = record["result"]
        assert result["num_items"] == len(result["right"]) == {1: 2, 4: 5}[record["point"]["batch_size"]]
        assert result["num_right"] == result["right"].count("1")
        assert result["answer_tokens"] == 10 * result["num_items"]
        assert result["speed_up_p20"] <= result["speed_up"] <= result["speed_up_p80"]
        assert result["first_step_seconds_p50"] <= result["latency_seconds_p50"] <= result["latency_seconds_p95"]
        assert result["peak_memory_bytes"] > 10 * 2**20
        assert result["accounting"]["flops"] > result["accounting"]["positions_computed"] * 10_000
        is_reference = record["point"]["family"] == "autoregressive"
        assert (result["accounting"]["kv_store_bytes"] > 0) == is_reference
        assert record["provenance"]["versions"]["torch"]
        assert result["dtypes"] == {"weights": ["float32"], "products": ["float32"]}
        assert (result["device"], result["threads"]) == ("cpu", 1)
        assert result["kernels"]["commit"] == "reference"
    (report,) = first_run.glob("sudoku4-*/report.html")
    html = report.read_text()
    assert html.count("data:image/png;base64,") == 3
    assert "http" not in html.replace("http-equiv", "")
    assert report.with_name("frontier.png").exists()


def test_the_first_task_s_models_come_first_then_all_others_of_a_seed(frontier: Build) -> None:
    setup = frontier().tasks["sudoku4"]
    stages = frontier(tasks={"first": setup, "second": setup, "third": setup}, seeds=[4, 7]).stages()
    assert list(stages) == [[(4, "first")], [(4, "second"), (4, "third")], [(7, "first"), (7, "second"), (7, "third")]]


def test_a_second_run_reuses_everything(whole: Path, frontier: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    before = records(whole)
    monkeypatch.setattr(module, "_measured", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(trainer, "_train", lambda *_: pytest.fail("trained again"))
    assert frontier().run(whole) == 0
    assert records(whole) == before


@pytest.mark.slow
def test_two_runs_agree_apart_from_times(first_run: Path, tmp_path: Path, frontier: Build) -> None:
    frontier().run(tmp_path)
    found = []
    for folder in (first_run, tmp_path):
        found.append(records(folder))
        for record in found[-1].values():
            for field in UNTIMED:
                record["result"].pop(field, None)
            for look in record["result"].get("curve", []):
                look.pop("seconds")
    assert found[0] == found[1]


def test_a_missing_or_damaged_record_alone_is_measured_again(
        whole: Path, frontier: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = [path for path in sorted((whole / "records").glob("*.json"))
               if json.loads(path.read_text())["point"]["kind"] == "DecodePoint"]
    decoded[0].unlink()
    decoded[1].write_text(decoded[1].read_text()[:-40])
    measured, measure = [], module._measured

    def counting(*arguments):
        measured.append(arguments[0])
        return measure(*arguments)

    monkeypatch.setattr(module, "_measured", counting)
    assert frontier().run(whole) == 0
    assert len(measured) == 2
    assert len(records(whole)) == 11


def test_a_failing_point_is_recorded_with_its_reason_and_tried_again(
        tmp_path: Path, frontier: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = module._measured

    def failing(point, *rest):
        if point.steps == 1:
            raise RuntimeError("out of memory")
        return measure(point, *rest)

    few = {"thresholds": [], "num_items": [1, 1]}
    monkeypatch.setattr(module, "_measured", failing)
    assert frontier(**few).run(tmp_path) == 2
    failed = [record for record in records(tmp_path).values() if "failed" in record["result"]]
    assert [record["result"]["failed"] for record in failed] == ["RuntimeError: out of memory"] * 2
    assert "2 points failed" in next(tmp_path.glob("sudoku4-*/report.html")).read_text()
    monkeypatch.setattr(module, "_measured", measure)
    assert frontier(**few).run(tmp_path) == 0


@pytest.mark.slow
def test_answers_are_the_same_alone_and_in_batches(tmp_path: Path, frontier: Build) -> None:
    frontier(num_items=[5, 5]).run(tmp_path)
    answers: dict[str, set[str]] = {}
    for record in records(tmp_path).values():
        if record["point"]["kind"] == "DecodePoint":
            point = record["point"]
            answers.setdefault(f"{point['order']} {point['steps']}", set()).add(record["result"]["answers_sha256"])
    assert all(len(hashes) == 1 for hashes in answers.values())
    assert len({next(iter(hashes)) for hashes in answers.values()}) > 1


@pytest.mark.parametrize(("changes", "message"), [
    ({"thresholds": [1.5]}, "tau=1.5"), ({"batch_sizes": [0, 1]}, "batch_sizes=0"),
    ({"num_items": [1, 0]}, "num_items=0"), ({"batch_sizes": [1]}, "must be as many"),
    ({"seeds": []}, "at least one of each"), ({"tasks": {}}, "at least one of each"), ({"seeds": [-1]}, "seeds=-1"),
    ({"threads": 0}, "threads=0"), ({"seeds": [0, 0]}, "seeds=.*must all be different"),
    ({"thresholds": [0.9, 0.9]}, "thresholds=.*must all be different"), ({"tasks": {"x": 3}}, "task.x=3"),
    ({"dtype": "int3"}, "dtype='int3': must be one of float32"),
    ({"capture": "graphs"}, "capture='graphs': must be one of auto, none, graph, compile")])
def test_a_bad_experiment_is_refused(frontier: Build, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frontier(**changes)


@pytest.mark.parametrize("changes", [{"windows": Blocks(5)}, {"windows": Blocks(1), "cache": Append()}], ids=str)
def test_what_could_not_be_decoded_is_refused_before_training(frontier: Build, changes: dict) -> None:
    setup = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1], ablation_steps=[], **changes)
    with pytest.raises(ValueError, match="size=5: blocks must divide|needs a causal next-token model"):
        frontier(tasks={"sudoku4": setup}).check()
    frontier().check()


@pytest.mark.slow
def test_the_triton_path_gives_the_reference_paths_answers(tmp_path: Path, frontier: Build) -> None:
    shape = Shape(width=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_width=24)
    recipes = replace(diffusion_recipe(), shape=shape), replace(autoregressive_recipe(), shape=shape)
    setup = TaskSetup(TASK, *recipes, steps=[1, 3], ablation_steps=[2])
    small = {"tasks": {"sudoku4": setup}, "batch_sizes": [2], "num_items": [2], "thresholds": []}
    for kernels in ("reference", "triton"):
        assert frontier(kernels=kernels, **small).run(tmp_path) == 0
    measured = [record for record in records(tmp_path).values() if record["point"]["kind"] == "DecodePoint"]
    answers: dict[str, dict] = {"reference": {}, "triton": {}}
    for record in measured:
        point = record["point"]
        assert (set(record["result"]["kernels"].values()) == {"triton"}) == (point["kernels"] == "triton")
        assert ("reference" in record["result"]["kernels"].values()) == (point["kernels"] == "reference")
        answers[point["kernels"]][point["family"], point["order"], point["steps"]] = record["result"]["answers_sha256"]
    assert len(answers["triton"]) == 4
    assert answers["triton"] == answers["reference"]


def test_an_unknown_implementation_is_refused(frontier: Build) -> None:
    with pytest.raises(ValueError, match="kernels='cuda': must be one of auto, reference, cpu, triton"):
        frontier(kernels="cuda")


def test_every_point_says_whether_its_bits_depend_on_the_batch(frontier: Build) -> None:
    for chosen in (False, True):
        assert {point.batch_invariant for point in frontier(batch_invariant=chosen).points()} == {chosen}
    with pytest.raises(ValueError, match="batch_invariant=1: must be true or false"):
        frontier(batch_invariant=1)


@pytest.mark.slow
def test_with_batch_invariance_the_answers_of_both_batch_sizes_are_the_same(tmp_path: Path, frontier: Build) -> None:
    small = {"orders": {}, "num_items": [3, 3]}
    assert frontier(batch_invariant=True, **small).run(tmp_path) == 0
    answers: dict[str, set[str]] = {}
    for record in records(tmp_path).values():
        if record["point"]["kind"] == "DecodePoint":
            assert record["point"]["batch_invariant"] is True
            answers.setdefault(record["point"]["order"], set()).add(record["result"]["answers_sha256"])
    assert len(answers) == 2
    assert all(len(hashes) == 1 for hashes in answers.values())
