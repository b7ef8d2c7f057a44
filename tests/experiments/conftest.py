"""A frontier experiment that a test can afford: two tiny models on 4x4 Sudoku."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from quicksilver.decoders import (
    Decoder,
    Greedy,
    Linear,
    RandomOrder,
    Recompute,
    TopProbability,
    Whole,
    presets,
)
from quicksilver.experiments.frontier.experiment import Frontier
from quicksilver.experiments.harness import locks, style
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.experiments.tasks.sudoku import InPlace, PuzzleThenGrid, Sudoku
from quicksilver.experiments.training.recipe import Recipe, TrainingPoint
from quicksilver.models import AutoregressiveNLL, MaskedDiffusion, Shape

TASK = Sudoku(2, 2, 10, num_training_bases=20)
SHAPE = Shape(width=32, num_layers=2, num_heads=2, num_kv_heads=2, ffn_width=48)
ONE_A_STEP = Decoder(Whole(), Linear(16), Greedy(), TopProbability(), Recompute())
LEFT_TO_RIGHT = presets.autoregressive()


def diffusion_recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"updates": 6, "batch_size": 8, "threads": 1, "precision": "float32",
                                "num_curve_points": 2, "num_curve_items": 8, "warmup_updates": 2}
    return Recipe(MaskedDiffusion(), InPlace(), ONE_A_STEP, SHAPE, **(settings | changes))


def autoregressive_recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"updates": 6, "batch_size": 8, "threads": 1, "precision": "float32",
                                "num_curve_points": 2, "num_curve_items": 8, "warmup_updates": 2}
    return Recipe(AutoregressiveNLL(), PuzzleThenGrid(), LEFT_TO_RIGHT, SHAPE, **(settings | changes))


@pytest.fixture(autouse=True)
def _own_machine_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither wait for a sweep on this machine nor hold one up; processes they start inherit TMPDIR."""
    monkeypatch.setattr(locks, "_MACHINE", tmp_path / "machine.lock")
    monkeypatch.setenv("TMPDIR", str(tmp_path.parent))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and their files hold no picture: for tests of what is beside them."""
    blank = SimpleNamespace(print_png=lambda buffer: buffer.write(b"no picture"))
    monkeypatch.setattr(style, "FigureCanvasAgg", lambda figure: blank)


@pytest.fixture
def training_point() -> Callable[..., TrainingPoint]:
    return lambda seed=0, **changes: TrainingPoint("sudoku4", TASK, diffusion_recipe(**changes), seed)


def tiny_frontier(**changes: Any) -> Frontier:
    setup = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1, 10], ablation_steps=[10])
    settings: dict[str, Any] = {
        "tasks": {"sudoku4": setup}, "seeds": [0], "thresholds": [0.9],
        "orders": {"confident": TopProbability(), "random": RandomOrder()},
        "batch_sizes": [1, 4], "num_items": [2, 5], "threads": 1}
    return Frontier(**(settings | changes))


@pytest.fixture
def frontier() -> Callable[..., Frontier]:
    return tiny_frontier
