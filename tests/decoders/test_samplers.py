"""Samplers check their ranges and rank by the distribution they are told to."""

import pytest
import torch
from quicksilver.decoders import Asking, Categorical, Greedy
from quicksilver.kernels.token_statistics import Statistic, token_statistics

LOGITS = torch.tensor([[[2.0, 1.0, 0.0, -torch.inf]]])
ASKING = Asking(torch.tensor([0]), torch.tensor([[0]]), torch.tensor(0), torch.tensor([[True]]))


@pytest.mark.parametrize("field", [{"temperature": 0}, {"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.2},
                                   {"statistics_temperature": 0}, {"temperature": "hot"}], ids=str)
def test_bad_ranges_are_refused(field: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(field))}="):
        Categorical(**field)


def test_confidence_can_be_tempered_or_not() -> None:
    wanted: frozenset[Statistic] = frozenset({"log_prob"})
    plain = token_statistics(LOGITS, Greedy().question(wanted, ASKING, None)).log_prob_BQ
    sharp = token_statistics(LOGITS, Greedy(statistics_temperature=0.5).question(wanted, ASKING, None)).log_prob_BQ
    assert plain is not None
    assert sharp is not None
    assert plain.item() == pytest.approx(LOGITS.log_softmax(-1)[0, 0, 0].item())
    assert sharp.item() == pytest.approx((LOGITS / 0.5).log_softmax(-1)[0, 0, 0].item())


def test_a_banned_token_is_never_drawn() -> None:
    seeds = torch.arange(500)
    asking = Asking(seeds, torch.zeros(500, 1, dtype=torch.int64), torch.tensor(0), torch.ones(500, 1).bool())
    question = Categorical(temperature=5.0).question(frozenset(), asking, None)
    found = token_statistics(LOGITS.expand(500, 1, 4), question)
    assert set(found.token_BQ.flatten().tolist()) == {0, 1, 2}
