"""The cache_error experiment end to end on tiny models: points, records, resume, refusals, the report."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Blocks,
    Decoder,
    Delayed,
    Dual,
    Greedy,
    GridBlocks,
    Linear,
    Recompute,
    TopProbability,
)
from quicksilver.experiments.cache_error import experiment as module
from quicksilver.experiments.cache_error.experiment import CacheError
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.models import BlockDiffusion

from tests.experiments.conftest import TASK, autoregressive_recipe, diffusion_recipe

pytestmark = pytest.mark.usefixtures("undrawn")  # test_page.py and test_style.py draw
IN_BLOCKS = Decoder(GridBlocks(8), Linear(2), Greedy(), TopProbability(), BlockCausalCache())
SETUP = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1], ablation_steps=[], block_size=8,
                  block_diffusion=replace(diffusion_recipe(), objective=BlockDiffusion(8),
                                          curve_decoder=IN_BLOCKS))
CACHES = {"recompute": Recompute(), "dual": Dual(), "delayed": Delayed(3), "block_causal": BlockCausalCache(),
          "apart": BlockCausalCacheApart(), "append": Append()}


def experiment(**changes: Any) -> CacheError:
    settings: dict[str, Any] = {"tasks": {"sudoku4": SETUP}, "family": "diffusion", "seeds": [0], "caches": CACHES,
                                "policy": TopProbability(), "steps": [2, 4], "num_items": 6, "batch_size": 4,
                                "threads": 1}
    return CacheError(**(settings | changes))


def records(folder: Path) -> dict[str, dict]:
    found = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}
    return {name: record for name, record in found.items() if record["point"]["kind"] == "CacheErrorPoint"}


def test_caches_that_cannot_serve_a_model_are_left_out() -> None:
    served = {family: {(point.cache, point.decoder.windows) for point in experiment(family=family).points()}
              for family in ("diffusion", "block_diffusion", "autoregressive")}
    assert served == {
        "diffusion": {(name, Blocks(8)) for name in ("recompute", "dual", "delayed")},
        "block_diffusion": {(name, GridBlocks(8)) for name in ("recompute", "block_causal", "apart")},
        "autoregressive": {(name, Blocks(1)) for name in ("recompute", "append")}}
    with pytest.raises(ValueError, match="caches=\\['append'\\]: none of them can serve sudoku4"):
        experiment(caches={"append": Append()}).check()
    with pytest.raises(ValueError, match="size=5: blocks must divide"):
        experiment(tasks={"sudoku4": replace(SETUP, block_size=5)}).check()


def test_it_measures_every_cache_at_every_number_of_steps_and_reports(tmp_path: Path) -> None:
    assert experiment().run(tmp_path) == 0
    found = list(records(tmp_path).values())
    assert sorted((record["point"]["cache"], record["point"]["steps"]) for record in found) == [
        (cache, steps) for cache in ("delayed", "dual", "recompute") for steps in (2, 4)]
    for record in found:
        result, point = record["result"], record["point"]
        assert [len(result[name]) for name in ("right", "exact_right", "differs")] == [6, 6, 6]
        assert [(step["window"], step["index"]) for step in result["steps"]] == [
            (window, index) for window in (0, 1) for index in range(point["steps"])]
        assert sum(step["num_committed"] for step in result["steps"]) == 6 * TASK.num_blanks
        assert all(step["positions_whole"] == 6 * TASK.num_cells for step in result["steps"])
        assert all(len(step[name]) == 2 for step in result["steps"] for name in ("kl", "flips", "relative_error"))
        is_zero_line = point["cache"] == "recompute"
        assert all(not step["kl"][-1] for step in result["steps"] if is_zero_line or step["index"] == 0)
        assert is_zero_line is not any(step["kl"][-1] > 1e-6 for step in result["steps"])
        fed = [step["positions_computed"] for step in result["steps"]]
        if point["cache"] == "dual":
            assert fed == [6 * (TASK.num_cells if step["index"] == 0 else 8) for step in result["steps"]]
        assert "triton" not in result["kernels"].values()
        assert result["kernels"]["attention"] == "cpu (torch's scaled_dot_product_attention)"
    (page,) = tmp_path.glob("cache_error-sudoku4-*/report.html")
    html = page.read_text()
    assert "<h1>What caches get wrong</h1>" in html
    assert "Quality against speed" not in html
    assert page.with_name("cache_error.png").exists()


def test_exact_caches_come_out_exact_and_say_so(tmp_path: Path) -> None:
    for family in ("block_diffusion", "autoregressive"):
        assert experiment(family=family, steps=[4]).run(tmp_path) == 0
    for record in records(tmp_path).values():
        for step in record["result"]["steps"]:
            assert abs(step["kl"][-1]) <= 1e-6 * max(step["num_eligible"], 1)
            assert not step["flips"][-1] + step["num_edited_otherwise"] + step["num_tokens_differ"]
        assert "1" not in record["result"]["differs"]
    pages = "".join(page.read_text() for page in tmp_path.glob("cache_error-*/report.html"))
    assert "Exact: block_causal and apart (sudoku4, block diffusion); mean KL" in pages
    assert "Exact: append (sudoku4, autoregressive); mean KL" in pages


def test_a_batch_gives_what_its_items_give_one_by_one(tmp_path: Path) -> None:
    one, many = (experiment(caches={"dual": Dual()}, steps=[4], batch_size=size) for size in (1, 6))
    one.run(tmp_path / "one")
    many.run(tmp_path / "many")
    (alone,), (together,) = (records(tmp_path / name).values() for name in ("one", "many"))
    for a, b in zip(alone["result"]["steps"], together["result"]["steps"], strict=True):
        np.testing.assert_allclose(a["kl"], b["kl"], rtol=1e-3, atol=1e-5)
        assert a["num_committed"] == b["num_committed"]
    assert alone["result"]["differs"] == together["result"]["differs"]


def test_with_batch_invariance_what_is_counted_is_the_same_in_any_batch(tmp_path: Path) -> None:
    one, many = (experiment(caches={"dual": Dual()}, steps=[2], num_items=3, batch_size=size, batch_invariant=True)
                 for size in (1, 3))
    assert one.run(tmp_path / "one") == many.run(tmp_path / "many") == 0
    (alone,), (together,) = (records(tmp_path / name).values() for name in ("one", "many"))
    assert alone["point"]["batch_invariant"] is True
    for a, b in zip(alone["result"]["steps"], together["result"]["steps"], strict=True):
        assert a["kl"] == pytest.approx(b["kl"], rel=3e-6)  # sums of the same, in another order
        assert (a["flips"], a["num_edited_otherwise"]) == (b["flips"], b["num_edited_otherwise"])
    with pytest.raises(ValueError, match="batch_invariant=1: must be true or false"):
        experiment(batch_invariant=1)


def test_a_second_run_measures_nothing_and_a_failed_point_is_tried_again(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = module.compare_with_recompute

    def failing(decoder: Decoder, *rest: Any) -> Any:
        if isinstance(decoder.cache, Dual):
            raise RuntimeError("out of memory")
        return compare(decoder, *rest)

    monkeypatch.setattr(module, "compare_with_recompute", failing)
    assert experiment(steps=[2]).run(tmp_path) == 1
    (page,) = tmp_path.glob("cache_error-*/report.html")
    assert "1 points failed" in page.read_text()
    monkeypatch.setattr(module, "compare_with_recompute", compare)
    assert experiment(steps=[2]).run(tmp_path) == 0
    before = records(tmp_path)
    monkeypatch.setattr(module, "compare_with_recompute", lambda *_: pytest.fail("measured again"))
    assert experiment(steps=[2]).run(tmp_path) == 0
    assert records(tmp_path) == before


@pytest.mark.parametrize(("field", "value"), [
    ("tasks", {}), ("tasks", {"sudoku4": 3}), ("seeds", []), ("seeds", [-1]), ("caches", {}), ("steps", []),
    ("steps", [0]), ("num_items", 0), ("batch_size", 0), ("threads", 0), ("device", "tpu"), ("kernels", "fast")])
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.removesuffix("s")):
        experiment(**{field: value})


@pytest.fixture
def _hydra() -> Iterator[None]:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        yield


@pytest.mark.usefixtures("_hydra")
@pytest.mark.parametrize("task", ["extraction", "addition"])
def test_the_default_configuration_serves_its_tasks(task: str) -> None:
    config = compose("config", overrides=["threads=1", "models_at_once=1", "device=cpu", "precision=float32",
                                          "experiment=cache_error", f"task=[{task}]"])
    built = instantiate(config.experiment, _convert_="all")
    built.check()
    assert {point.cache for point in built.points()} == {"recompute", "prefix", "dual", "vicinity", "delayed"}
