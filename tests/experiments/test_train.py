"""Training in runs: it stops in time, goes on to the same weights, says what is left; the runs of `make gpu-train`."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.experiments import train
from quicksilver.experiments.frontier.experiment import Frontier
from quicksilver.experiments.harness.execution import ProductTypes
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.experiments.train import Train
from quicksilver.experiments.training import trainer as training
from quicksilver.experiments.training.recipe import TrainingPoint
from quicksilver.experiments.training.trainer import load_or_train
from quicksilver.kernels.dispatch import Ran
from quicksilver.models import Causal, TransformerConfig

from tests.experiments.conftest import TASK, autoregressive_recipe, diffusion_recipe
from tests.test_conf import check_types

ROOT = Path(__file__).resolve().parents[2]


def experiment(seconds: float = 60, **changes: Any) -> Train:
    setup = TaskSetup(TASK, diffusion_recipe(), autoregressive_recipe(), steps=[1], ablation_steps=[])
    settings: dict[str, Any] = {"tasks": {"sudoku4": setup}, "seeds": [0], "seconds": seconds}
    return Train(**(settings | changes))


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(train.console, "print", lambda text, **_: lines.append(text))
    return lines


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The updates that are made, a second each: time stands still otherwise."""
    made: list[int] = []
    update = training._update

    def counted(run: training._Run, point: TrainingPoint) -> float:
        made.append(run.update)
        return update(run, point)

    monkeypatch.setattr(training, "_update", counted)
    monkeypatch.setattr(training, "_watched_update", lambda point: (ProductTypes(), Ran()))
    for module in (training, train):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(len(made))))
    return made


def test_a_run_stops_in_time_and_the_next_ones_go_on_to_the_same_weights(
        tmp_path: Path, printed: list[str], updates: list[int]) -> None:
    points = list(experiment().points())
    whole = [load_or_train(point, tmp_path / "whole") for point in points]
    updates.clear()
    # Twelve updates in all, five a run: in the second run the first model is finished and the other begun.
    ends = []
    for _ in range(3):
        before = len(updates)
        assert experiment(seconds=5).run(tmp_path / "cut") == 0
        ends.append((len(updates) - before, printed[-3:]))
        printed.clear()
    assert updates == [*range(6), *range(6)]
    assert [count for count, _ in ends] == [5, 5, 2]
    diffusion, autoregressive = "sudoku4 MaskedDiffusion seed 0: ", "sudoku4 AutoregressiveNLL seed 0: "
    assert ends[0][1] == [f"{diffusion}left at 5 of 6 updates", f"{autoregressive}left at 0 of 6 updates",
                          "0 of 2 models finished, 2 left, 0 failed; the same command goes on"]
    finished = f"{diffusion}finished, 6 updates in 6 s, "
    assert ends[1][1][0].startswith(finished)
    assert ends[1][1][1:] == [f"{autoregressive}left at 4 of 6 updates",
                              "1 of 2 models finished, 1 left, 0 failed; the same command goes on"]
    assert ends[2][1][0].startswith(finished)
    assert ends[2][1][-1].endswith("experiment=frontier with the same options measures them")
    for point, (transformer, record) in zip(points, whole, strict=True):
        again, record_again = load_or_train(point, tmp_path / "cut")
        assert all(map(torch.equal, transformer.state_dict().values(), again.state_dict().values()))
        assert record_again["result"]["losses"] == record["result"]["losses"]
        assert len(record_again["result"]["curve"]) == len(record["result"]["curve"]) == 2
    assert not list(tmp_path.glob("cut/checkpoints/*.state.safetensors"))


def test_a_model_that_fails_is_counted_and_the_other_is_trained(
        tmp_path: Path, printed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    update = training._update

    def failing(run: training._Run, point: TrainingPoint) -> float:
        if point.config().attention != Causal():
            raise RuntimeError("out of memory")
        return update(run, point)

    monkeypatch.setattr(training, "_update", failing)
    assert experiment().run(tmp_path) == 1
    assert printed[-3] == "sudoku4 MaskedDiffusion seed 0: failed: RuntimeError: out of memory"
    assert printed[-1] == "1 of 2 models finished, 0 left, 1 failed; the same command goes on"


@pytest.mark.parametrize(("changes", "message"), [
    ({"seconds": 0}, "seconds=0"), ({"seeds": []}, "at least one of each"), ({"seeds": [1, 1]}, "all be different"),
    ({"seeds": [-1]}, "seeds=-1"), ({"tasks": {"x": 3}}, "task.x=3")])
def test_a_bad_experiment_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes)


def test_a_model_that_could_not_be_looked_at_is_refused_before_training() -> None:
    unfit = replace(diffusion_recipe(), curve_decoder=autoregressive_recipe().curve_decoder)
    setup = TaskSetup(TASK, unfit, autoregressive_recipe(), steps=[1], ablation_steps=[])
    with pytest.raises(ValueError, match="needs a causal next-token model"):
        experiment(tasks={"sudoku4": setup}).check()
    experiment().check()


Compose = Callable[..., Any]


@pytest.fixture
def composed() -> Compose:
    def build(*overrides: str) -> Any:
        with initialize_config_module("quicksilver.conf", version_base="1.3"):
            config = compose("config", overrides=["threads=2", "models_at_once=1", "device=cpu", "precision=float32",
                                                  *overrides])
            return instantiate(config.experiment, _convert_="all")

    return build


@pytest.mark.parametrize(("model", "num_weights"), [("6m", 5_308_416), ("30m", 30_408_704)])
def test_a_model_has_the_weights_that_its_file_says(composed: Compose, model: str, num_weights: int) -> None:
    built = composed("experiment=train", "task=sudoku4", f"model={model}")
    assert isinstance(built, Train)
    (shape,) = {point.recipe.shape for point in built.points()}
    assert TransformerConfig(11, 81, Causal(), shape).num_matrix_parameters() == num_weights
    assert f"# {num_weights:,} weights" in (ROOT / "conf" / "model" / f"{model}.yaml").read_text()


def test_make_gpu_train_names_runs_whose_models_the_sweep_takes(composed: Compose) -> None:
    command = ["make", "--silent", "gpu-train", "PYTHON=echo", "ARGS=output=elsewhere"]
    made = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    found = []
    for line in made.stdout.splitlines():
        flag, module, *overrides, output = line.split()
        assert (flag, module, output) == ("-m", "quicksilver.experiments", "output=elsewhere")
        built = composed(*overrides)
        assert isinstance(built, Train)
        assert 450 < built.seconds <= 500
        check_types(built)
        points = list(built.points())
        options = [override for override in overrides if not override.startswith("experiment")]
        frontier = composed(*options)
        assert isinstance(frontier, Frontier)
        assert list(frontier.training_points()) == points
        assert {point.recipe.batch_size for point in points} == {1024}
        assert min(point.recipe.updates for point in points) >= 4000
        found.append((points[0].name, points[0].recipe.shape.width))
    assert sorted(found) == [("code_lines", 512), ("countdown4", 384), ("sudoku9", 384), ("sudoku9", 512)]
