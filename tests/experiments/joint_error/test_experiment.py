"""The joint_error experiment end to end on tiny models: points, records, resume, refusals, the report."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.decoders import Append, Blocks, Greedy, TopProbability
from quicksilver.experiments.joint_error import experiment as module
from quicksilver.experiments.joint_error.experiment import JointError
from quicksilver.experiments.study.setup import TaskSetup

from tests.experiments.conftest import TASK, autoregressive_recipe, diffusion_recipe

pytestmark = pytest.mark.usefixtures("undrawn")  # test_page.py and test_style.py draw
SETUP = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1, 3, 10], ablation_steps=[])


def experiment(**changes: Any) -> JointError:
    settings: dict[str, Any] = {"tasks": {"sudoku4": SETUP}, "family": "diffusion", "seeds": [0], "sampler": Greedy(),
                                "policy": TopProbability(), "num_items": 6, "batch_size": 4, "threads": 1}
    return JointError(**(settings | changes))


def records(folder: Path) -> dict[int, dict]:
    """The measured records by their number of steps."""
    found = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    return {record["point"]["steps"]: record for record in found if record["point"]["kind"] == "JointErrorPoint"}


def test_every_number_of_steps_is_measured_item_by_item_and_reported(tmp_path: Path) -> None:
    assert experiment().run(tmp_path) == 0
    found = records(tmp_path)
    assert sorted(found) == [1, 3, 10]
    for steps, record in found.items():
        result = record["result"]
        assert [len(result[name]) for name in ("right", "bound", "product", "joint")] == [6] * 4
        assert (result["num_commits"], result["num_tokens"]) == (6 * steps, 6 * TASK.num_blanks)
        assert min(result["bound"]) >= 0
        assert max(result["product"]) <= 0
        assert "triton" not in result["kernels"].values()
        assert result["kernels"]["attention"] == "cpu (torch's scaled_dot_product_attention)"
    one_by_one = found[10]["result"]
    assert set(one_by_one["bound"]) == {0.0}
    assert one_by_one["product"] == one_by_one["joint"]
    assert all(a != b for a, b in zip(found[1]["result"]["product"], found[1]["result"]["joint"], strict=True))
    (page,) = tmp_path.glob("joint_error-sudoku4-*/report.html")
    assert "<h1>What parallel commits lose</h1>" in page.read_text()
    assert page.with_name("joint_error.png").exists()


def test_items_are_measured_alike_alone_and_in_batches(tmp_path: Path) -> None:
    for size in (1, 6):
        experiment(batch_size=size).run(tmp_path / str(size))
    alone, together = (records(tmp_path / str(size)) for size in (1, 6))
    for steps, record in alone.items():
        for name in ("bound", "product", "joint"):
            assert record["result"][name] == pytest.approx(together[steps]["result"][name], abs=1e-4)


def test_with_batch_invariance_what_is_measured_of_an_item_is_the_same_number_in_any_batch(tmp_path: Path) -> None:
    tasks = {"sudoku4": replace(SETUP, steps=[3])}
    for size in (1, 3):
        found = experiment(tasks=tasks, num_items=3, batch_size=size, batch_invariant=True)
        assert found.run(tmp_path / str(size)) == 0
    alone, together = (records(tmp_path / str(size))[3] for size in (1, 3))
    assert alone["point"]["batch_invariant"] is True
    assert all(alone["result"][name] == together["result"][name] for name in ("right", "bound", "product", "joint"))
    with pytest.raises(ValueError, match="batch_invariant=1: must be true or false"):
        experiment(batch_invariant=1)


def test_a_second_run_measures_nothing_and_a_failed_point_is_tried_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = module.joint_errors

    def failing(decoder: Any, *rest: Any) -> Any:
        if decoder.schedule.steps == 3:
            raise RuntimeError("out of memory")
        return measure(decoder, *rest)

    monkeypatch.setattr(module, "joint_errors", failing)
    assert experiment().run(tmp_path) == 1
    (page,) = tmp_path.glob("joint_error-*/report.html")
    assert "RuntimeError: out of memory" in page.read_text()
    monkeypatch.setattr(module, "joint_errors", measure)
    assert experiment().run(tmp_path) == 0
    before = records(tmp_path)
    monkeypatch.setattr(module, "joint_errors", lambda *_: pytest.fail("measured again"))
    assert experiment().run(tmp_path) == 0
    assert records(tmp_path) == before


def test_a_task_that_could_not_be_decoded_is_refused_before_training() -> None:
    setup = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1], ablation_steps=[],
                      windows=Blocks(1), cache=Append())
    with pytest.raises(ValueError, match="needs a causal next-token model"):
        experiment(tasks={"sudoku4": setup}).check()
    experiment().check()


@pytest.mark.parametrize(("field", "value"), [
    ("tasks", {}), ("tasks", {"sudoku4": 3}), ("seeds", []), ("seeds", [-1]), ("num_items", 0), ("batch_size", 0),
    ("threads", 0), ("device", "tpu"), ("kernels", "fast")])
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.removesuffix("s")):
        experiment(**{field: value})


@pytest.fixture
def _hydra() -> Iterator[None]:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        yield


@pytest.mark.usefixtures("_hydra")
def test_the_default_configuration_measures_each_task_at_its_own_steps() -> None:
    config = compose("config", overrides=["threads=1", "models_at_once=1", "device=cpu", "precision=float32",
                                          "experiment=joint_error", "task=[extraction]"])
    built = instantiate(config.experiment, _convert_="all")
    built.check()
    assert [point.steps for point in built.points()] == list(built.tasks["extraction"].steps)
