"""The default recipes reach what the README says, trained from nothing: minutes long."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.decoders import Decoder, Greedy, Linear, Policy, RandomOrder, Recompute, TopProbability, Whole
from quicksilver.experiments.harness.cores import available_cores
from quicksilver.experiments.harness.devices import fast_precision
from quicksilver.experiments.study.setup import TaskSetup
from quicksilver.experiments.training.evaluator import accuracy
from quicksilver.experiments.training.recipe import TrainingPoint
from quicksilver.experiments.training.side_by_side import train_side_by_side
from quicksilver.experiments.training.trainer import load_or_train
from quicksilver.models import SeparateHead

pytestmark = pytest.mark.slow
Share = Callable[..., float]
NUM_ITEMS = 512


def any_order(steps: int, policy: Policy) -> Decoder:
    return Decoder(Whole(), Linear(steps), Greedy(), policy, Recompute())


@pytest.fixture(scope="module")
def setups() -> dict[str, TaskSetup]:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        config = compose("config", overrides=["threads=2", "models_at_once=1", "device=cpu",
                                              f"precision={fast_precision('cpu')}"])
        return instantiate(config.experiment, _convert_="all").tasks


@pytest.fixture(scope="module")
def folder(setups: dict[str, TaskSetup], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of this module, trained."""
    path = tmp_path_factory.mktemp("recipes")
    pairs = [point(setups, task, family) for task in setups for family in ("autoregressive", "diffusion")]
    assert not train_side_by_side(pairs, path, available_cores())
    return path


def point(setups: dict[str, TaskSetup], task: str, family: str) -> TrainingPoint:
    return TrainingPoint(task, setups[task].task, setups[task].recipe(family), seed=0)


@pytest.fixture
def share(setups: dict[str, TaskSetup], folder: Path) -> Share:
    """share(task, family, decoder): right answers of the default recipe's model; the recipe's decoder by default."""

    def measured(task: str, family: str, decoder: Decoder | None = None) -> float:
        model = point(setups, task, family)
        transformer, _ = load_or_train(model, folder)
        evaluator = model.evaluator(transformer, decoder or model.recipe.curve_decoder, SeparateHead())
        return accuracy(evaluator, setups[task].task, NUM_ITEMS, 128)

    return measured


def test_sudoku6_rises_with_steps_and_needs_the_confident_order(share: Share) -> None:
    by_steps = {steps: share("sudoku6", "diffusion", any_order(steps, TopProbability())) for steps in (1, 4, 22)}
    assert by_steps[22] >= 0.95
    assert by_steps[4] >= 0.80
    assert by_steps[22] - by_steps[1] >= 0.50
    assert share("sudoku6", "diffusion", any_order(22, RandomOrder())) <= by_steps[22] - 0.15


def test_sudoku6_is_hard_from_left_to_right_and_not_hopeless(share: Share) -> None:
    assert share("sudoku6", "autoregressive") >= 0.13


def test_sudoku4_is_solved_by_both(share: Share) -> None:
    assert share("sudoku4", "autoregressive") >= 0.65
    assert share("sudoku4", "diffusion") >= 0.95


def test_extraction_takes_diffusion_one_step(share: Share) -> None:
    assert share("extraction", "autoregressive") >= 0.99
    assert share("extraction", "diffusion", any_order(1, TopProbability())) >= 0.99


def test_addition_is_learnt_left_to_right_and_half_in_any_order(share: Share) -> None:
    assert share("addition", "autoregressive") >= 0.95
    assert share("addition", "diffusion") >= 0.25
