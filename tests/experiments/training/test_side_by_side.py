"""Models trained in processes of their own: the weights are those of a training alone, errors go by model."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.experiments.training import side_by_side as module
from quicksilver.experiments.training.recipe import TrainingPoint
from quicksilver.experiments.training.side_by_side import train_side_by_side
from quicksilver.experiments.training.trainer import is_trained, load_or_train


class _Threads(ThreadPoolExecutor):
    def __init__(self, num_threads: int, **_: Any) -> None:
        super().__init__(num_threads)

    def shutdown(self, *_: Any, **__: Any) -> None:
        super().shutdown()


def test_an_error_is_returned_by_its_model(
        tmp_path: Path, training_point: Callable[..., TrainingPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    sound, diverging = training_point(), training_point(seed=1)
    error = FloatingPointError("the loss is nan")

    def train(point: TrainingPoint, *_: object) -> None:
        if point == diverging:
            raise error

    monkeypatch.setattr(module, "ProcessPoolExecutor", _Threads)
    monkeypatch.setattr(module, "_train", train)
    assert train_side_by_side([sound, diverging], tmp_path, num_processes=2) == {diverging: error}


@pytest.mark.slow
def test_a_model_is_the_one_trained_alone_and_an_error_concerns_its_model_only(
        tmp_path: Path, training_point: Callable[..., TrainingPoint]) -> None:
    sound, diverging = [training_point(), training_point(seed=1)], training_point(adamw_lr=1e38)
    errors = train_side_by_side([*sound, diverging], tmp_path / "many", num_processes=2)
    assert {point: type(error) for point, error in errors.items()} == {diverging: FloatingPointError}
    assert not is_trained(diverging, tmp_path / "many")
    for point in sound:
        assert is_trained(point, tmp_path / "many")
        model, record = load_or_train(point, tmp_path / "many")
        alone, _ = load_or_train(point, tmp_path / "alone")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
        assert record["result"]["models_at_once"] == 2
