"""Unions against a count by hand; canvases on the way, and what a timed forward computes."""

from typing import Any

import pytest
import torch
from quicksilver.decoders import Decoder
from quicksilver.experiments.expert_union.experiment import RouterSetup
from quicksilver.experiments.expert_union.union import Seen, TimedForward, followed, unions
from quicksilver.experiments.training.recipe import Recipe, TrainingPoint
from quicksilver.experiments.training.trainer import initialized
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import AuxiliaryLoss, DecodableTransformer, ExpertShape, RouterRecorder, SeparateHead

from tests.decoders.recording import run
from tests.experiments.conftest import LEFT_TO_RIGHT, ONE_A_STEP, TASK, autoregressive_recipe, diffusion_recipe

EXPERTS = ExpertShape(8, 8, Routing(2, renormalise=True))


def evaluator(recipe: Recipe, decoder: Decoder) -> Any:
    """Of a model with experts as initialised."""
    point = TrainingPoint("sudoku4", TASK, RouterSetup(EXPERTS, AuxiliaryLoss()).recipe(recipe), 0)
    return point.evaluator(initialized(point), decoder, SeparateHead())


def seen(seed: int) -> Seen:
    generator = torch.Generator().manual_seed(seed)
    expert_NBLA = torch.rand(2, 5, 7, 8, generator=generator).topk(3).indices.int()
    return Seen(torch.zeros(5, 7, dtype=torch.int64), torch.rand(5, 7, generator=generator) < 0.3, expert_NBLA)


@pytest.mark.parametrize("width", [1, 2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_unions_are_counted_as_by_hand(width: int, batch_size: int) -> None:
    canvas = seen(width)
    expected: list[list[int]] = [[], []]
    for row in range(0, 5 - batch_size + 1, batch_size):
        for begin in range(0, 7 - width + 1, width):
            rows, positions = slice(row, row + batch_size), slice(begin, begin + width)
            if canvas.counted_BL[rows, positions].any():
                for layer in range(2):
                    expected[layer].append(len(canvas.expert_NBLA[layer, rows, positions].unique()))
    assert unions(canvas, 8, width, batch_size).tolist() == expected


@pytest.mark.parametrize(("width", "batch_size", "message"), [(8, 1, "width=8"), (1, 6, "batch_size=6")])
def test_a_union_of_more_than_there_is_is_refused(width: int, batch_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unions(seen(0), 8, width, batch_size)


def test_a_masked_model_is_followed_from_canvas_to_canvas() -> None:
    of = evaluator(diffusion_recipe(), ONE_A_STEP)
    requests = of.requests(TASK, TASK.test_problems(2), 0)
    canvases = list(followed(of, requests))
    assert [int(canvas.counted_BL.sum(1)[0]) for canvas in canvases] == list(range(TASK.num_blanks, 0, -1))
    for canvas in canvases:
        assert torch.equal(canvas.counted_BL, canvas.tokens_BL == of.model.mask_id)
        with RouterRecorder(of.model.transformer) as recorder, torch.inference_mode():
            of.model.transformer.sequence_hidden(canvas.tokens_BL)
        assert torch.equal(canvas.expert_NBLA, torch.stack([routed.expert_BFA for (routed,) in recorder.results]))


def test_an_autoregressive_model_is_seen_at_its_last_canvas() -> None:
    of = evaluator(autoregressive_recipe(), LEFT_TO_RIGHT)
    requests = of.requests(TASK, TASK.test_problems(2), 0)
    (canvas,) = followed(of, requests)
    assert not (canvas.tokens_BL == of.model.mask_id).any()
    for counted, request in zip(canvas.counted_BL.tolist(), requests, strict=True):
        assert counted == [token == of.model.mask_id for token in request.tokens[1:]] + [False]


def test_a_timed_forward_computes_a_block_of_every_row() -> None:
    of = evaluator(diffusion_recipe(), ONE_A_STEP)
    assert isinstance(of.model, DecodableTransformer)
    counted_BL = torch.zeros(3, 16, dtype=torch.bool)
    counted_BL[0, 1] = counted_BL[1, 8] = counted_BL[2, 15] = True
    forward = TimedForward(of.model, torch.zeros(3, 16, dtype=torch.int64), counted_BL, 4)
    with RouterRecorder(of.model.transformer) as recorder:
        assert forward.seconds(0) > 0
        forward.seconds(5)
    assert [routed.expert_BFA.shape[:2] for routed in recorder.results[0]] == [(3, 4), (3, 4)]
    assert [plan.feed_BF[0].tolist() for plan in forward.plans] == [[0, 1, 2, 3], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert {plan.context for plan in forward.plans} == {16}


@torch.inference_mode()
def test_a_timed_next_token_is_the_forward_of_the_append_cache() -> None:
    of = evaluator(autoregressive_recipe(), LEFT_TO_RIGHT)
    requests = of.requests(TASK, TASK.test_problems(2), 0)
    (canvas,) = followed(of, requests)
    forward = TimedForward(of.model, canvas.tokens_BL, canvas.counted_BL, 1)
    planned = run(LEFT_TO_RIGHT, of.model, requests).plans[1:]  # the first feeds the prompt
    assert [(plan.feed_BF.tolist(), plan.context) for plan in forward.plans[1:]] == [
        (plan.feed_BF.tolist(), plan.context) for plan in planned]
    assert all(plan.no_mask for plan in forward.plans)
