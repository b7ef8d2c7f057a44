"""Training: reproducible, resumed to the same weights, reused when unchanged, never taken from a damaged file."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from quicksilver.experiments.harness.execution import ProductTypes
from quicksilver.experiments.harness.records import key_of
from quicksilver.experiments.training import trainer as training
from quicksilver.experiments.training.recipe import TrainingPoint
from quicksilver.experiments.training.trainer import load_or_train
from quicksilver.models import Transformer
from torch.utils._python_dispatch import _get_current_dispatch_mode

Point = Callable[..., TrainingPoint]


def same_weights(a: Transformer, b: Transformer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def test_two_trainings_agree_in_weights_and_records_apart_from_times(
        tmp_path: Path, training_point: Point) -> None:
    (a, record_a), (b, record_b) = (load_or_train(training_point(), tmp_path / name) for name in "ab")
    assert same_weights(a, b)
    for record in (record_a, record_b):
        record["result"].pop("seconds")
        for look in record["result"]["curve"]:
            look.pop("seconds")
    assert record_a == record_b
    c, _ = load_or_train(training_point(seed=1), tmp_path / "a")
    assert not same_weights(a, c)


def test_a_checkpoint_is_reused_when_its_recipe_is_unchanged(
        tmp_path: Path, training_point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    first, record = load_or_train(training_point(), tmp_path)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    second, again = load_or_train(training_point(), tmp_path)
    assert same_weights(first, second)
    assert record == again


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_record_names_threads_kernels_and_the_types_that_ran(
        tmp_path: Path, training_point: Point, precision: str) -> None:
    result = load_or_train(training_point(updates=1, num_curve_points=1, precision=precision), tmp_path)[1]["result"]
    assert result["dtypes"]["weights"] == ["float32"]
    assert precision in result["dtypes"]["products"]
    assert (result["device"], result["threads"]) == ("cpu", 1)
    assert result["kernels"]["masked_cross_entropy"] == "reference"


def test_no_update_that_is_timed_runs_under_the_watch_for_types(
        tmp_path: Path, training_point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update takes a second here, under the watch a thousand."""
    now, update = [0.0], training._update

    def slow(run: training._Run, point: TrainingPoint) -> float:
        now[0] += 1000.0 if isinstance(_get_current_dispatch_mode(), ProductTypes) else 1.0
        return update(run, point)

    monkeypatch.setattr(training, "_update", slow)
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    result = load_or_train(training_point(updates=6), tmp_path)[1]["result"]
    assert (result["seconds"], now[0]) == (6.0, 1006.0)
    assert result["dtypes"]["products"]


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_training_goes_on_to_the_same_weights(
        tmp_path: Path, training_point: Point, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    whole, record = load_or_train(training_point(), tmp_path / "whole")
    monkeypatch.setattr(training, "_SECONDS_BETWEEN_SAVES", 0.0)
    update = training._update
    calls = []

    def stopping(run: training._Run, point: TrainingPoint) -> float:
        if run.update == stop_at and not calls:
            calls.append(run.update)
            raise Killed
        return update(run, point)

    monkeypatch.setattr(training, "_update", stopping)
    with pytest.raises(Killed):
        load_or_train(training_point(), tmp_path / "cut")
    assert files(tmp_path / "cut", "checkpoints/*.state.safetensors")
    resumed, record_resumed = load_or_train(training_point(), tmp_path / "cut")
    assert same_weights(whole, resumed)
    assert record_resumed["result"]["losses"] == record["result"]["losses"]
    assert [x["right"] for x in record_resumed["result"]["curve"]] == [x["right"] for x in record["result"]["curve"]]
    assert not files(tmp_path / "cut", "checkpoints/*.state.safetensors")


@pytest.mark.parametrize("what", ["weights", "record", "state"])
def test_a_damaged_file_is_named_and_made_again(
        tmp_path: Path, training_point: Point, capsys: pytest.CaptureFixture[str], what: str,
        monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(training.console, "print", lambda text, **_: printed.append(text))
    first, _ = load_or_train(training_point(), tmp_path)
    weights = tmp_path / "checkpoints" / f"{key_of(training_point())}.safetensors"
    damaged = {"weights": weights, "record": tmp_path / "records" / f"{weights.stem}.json",
               "state": weights.with_suffix(".state.safetensors")}[what]
    if what == "state":
        damaged.write_bytes(weights.read_bytes()[:1000])
        weights.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-30])
    again, _ = load_or_train(training_point(), tmp_path)
    assert same_weights(first, again)
    assert any(damaged.name in line for line in printed)


def test_a_state_of_another_recipe_is_not_taken(
        tmp_path: Path, training_point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(training.console, "print", lambda text, **_: printed.append(text))
    load_or_train(training_point(), tmp_path)
    state = tmp_path / "checkpoints" / f"{key_of(training_point(seed=1))}.state.safetensors"
    state.write_bytes((tmp_path / "checkpoints" / f"{key_of(training_point())}.safetensors").read_bytes())
    load_or_train(training_point(seed=1), tmp_path)
    assert any("another recipe" in line for line in printed)


def test_a_loss_that_is_not_finite_ends_the_training_with_its_place(
        tmp_path: Path, training_point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_update", lambda run, point: float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at update 1 of 6"):
        load_or_train(training_point(), tmp_path)


_CHILD = """
import sys
from pathlib import Path
from quicksilver.experiments.training import trainer as training
from quicksilver.experiments.training.recipe import TrainingPoint
from quicksilver.experiments.training.trainer import load_or_train
from tests.experiments.conftest import TASK, diffusion_recipe

training._SECONDS_BETWEEN_SAVES = 0.0
load_or_train(TrainingPoint("sudoku4", TASK, diffusion_recipe(updates=60), 0), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_loses_nothing(tmp_path: Path, training_point: Point) -> None:
    root = Path(__file__).resolve().parents[3]
    state = tmp_path / "cut" / "checkpoints" / f"{key_of(training_point(updates=60))}.state.safetensors"
    process = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path / "cut")], cwd=root)
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not files(tmp_path / "cut", "records/*.json")
    resumed, record = load_or_train(training_point(updates=60), tmp_path / "cut")
    whole, expected = load_or_train(training_point(updates=60), tmp_path / "whole")
    assert same_weights(resumed, whole)
    assert record["result"]["losses"] == expected["result"]["losses"]
    assert [json.loads(path.read_text())["point"]["seed"] for path in files(tmp_path / "cut", "records/*.json")] == [0]
