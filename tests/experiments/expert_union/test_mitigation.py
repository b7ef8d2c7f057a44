"""What a mitigation's steps touch, and what it costs beside the usual decode."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quicksilver.decoders import Blocks, Decoder, Delayed, Dual, Even, Greedy, TopProbability
from quicksilver.experiments.expert_union.experiment import RouterSetup
from quicksilver.experiments.expert_union.expert_affinity import ExpertAffinity
from quicksilver.experiments.expert_union.mitigation import MitigationPoint, _touched, measure_mitigation
from quicksilver.experiments.study.runner import Runner
from quicksilver.experiments.training.evaluator import accuracy, batches
from quicksilver.experiments.training.recipe import TrainingPoint
from quicksilver.models import AuxiliaryLoss, BlockSharedExperts, SeparateHead, TokenChoice

from tests.experiments.conftest import TASK, diffusion_recipe
from tests.experiments.expert_union.test_union import EXPERTS

USUAL = Decoder(Blocks(8), Even(4), Greedy(), TopProbability(), Dual())
MODEL = TrainingPoint("sudoku4", TASK, RouterSetup(EXPERTS, AuxiliaryLoss()).recipe(
    diffusion_recipe(updates=1, num_curve_points=1)), 0)
POINT = MitigationPoint("sudoku4", MODEL, "own choice", TokenChoice(), USUAL, USUAL, 2, 6, 1, "cpu", "auto")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    made = Runner(tmp_path)
    made.train(MODEL)
    return made


def test_distinct_experts_are_those_of_the_layers_that_all_positions_pass() -> None:
    whole = [torch.tensor([[[0, 1], [1, 2]]]), torch.tensor([[[3, 4], [3, 4], [3, 4], [5, 6]]])]
    cut = [torch.tensor([[[7, 8]]]), torch.tensor([[[7, 8], [7, 9], [1, 2], [3, 4]]])]  # the first computes one of two
    assert _touched(list(zip(whole, cut, strict=True))) == ((3 + 4) / 2, (2 + 4) / 2)


def test_the_usual_decode_measured_as_a_mitigation_gives_the_answers_of_the_plain_model(runner: Runner) -> None:
    result = measure_mitigation(POINT, runner)
    plain = MODEL.evaluator(runner.model(MODEL), USUAL, SeparateHead())
    assert result["right"].count("1") / 6 == accuracy(plain, TASK, 6, 3)
    requests = list(batches(plain.requests(TASK, TASK.test_problems(6), 0), 2))
    assert result["num_steps"] == sum(len(list(USUAL.stream(USUAL.begin(plain.model, batch)))) for batch in requests)
    assert result["tokens_per_step"] == 6 * TASK.num_blanks / (2 * result["num_steps"])
    assert 2 * 8 < result["positions"] < 2 * 16  # the first step in a block feeds the canvas, the others the block


def test_a_rule_reads_fewer_experts_and_bytes_than_the_usual_decode(runner: Runner) -> None:
    usual, shared = (measure_mitigation(replace(POINT, rule=rule, batch_size=1), runner)
                     for rule in (TokenChoice(), BlockSharedExperts(3)))
    assert shared["distinct"] <= 3 < usual["distinct"]
    assert shared["bytes"] < usual["bytes"]
    assert shared["positions"] == usual["positions"]


def test_an_order_that_asks_for_rare_experts_is_told_of_them_by_the_model(runner: Runner) -> None:
    usual = replace(USUAL, cache=Delayed(4))
    decoder = replace(usual, policy=ExpertAffinity(1.0))  # which refuses a model that does not tell
    result = measure_mitigation(replace(POINT, decoder=decoder, usual=usual), runner)
    assert result["positions"] < 2 * 16  # decided positions are not fed
    assert result["num_items"] == len(result["right"])
