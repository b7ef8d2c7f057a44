"""Evaluation: what a model is asked, in which batches, and which share of it is right."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from quicksilver.decoders import Greedy, presets
from quicksilver.experiments.tasks.base import PromptedProblems, PromptedTask, PromptThenAnswer
from quicksilver.experiments.training.evaluator import Evaluator, accuracy, batches, canvases
from quicksilver.models import Causal

from tests.conftest import MASK_ID, VOCAB_SIZE, TableModel

DECODER = presets.autoregressive(Greedy())


@dataclass(frozen=True)
class Threes(PromptedTask):
    """A prompt of its own number; the answer is 3 3 for every third problem, else 4 4."""

    vocab_size: int = VOCAB_SIZE
    test_seed: int = 0

    def draw(self, rng: np.random.Generator, size: int, *, held_out: bool) -> PromptedProblems:
        number = np.arange(size)
        answer = np.where(number % 3 == 0, 3, 4)
        return PromptedProblems(np.stack((number % 8, number % 5), axis=1), np.stack((answer, answer), axis=1))


class SaysThree(TableModel):
    """Whatever it sees."""

    @lru_cache  # noqa: B019  as the table's
    def _logits(self, tokens: tuple[int, ...], position: int, length: int) -> np.ndarray:
        return 9.0 * (np.arange(VOCAB_SIZE) == 3)


@pytest.fixture
def evaluator() -> Evaluator:
    return Evaluator(SaysThree(Causal()), DECODER, PromptThenAnswer())


def test_a_request_is_the_problem_with_its_answer_masked_under_a_seed_of_its_own(evaluator: Evaluator) -> None:
    problems = Threes().test_problems(3)
    asked = [evaluator.requests(Threes(), problems, seed) for seed in (0, 1)]
    assert [list(request.tokens) for request in asked[0]] == [
        [0, 0, MASK_ID, MASK_ID], [1, 1, MASK_ID, MASK_ID], [2, 2, MASK_ID, MASK_ID]]
    assert {request.start for request in asked[0]} == {2}
    assert len({request.seed for requests in asked for request in requests}) == 6


def test_batches_keep_the_order_and_the_last_holds_the_rest(evaluator: Evaluator) -> None:
    requests = evaluator.requests(Threes(), Threes().test_problems(7), 0)
    found = list(batches(requests, 3))
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert [request for batch in found for request in batch] == requests


def test_canvases_are_prompts_with_what_was_decoded(evaluator: Evaluator) -> None:
    decoded = evaluator.decode(evaluator.requests(Threes(), Threes().test_problems(2), 0))
    found = canvases(decoded.completions)
    assert found.dtype == np.int64
    assert found.tolist() == [[0, 0, 3, 3], [1, 1, 3, 3]]
    assert 0 < decoded.first_step_seconds <= decoded.seconds


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_accuracy_is_the_share_that_is_right_whatever_the_batch(evaluator: Evaluator, batch_size: int) -> None:
    assert accuracy(evaluator, Threes(), 7, batch_size) == 3 / 7
