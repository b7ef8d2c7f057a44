"""Every preset beside autoregression, on tiny models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import (
    Blocks,
    Decoder,
    Dual,
    Even,
    Floor,
    Greedy,
    GridBlocks,
    Linear,
    TopProbability,
    Whole,
    presets,
)
from quicksilver.decoders.caches import BlockCausalCache
from quicksilver.experiments.harness.records import describe, read_record
from quicksilver.experiments.presets.experiment import Decoders
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.models import BlockDiffusion

from tests.experiments.conftest import LEFT_TO_RIGHT, TASK, autoregressive_recipe, diffusion_recipe

RECORDS = Path(__file__).resolve().parents[3] / "results" / "decoders" / "records"
IN_BLOCKS = Decoder(GridBlocks(8), Linear(2), Greedy(), TopProbability(), BlockCausalCache())
SETUP = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1], ablation_steps=[], block_size=4,
                  block_diffusion=replace(diffusion_recipe(), objective=BlockDiffusion(8), curve_decoder=IN_BLOCKS))


def experiment(**changes: Any) -> Decoders:
    settings: dict[str, Any] = {"tasks": {"sudoku4": SETUP}, "seeds": [0], "steps": [1, 3], "batch_sizes": [4],
                                "presets": ["autoregressive", "llada", "threshold", "sdar_dynamic", "fast_dllm_dual"],
                                "num_items": [8], "threads": 1}
    return Decoders(**(settings | changes))


def test_every_preset_is_measured_beside_autoregression(tmp_path: Path) -> None:
    decoders = experiment()
    decoders.check()
    assert decoders.run(tmp_path) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    kinds = [record["point"]["kind"] for record in records]
    assert (kinds.count("TrainingPoint"), kinds.count("PresetPoint")) == (3, 7)
    (report,) = tmp_path.glob("decoders-sudoku4-*/report.html")
    html = report.read_text()
    assert '<td class="text">sdar_dynamic</td>' in html
    assert "sdar_dynamic, 3 steps" in html
    assert report.with_name("decoders.png").exists()


def test_a_preset_takes_the_blocks_of_its_model_and_the_experiments_steps() -> None:
    points = list(experiment().points())
    assert [(point.order, point.steps) for point in points] == [
        ("autoregressive", None), ("llada", 1), ("llada", 3), ("threshold", None), ("sdar_dynamic", 1),
        ("sdar_dynamic", 3), ("fast_dllm_dual", None)]
    assert {point.order: point.decoder.windows for point in points} == {
        "autoregressive": Blocks(1), "llada": Blocks(4), "threshold": Whole(), "sdar_dynamic": GridBlocks(8),
        "fast_dllm_dual": Blocks(4)}
    assert [point.decoder.schedule for point in points[1:3]] == [Linear(1), Linear(3)]
    assert [point.decoder.schedule for point in points[4:6]] == [Floor(Even(1)), Floor(Even(3))]
    assert points[-1].decoder == replace(presets.fast_dllm(4, 0.9), cache=Dual())
    assert {point.order for point in points if point.model.recipe == SETUP.block_diffusion} == {"sdar_dynamic"}
    assert {point.reference_decoder for point in points} == {LEFT_TO_RIGHT}


def test_all_presets_are_decoded_where_none_is_named() -> None:
    decoders = experiment(presets=None)
    assert {point.order for point in decoders.points()} == set(presets.PRESETS)
    decoders.check()


BLOCKS = {"addition": 3, "extraction": 3, "sudoku4": 8, "sudoku6": 12}
"""Of the recorded tasks."""
TOLD = ("kind", "decoder", "family", "order", "steps", "sampler", "reference_decoder")


def test_points_are_described_as_those_on_record_so_that_they_keep_their_names() -> None:
    """What of a point this study decides; recipes and options that came after the records are not its own."""
    points = [point for path in sorted(RECORDS.glob("*.json")) for point in [read_record(path)["point"]]
              if point["kind"] == "PresetPoint"]
    assert len(points) == 664
    for point in points:
        setup, objective = replace(SETUP, block_size=BLOCKS[point["name"]]), point["model"]["recipe"]["objective"]
        if objective["kind"] == "BlockDiffusion":
            recipe = replace(diffusion_recipe(), objective=BlockDiffusion(objective["block"]))
            setup = replace(setup, block_diffusion=recipe)
        decoders = experiment(tasks={point["name"]: setup}, presets=[point["order"]], steps=[point["steps"] or 1])
        made = describe(list(decoders.points())[-1])
        assert point.keys() ^ made.keys() == {"capture"}
        assert {name: made[name] for name in TOLD} == {name: point[name] for name in TOLD}


def test_a_preset_that_cannot_decode_a_task_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match="needs a block-causal model"):
        experiment(tasks={"sudoku4": replace(SETUP, block_diffusion=None)}).check()
    with pytest.raises(ValueError, match="size=5: blocks must divide"):
        experiment(tasks={"sudoku4": replace(SETUP, block_size=5)}).check()


@pytest.mark.parametrize(("field", "value"), [
    ("presets", []), ("presets", ["nope"]), ("presets", ["llada", "llada"]), ("steps", []), ("steps", [0]),
    ("num_items", [1, 2]), ("seeds", []), ("seeds", [-1]), ("threads", 0), ("device", "tpu"), ("kernels", "fast"),
    ("tasks", {"sudoku4": 3})])
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.removesuffix("s")):
        experiment(**{field: value})
