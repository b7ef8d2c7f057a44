"""Two heads, one answer: also where the library would round logits to 16 bits."""

from functools import partial

import pytest
import torch
from quicksilver.kernels.statistics_request import Bans
from quicksilver.kernels.token_statistics import StatisticsRequest
from quicksilver.models import FusedHead, Head, SeparateHead
from quicksilver.models.heads import statistics_by_position
from quicksilver.models.linear import CappedLinear, Linear

from ..strict_device import DEVICE, rehearsal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu_both_heads_see_logits_that_are_not_rounded(dtype: torch.dtype) -> None:
    # 20 + 1/64 and 20: one number in 16 bits of eight digits, two for whoever sums in float32.
    hidden_BQE = torch.tensor([[[16.0, 4.0, 2.0**-6]]], dtype=dtype)
    head_VE = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [-1.0, 0.0, 0.0]], dtype=dtype)
    question = StatisticsRequest(frozenset({"log_prob", "logit_gap"}))
    lm_head = Linear(3, 4, bias=False, dtype=dtype)
    lm_head.weight.data = head_VE
    with rehearsal(), torch.no_grad():
        lm_head = lm_head.to(DEVICE)
        found = [head.statistics(hidden_BQE.to(DEVICE), lm_head, 3, question)
                 for head in (SeparateHead(), FusedHead())]
        separate, fused = ({name: value.cpu() for name, value in vars(one).items() if value is not None}
                           for one in found)
    assert separate["token_BQ"].item() == 2
    assert separate["logit_gap_BQ"].item() == 2.0**-6
    assert separate.keys() == fused.keys()
    for name, value in separate.items():
        torch.testing.assert_close(value, fused[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", [SeparateHead(), FusedHead()], ids=str)
def test_bans_are_those_of_each_position_where_positions_are_taken_by_themselves(head: Head) -> None:
    hidden_BQE, lm_head = torch.ones(2, 2, 1), Linear(1, 6, bias=False)
    lm_head.weight.data = torch.arange(6.0)[:, None]
    bans = Bans(torch.tensor([0, 0, 0, 1, 2, 2], dtype=torch.int32),
                torch.tensor([[0, 1], [2, 0]], dtype=torch.int32))
    with torch.no_grad():
        for statistics in (head.statistics, partial(statistics_by_position, head)):
            found = statistics(hidden_BQE, lm_head, 5, StatisticsRequest(bans=bans))
            assert found.token_BQ.tolist() == [[2, 3], [4, 2]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_capped_logits_are_bent_in_float32_and_the_fused_head_refuses_them(dtype: torch.dtype) -> None:
    lm_head = CappedLinear(3, 5, cap=2.0).to(dtype)
    hidden_BQE, question = torch.randn(2, 3, 3, dtype=dtype), StatisticsRequest(frozenset({"log_prob"}))
    with torch.no_grad():
        product = (hidden_BQE @ lm_head.weight.T).float()
        wanted = 2 * (product / 2).tanh()
        torch.testing.assert_close(lm_head(hidden_BQE), wanted)
        found = SeparateHead().statistics(hidden_BQE, lm_head, None, question)
    assert found.log_prob_BQ is not None
    torch.testing.assert_close(found.log_prob_BQ, wanted.log_softmax(-1).amax(-1))
    with pytest.raises(ValueError, match="head=fused with logits capped at 2: must be separate"):
        FusedHead().statistics(hidden_BQE, lm_head, None, question)
