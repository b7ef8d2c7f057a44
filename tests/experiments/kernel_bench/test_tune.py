"""Which buckets the kernels' shapes meet, and what is refused before anything is timed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.experiments.harness.experiment import Unavailable
from quicksilver.experiments.kernel_bench.experiment import KernelCases
from quicksilver.experiments.kernel_bench.tune import KernelTune, trials_of
from quicksilver.kernels import tile_table
from quicksilver.kernels.commit import CommitCase

from .planted_tiles import SquareCase

CHOOSING = ("gate_up", "lm_head_statistics", "moe_experts")
TUNE = KernelTune({"squares": KernelCases(["float32", "bfloat16"], [], {str(rows): SquareCase(rows) for rows in
                                                                       (1, 2, 3, 4, 20)})}, 1, 8, most_cases=3)


@pytest.fixture(autouse=True)
def _tables_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_table, "FOLDER", tmp_path)


def configured(*overrides: str) -> KernelTune:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        return instantiate(compose("config", overrides=["experiment=kernel_tune", *overrides]).experiment,
                           _convert_="all")


def test_the_shipped_shapes_meet_the_buckets_of_every_choice() -> None:
    tune = configured(f"kernel=[{','.join(CHOOSING)}]")
    tune.check()
    found = {(trials[0].choice.name, trials[0].bucket.up_to) for trials in tune.buckets()}
    inf = float("inf")
    assert found == {("gate_up", 16), ("gate_up", 32), ("gate_up", inf), ("lm_head", 64), ("lm_head", inf),
                     ("lm_head_drawn", 64), ("lm_head_drawn", inf),
                     *((name, up_to) for name in ("experts_gate_up", "experts_down") for up_to in (8, 24, inf))}
    assert max(len(trials) for trials in tune.buckets()) == tune.most_cases
    between = configured("kernel=moe_experts", "experiment.axis=load.num_tokens", "experiment.values=[300]")
    assert {trials[0].bucket.up_to for trials in between.buckets()} == {48, 24}  # of 64 experts, and of 256


def test_cases_are_taken_evenly_from_all_of_a_bucket() -> None:
    few, many = TUNE.buckets()
    assert [(trial.case, trial.dtype) for trial in few] == [
        (SquareCase(1), "float32"), (SquareCase(4), "float32"), (SquareCase(3), "bfloat16")]
    assert [(trial.place, trial.case) for trial in many] == [(1, SquareCase(20))] * 2
    assert len(trials_of(TUNE.items())[0]) == 8


@pytest.mark.parametrize(("changes", "message"), [
    ({"kernels": {"commit": KernelCases(["float32"], [], {"one": CommitCase(2, 3, 5)})}}, "must be of those that have"),
    ({"kernels": {"squares": replace(TUNE.kernels["squares"], dtypes=[])}}, "must be of those that have a choice"),
    ({"rounds": 5}, "rounds=5"), ({"seconds": -1}, "seconds=-1"), ({"most_cases": 0}, "most_cases=0"),
    ({"axis": "columns"}, "axis='columns'")], ids=str)
def test_what_cannot_be_tuned_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TUNE, **changes).check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU does")
def test_without_a_gpu_nothing_is_tuned(tmp_path: Path) -> None:
    TUNE.check()
    with pytest.raises(Unavailable, match="no GPU to tune for"):
        TUNE.run(tmp_path)


def test_a_run_tunes_the_gpu_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr("quicksilver.experiments.kernel_bench.tune.Tuner.run",
                        lambda self, buckets, ends: asked.append((self, buckets)) or 2)
    assert TUNE.run(tmp_path) == 2
    ((tuner, buckets),) = asked
    assert (tuner.device, tuner.gpu, tuner.num_rounds) == ("cuda", "A GPU", 8)
    assert tuner.file.path == tmp_path / "kernels" / "tune.jsonl"
    assert buckets == TUNE.buckets()
