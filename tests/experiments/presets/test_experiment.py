"""Every preset beside autoregression, on tiny models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import (
    Blocks,
    Cosine,
    Decoder,
    Dream,
    Even,
    FirstHitting,
    Floor,
    Free,
    Greedy,
    GridBlocks,
    Linear,
    Recompute,
    Schedule,
    TopProbability,
    Unbounded,
    Whole,
)
from quicksilver.decoders.caches import BlockCausalCache
from quicksilver.decoders.policies import Threshold
from quicksilver.experiments.presets.experiment import Decoders, Preset, in_steps
from quicksilver.experiments.study.families import Autoregressive, BlockDiffusion, Diffusion
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.models import BlockDiffusion as BlockDiffusionObjective

from tests.experiments.conftest import LEFT_TO_RIGHT, TASK, autoregressive_recipe, diffusion_recipe

BLOCK_CAUSAL = Decoder(GridBlocks(4), Linear(2), Greedy(), TopProbability(), BlockCausalCache())
SETUP = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1], ablation_steps=[], block_size=8,
                  block_diffusion=replace(diffusion_recipe(), objective=BlockDiffusionObjective(8),
                                          curve_decoder=replace(BLOCK_CAUSAL, windows=GridBlocks(8))))
PRESETS = {
    "autoregressive": Preset(LEFT_TO_RIGHT, Autoregressive()),
    "llada": Preset(Decoder(Blocks(4), Linear(8), Greedy(), TopProbability(), Recompute()), Diffusion()),
    "threshold": Preset(Decoder(Whole(), Unbounded(), Greedy(), Threshold(0.9), Recompute()), Diffusion()),
    "sdar": Preset(BLOCK_CAUSAL, BlockDiffusion()),
}


def experiment(**changes: Any) -> Decoders:
    settings: dict[str, Any] = {"tasks": {"sudoku4": SETUP}, "seeds": [0], "presets": PRESETS, "steps": [1, 3],
                                "batch_sizes": [4], "num_items": [8], "threads": 1}
    return Decoders(**(settings | changes))


def test_every_preset_is_measured_beside_autoregression_in_the_tasks_blocks(tmp_path: Path) -> None:
    decoders = experiment()
    decoders.check()
    assert [(point.order, point.steps) for point in decoders.points()] == [
        ("autoregressive", None), ("llada", 1), ("llada", 3), ("threshold", None), ("sdar", 1), ("sdar", 3)]
    windows = {point.order: point.decoder.windows for point in decoders.points()}
    assert windows == {"autoregressive": Blocks(1), "llada": Blocks(8), "threshold": Whole(), "sdar": GridBlocks(8)}
    assert decoders.run(tmp_path) == 0
    records = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    kinds = [record["point"]["kind"] for record in records]
    assert (kinds.count("TrainingPoint"), kinds.count("PresetPoint")) == (3, 6)
    (report,) = tmp_path.glob("decoders-sudoku4-*/report.html")
    html = report.read_text()
    assert '<td class="text">sdar</td>' in html
    assert "sdar, 3 steps" in html
    assert report.with_name("decoders.png").exists()


@pytest.mark.parametrize(("schedule", "expected"), [
    (Linear(8), Linear(3)), (Dream(8, 0.01), Dream(3, 0.01)), (Floor(Even(8)), Floor(Even(3))),
    (Free(Cosine(8)), Free(Cosine(3))), (Unbounded(), Unbounded()), (FirstHitting(), FirstHitting())], ids=str)
def test_steps_are_put_where_a_schedule_has_them(schedule: Schedule, expected: Schedule) -> None:
    assert in_steps(schedule, 3) == expected


def test_a_preset_that_cannot_decode_a_task_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ValueError, match="needs a block-causal model"):
        experiment(presets={"sdar": Preset(BLOCK_CAUSAL, Diffusion())}).check()
    with pytest.raises(ValueError, match="size=5: blocks must divide"):
        experiment(tasks={"sudoku4": replace(SETUP, block_size=5)}).check()


@pytest.mark.parametrize(("field", "value"), [
    ("presets", {}), ("steps", []), ("steps", [0]), ("num_items", [1, 2]), ("seeds", []), ("seeds", [-1]),
    ("threads", 0), ("device", "tpu"), ("kernels", "fast"), ("tasks", {"sudoku4": 3})])
def test_bad_settings_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.removesuffix("s")):
        experiment(**{field: value})
