"""The fused head against float64, and against the separate head under one seed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.batch_invariance import batch_invariant
from quicksilver.kernels.dispatch import INTERPRETED, Implementation, using
from quicksilver.kernels.distribution_state import PreviousDistribution, TokenCredit
from quicksilver.kernels.lm_head_statistics import DRAWN_TILES, TILES, _tiles, lm_head_statistics
from quicksilver.kernels.statistics_request import Bans
from quicksilver.kernels.tile_table import TileChoice, trying
from quicksilver.kernels.token_statistics import SamplingParams, Statistic, StatisticsRequest, token_statistics
from torch import Tensor

from .comparison import DTYPES, put, run

ALL: frozenset[Statistic] = frozenset({"log_prob", "canvas_log_prob", "margin", "logit_gap", "entropy"})


def check(hidden: Tensor, head: Tensor, banned: int | None) -> None:
    """Hold the Triton path against float64 logits of the same inputs."""
    canvas = torch.arange(hidden.shape[0] * hidden.shape[1]).view(hidden.shape[:2]) % len(head)
    canvas[canvas == banned] = (banned or 0) + 1 if (banned or 0) + 1 < len(head) else 0
    (token, *values, nonfinite), _ = run(lm_head_statistics, hidden, head, banned,
                                         StatisticsRequest(ALL, canvas_token_BQ=canvas))
    assert not nonfinite.any()
    logits = hidden.double() @ head.double().T
    size = hidden.double().abs() @ head.double().abs().T  # what the rounding of a sum is relative to
    if banned is not None:
        logits[..., banned] = -torch.inf
    chosen = logits.gather(-1, token[..., None]).squeeze(-1)
    bound = 4 * 2.0**-23 * size.amax(-1)
    assert (logits.amax(-1) - chosen <= bound).all(), "a token below the maximum by more than rounding"
    log_p = logits.log_softmax(-1)
    finite = torch.where(logits.isfinite(), logits.abs(), 0).amax(-1)
    for value, wanted in ((values[0], log_p.gather(-1, token[..., None]).squeeze(-1)),
                          (values[1], log_p.gather(-1, canvas[..., None]).squeeze(-1))):
        assert ((value - wanted).abs() <= 1e-6 * (1 + finite) + bound).all()
    first, second = log_p.exp().topk(2, dim=-1).values.unbind(-1)
    torch.testing.assert_close(values[2].double(), first - second, rtol=0, atol=1e-5)
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    assert ((values[3] - (first - second)).abs() <= 2 * bound + 1e-6 * (1 + finite)).all()
    torch.testing.assert_close(values[4].double(), torch.special.entr(log_p.exp()).sum(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "queried", "width", "vocab"), [
    (1, 1, 1, 2), (2, 3, 17, 11), (1, 31, 64, 127), (1, 33, 65, 128), (3, 11, 128, 129), (2, 65, 20, 130)])
def test_it_matches_float64(rows: int, queried: int, width: int, vocab: int, dtype: torch.dtype) -> None:
    hidden = torch.randn(rows, queried, width).to(dtype)
    head = (torch.randn(vocab, width) * 3 * width**-0.5).to(dtype)
    if vocab == 2 or dtype == torch.float32:  # whether a token is banned has nothing to do with the dtype
        check(hidden, head, None)
    if vocab > 2:
        check(hidden, head, vocab - 1)


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_gap_alone_is_that_of_the_two_best_logits_wherever_they_stand(
        implementation: Implementation, temperature: float) -> None:
    """Both in one tile of the vocabulary, in two, tied, and where only one token is allowed."""
    head = torch.zeros(200, 4)
    head[[0, 1], 0], head[[2, 150], 1], head[[63, 199], 2], head[:, 3] = (
        torch.tensor(pair) for pair in ([5.5, 3.25], [5.5, 3.25], [4.0, 4.0], -1.0))
    head[9, 3] = 1.0
    request = StatisticsRequest(frozenset({"logit_gap"}), None, temperature)
    hidden, head = put(implementation, torch.eye(4)[None], head)
    with using(implementation):
        found = lm_head_statistics(hidden, head, 9, request)
        alone = lm_head_statistics(hidden, head[8:10], 1, request)
    assert found.logit_gap_BQ is not None
    assert alone.logit_gap_BQ is not None
    assert found.logit_gap_BQ[0].tolist() == [2.25 / temperature, 2.25 / temperature, 0.0, 0.0]
    assert found.token_BQ[0].tolist() == [0, 2, 63, 0]
    assert alone.logit_gap_BQ[0].tolist() == [torch.inf] * 4


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("drawn", [False, True])
def test_logits_that_are_not_finite_are_flagged(implementation: Implementation, drawn: bool) -> None:
    """From hidden states or from weights; what the banned token has does not count, but all may not be banned."""
    sampling = SamplingParams(0.8, torch.tensor([1]), torch.arange(3)[None], torch.tensor([4])) if drawn else None

    def flags(hidden: Tensor, head: Tensor, banned: int) -> list[bool]:
        with using(implementation):
            found = lm_head_statistics(*put(implementation, hidden, head, banned, StatisticsRequest(sampling=sampling)))
        assert found.nonfinite_BQ is not None
        return found.nonfinite_BQ[0].tolist()

    hidden, head = torch.rand(1, 3, 4), torch.randn(130, 4)
    spoilt = hidden.clone()
    spoilt[0, 1, 2] = torch.nan
    assert flags(spoilt, head, 9) == [False, True, False]
    for value in (torch.nan, torch.inf):
        broken = head.clone()
        broken[129, 3] = value
        assert flags(hidden, broken, 129) == [False] * 3
        assert flags(hidden, broken, 9) == [True] * 3
    assert flags(hidden, head[:1], 0) == [True] * 3


def test_no_position_gives_no_answer() -> None:
    (token, log_prob, _), _ = run(lm_head_statistics, torch.randn(2, 0, 8), torch.randn(9, 8), None,
                                  StatisticsRequest(frozenset({"log_prob"})))
    assert token.shape == log_prob.shape == (2, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fused_and_separate_draw_the_same_tokens_under_one_seed(dtype: torch.dtype) -> None:
    hidden, head = torch.randn(3, 5, 32).to(dtype), torch.randn(200, 32).to(dtype)
    sampling = SamplingParams(0.8, torch.tensor([1, 2, 2**50]), torch.arange(15).view(3, 5), torch.tensor([4, 0, 4]))
    request = StatisticsRequest(frozenset({"log_prob"}), sampling)
    (token, *_), _ = run(lm_head_statistics, hidden, head, 7, request)
    logits = hidden.float() @ head.float().T
    logits[..., 7] = -torch.inf
    assert torch.equal(token, token_statistics(logits, request).token_BQ)


def test_a_row_alone_gives_the_same_bits_as_in_a_batch() -> None:
    # Sums of these are exact: numpy's products, which the interpreter calls, round by a column's place.
    hidden, head = torch.randint(-8, 9, (1, 40, 48)) / 8, torch.randint(-8, 9, (300, 48)) / 8
    request = StatisticsRequest(frozenset({"log_prob", "margin", "entropy"}))
    together, _ = run(lm_head_statistics, hidden, head, None, request)
    for row in (0, 39):
        alone, _ = run(lm_head_statistics, hidden[:, row : row + 1], head, None, request)
        for one, many in zip(alone, together, strict=True):
            assert one.item() == many[0, row].item()


@pytest.mark.parametrize("choice", [TILES, DRAWN_TILES], ids=lambda choice: choice.name)
def test_what_ships_is_a_candidate_and_every_candidate_gives_the_same_tokens(choice: TileChoice[Any]) -> None:
    hidden, head = torch.randn(1, 70, 48).bfloat16(), torch.randn(300, 48).bfloat16()
    sampling = SamplingParams(0.8, torch.tensor([1]), torch.arange(70)[None], torch.tensor([4]))
    request = StatisticsRequest(frozenset({"log_prob"}), sampling if choice is DRAWN_TILES else None)
    (expected, log_prob, *_), _ = run(lm_head_statistics, hidden, head, None, request)
    candidates = {tile for bucket in choice.buckets for tile in bucket.candidates}
    if INTERPRETED:  # which knows neither warps nor stages
        candidates = {replace(tile, num_warps=8, num_stages=3) for tile in candidates}
    for tile in candidates:
        with trying(choice, choice.place(70), tile):
            (found, again, *_), _ = run(lm_head_statistics, hidden, head, None, request)
        assert torch.equal(found, expected)
        torch.testing.assert_close(again, log_prob, rtol=0, atol=1e-5)
    assert all(bucket.default in bucket.candidates for bucket in choice.buckets)


def test_under_batch_invariant_neither_rows_nor_a_table_choose_the_tile() -> None:
    few, many, whole = torch.zeros(3, 8).half(), torch.zeros(300, 8).half(), torch.zeros(300, 8)
    assert _tiles(few, False) != _tiles(many, False)
    other = TILES.buckets[0].candidates[0]
    with trying(TILES, 0, other):
        assert _tiles(few, False) == other
        with batch_invariant(True):
            assert _tiles(few, False) == _tiles(many, False) == TILES.buckets[0].default != other
            assert _tiles(few, True) == _tiles(many, True) == DRAWN_TILES.buckets[0].default
    with trying(TILES, 1, other):
        assert _tiles(whole, False) == _tiles(whole[:3], False) != other


def test_cutting_the_distribution_is_refused() -> None:
    cut = SamplingParams(1.0, torch.tensor([1]), torch.arange(2)[None], torch.tensor([0]), top_k=3)
    with pytest.raises(ValueError, match="top_k=3"):
        lm_head_statistics(torch.randn(1, 2, 8), torch.randn(16, 8), None, StatisticsRequest(sampling=cut))


def test_what_remembers_whole_distributions_is_refused() -> None:
    hidden, head, shape = torch.randn(1, 2, 8), torch.randn(16, 8), torch.Size((1, 2, 16))
    previous = PreviousDistribution.empty(shape, torch.device("cpu"))
    credit = TokenCredit(torch.zeros(shape), torch.ones(1, 2, dtype=torch.bool), 0.7, 0.8, 0.2)
    for request in (StatisticsRequest(frozenset({"divergence"}), previous=previous), StatisticsRequest(credit=credit)):
        with pytest.raises(ValueError, match="take the separate head"):
            lm_head_statistics(hidden, head, None, request)


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 40), st.integers(1, 80), st.integers(3, 200), st.sampled_from(DTYPES))
def test_any_shape(rows: int, width: int, vocab: int, dtype: torch.dtype) -> None:
    check(torch.randn(1, rows, width).to(dtype), (torch.randn(vocab, width) * width**-0.5).to(dtype), vocab // 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("banned", [None, 4])
def test_banned_tokens_have_no_part_in_any_tile(dtype: torch.dtype, banned: int | None) -> None:
    """Those of levels above a position's are as if the head had no rows for them, in tiles that are not full too."""
    hidden, head = torch.randn(2, 3, 20).to(dtype), torch.randn(131, 20).to(dtype)
    level_V, admitted_BQ = torch.arange(131, dtype=torch.int32) % 3, torch.ones(2, 3, dtype=torch.int32)
    bans, kept = Bans(level_V, admitted_BQ), [token for token in range(131) if token % 3 < 2]
    (token, *values, _), _ = run(lm_head_statistics, hidden, head, banned, StatisticsRequest(
        frozenset({"log_prob", "margin", "entropy"}), bans=bans))
    wanted = lm_head_statistics(hidden, head[kept], None if banned is None else kept.index(banned),
                                StatisticsRequest(frozenset({"log_prob", "margin", "entropy"})))
    assert token.tolist() == torch.tensor(kept)[wanted.token_BQ].tolist()
    for value, other in zip(values, (wanted.log_prob_BQ, wanted.margin_BQ, wanted.entropy_BQ), strict=True):
        assert other is not None
        torch.testing.assert_close(value, other, rtol=0, atol=0.05 if dtype == torch.bfloat16 else 0.005)


@pytest.mark.parametrize("implementation", list(Implementation))
def test_positions_admit_levels_each_by_itself(implementation: Implementation) -> None:
    hidden, head = torch.ones(1, 3, 1), torch.arange(130.0)[:, None]
    level_V = (torch.arange(130) >= 100).int() + (torch.arange(130) >= 120).int()
    bans = Bans(level_V, torch.tensor([[0, 1, 2]], dtype=torch.int32))
    with using(implementation):
        found = lm_head_statistics(*put(implementation, hidden, head, None, StatisticsRequest(bans=bans)))
    assert found.token_BQ.tolist() == [[99, 119, 129]]
