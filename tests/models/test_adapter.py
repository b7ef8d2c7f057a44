"""The shift: a next-token model's answer for a position is computed one position before it."""

import pytest
import torch
from quicksilver.models import Causal, Plan

from tests.conftest import VOCAB_SIZE, random_model


@torch.inference_mode()
@pytest.mark.parametrize("reads", [None, [1, 2, 3, 4, 5], [4, 1]], ids=str)
def test_an_answer_for_a_position_is_read_one_before_it(reads: list[int] | None) -> None:
    model, fed = random_model(Causal()), torch.arange(6)[None]
    tokens = torch.randint(0, VOCAB_SIZE, (1, 7), generator=torch.Generator().manual_seed(0))
    at_BQE = model.transformer.sequence_hidden(tokens[:, :6])
    asked = list(range(6)) if reads is None else reads
    answer_BQE = model.hidden(tokens, Plan(fed, None if reads is None else torch.tensor([reads])), None)
    for place, position in enumerate(asked):
        if position:
            torch.testing.assert_close(answer_BQE[:, place], at_BQE[:, position - 1])
