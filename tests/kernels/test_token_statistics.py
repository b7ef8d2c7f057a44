"""Token statistics, on both paths, against definitions written out in float64."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.case import with_tensors
from quicksilver.kernels.dispatch import INTERPRETED, Implementation, using
from quicksilver.kernels.distribution_state import PreviousDistribution, TokenCredit
from quicksilver.kernels.statistics_request import Bans
from quicksilver.kernels.token_statistics import (
    SamplingParams,
    Statistic,
    StatisticsRequest,
    TokenStatistics,
    cut_off,
    token_statistics,
)
from torch import Tensor

from .comparison import DTYPES, on_device, put, run

ALL: frozenset[Statistic] = frozenset({"log_prob", "canvas_log_prob", "margin", "logit_gap", "entropy"})


def triton(logits: Tensor, request: StatisticsRequest) -> TokenStatistics:
    """The statistics of the Triton path, under the conditions of the shared comparison."""
    names = [name for name, value in vars(token_statistics(logits, request)).items() if value is not None]
    outputs, _ = run(token_statistics, logits, request)
    return TokenStatistics(**dict(zip(names, outputs, strict=True)))


PATHS = pytest.mark.parametrize("ask", [token_statistics, triton], ids=["reference", "triton"])


def check_definitions(found: TokenStatistics, logits: Tensor, canvas: Tensor, temperature: float = 1.0) -> None:
    """The greedy token exactly, and each statistic within its bound."""
    scaled = logits.double().numpy() / temperature
    largest = np.abs(np.where(np.isfinite(scaled), scaled, 0)).max()
    shifted = scaled - scaled.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    p = np.exp(log_p)
    ordered = np.sort(p, axis=-1)
    assert found.log_prob_BQ is not None
    assert found.canvas_log_prob_BQ is not None
    assert found.margin_BQ is not None
    assert found.logit_gap_BQ is not None
    assert found.entropy_BQ is not None
    np.testing.assert_array_equal(found.token_BQ, scaled.argmax(-1))
    on_canvas = np.take_along_axis(log_p, canvas.numpy()[..., None], -1)[..., 0]
    for value, wanted in ((found.log_prob_BQ, log_p.max(-1)), (found.canvas_log_prob_BQ, on_canvas)):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-6 * (1 + largest))
    np.testing.assert_allclose(found.log_prob_BQ.exp(), p.max(-1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.margin_BQ, ordered[..., -1] - ordered[..., -2], rtol=0, atol=1e-5)
    ordered = np.sort(scaled, axis=-1)
    np.testing.assert_allclose(found.logit_gap_BQ, ordered[..., -1] - ordered[..., -2], rtol=1e-6,
                               atol=1e-6 * (1 + largest))
    entropy = -(p * np.where(p > 0, log_p, 0)).sum(-1)
    np.testing.assert_allclose(found.entropy_BQ, entropy, rtol=0, atol=1e-4)


@PATHS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 3, 5), (1, 2, 127), (1, 1, 8191), (1, 2, 8192), (1, 1, 20011)],
                         ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_statistics_match_their_definitions(ask: Any, shape: tuple[int, ...], dtype: torch.dtype, temperature: float
                                            ) -> None:
    logits = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 6).to(dtype)
    logits[..., 1] = -torch.inf
    canvas = torch.randint(0, shape[-1], shape[:2])
    canvas[canvas == 1] = 0
    check_definitions(ask(logits, StatisticsRequest(ALL, None, temperature, canvas)), logits, canvas, temperature)


@PATHS
def test_large_logits_keep_their_digits(ask: Any) -> None:
    logits = torch.randn(1, 3, 9001) + 60
    canvas = torch.zeros(1, 3, dtype=torch.int64)
    check_definitions(ask(logits, StatisticsRequest(ALL, canvas_token_BQ=canvas)), logits, canvas)


@PATHS
@pytest.mark.parametrize("ties", [(1, 2), (0, 8191, 8192), (4096, 9000), (8999, 9000)], ids=str)
def test_a_tie_takes_the_lowest_token(ask: Any, ties: tuple[int, ...]) -> None:
    logits = torch.zeros(1, 1, 9001)
    logits[..., list(ties)] = 3
    found = ask(logits, StatisticsRequest(frozenset({"margin", "logit_gap"})))
    assert found.token_BQ.item() == ties[0]
    assert found.margin_BQ.item() == 0
    assert found.logit_gap_BQ.item() == 0


@PATHS
def test_a_row_that_allows_nothing_gives_no_nan(ask: Any) -> None:
    logits = torch.randn(1, 3, 9000)
    logits[0, 1] = -torch.inf
    logits[0, 2, 1:] = -torch.inf
    found = ask(logits, StatisticsRequest(ALL, canvas_token_BQ=torch.ones(1, 3, dtype=torch.int64)))
    assert [found.token_BQ[0, 1], found.log_prob_BQ[0, 1]] == [0, -torch.inf]
    assert [found.margin_BQ[0, 1], found.logit_gap_BQ[0, 1], found.entropy_BQ[0, 1]] == [0, 0, 0]
    assert found.canvas_log_prob_BQ[0, 1:].tolist() == [-torch.inf, -torch.inf]
    assert [found.log_prob_BQ[0, 2], found.margin_BQ[0, 2], found.entropy_BQ[0, 2]] == [0, 1, 0]
    assert found.logit_gap_BQ[0, 2] == torch.inf  # no second token


NAN, INF = float("nan"), float("inf")


@PATHS
@pytest.mark.parametrize(("dtype", "drawn", "wanted"), [
    (torch.float32, {}, ALL), (torch.bfloat16, {}, frozenset()), (torch.float32, {"temperature": 1.0}, frozenset()),
    (torch.float16, {"temperature": 1.0, "top_k": 2, "top_p": 0.5}, ALL)], ids=["all", "none", "drawn", "cut"])
def test_logits_that_are_not_finite_are_flagged(ask: Any, dtype: torch.dtype, drawn: dict[str, Any],
                                                wanted: frozenset[Statistic]) -> None:
    """In whichever tile of a row; that a token is banned is no reason."""
    rows = list(itertools.product(([NAN], [INF], [NAN, INF], [-INF], []), (2, 8192)))
    if drawn and INTERPRETED:  # all keys of a row that is flagged are computed, which takes seconds
        rows = [rows[3 if "top_k" in drawn else 0], *rows[6:]]
    logits = torch.randn(1, len(rows) + 1, 8200)
    for row, (values, place) in enumerate(rows):
        logits[0, row, place : place + len(values)] = torch.tensor(values)
    logits[0, -1] = -INF
    draw = drawing(1, logits.shape[1], **drawn) if drawn else None
    canvas = torch.zeros(logits.shape[:2], dtype=torch.int64)
    found = ask(logits.to(dtype), StatisticsRequest(wanted, draw, canvas_token_BQ=canvas))
    assert found.nonfinite_BQ is not None
    assert found.nonfinite_BQ[0].tolist() == [values not in ([-INF], []) for values, _ in rows] + [True]
    assert ((found.token_BQ >= 0) & (found.token_BQ < 8200)).all()


@pytest.mark.parametrize("implementation", list(Implementation))
def test_credit_and_divergence_leave_the_flag(implementation: Implementation) -> None:
    logits = torch.tensor([[[0.0, NAN, 1.0], [0.0, INF, 1.0], [0.0, -INF, 1.0]]])
    credit = TokenCredit(torch.zeros(logits.shape), torch.ones(1, 3, dtype=torch.bool), 0.7, 0.8, 0.2)
    previous = PreviousDistribution.empty(logits.shape, torch.device("cpu"))
    request = StatisticsRequest(frozenset({"divergence"}), None, 1.0, None, previous, credit)
    with using(implementation):
        found = token_statistics(*put(implementation, logits, request))
    assert found.nonfinite_BQ is not None
    assert found.nonfinite_BQ.tolist() == [[True, True, False]]


LEAST, MOST = 5e-324, 1.7e308
CUTS = ({}, {"top_k": 3}, {"top_p": 0.9})


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize(("temperature", "cut"), [(LEAST, {}), (1e-300, CUTS[1]), (1e-38, {}), (1e-37, {}),
                                                  (1e-38, CUTS[2])], ids=str)
def test_the_coldest_draws_are_greedy(implementation: Implementation, temperature: float, cut: dict[str, Any]) -> None:
    logits = 40 * torch.randn(1, 12, 300)
    logits[..., 7] = -INF
    request = StatisticsRequest(frozenset(), drawing(1, 12, temperature, **cut))
    with using(implementation):
        found = token_statistics(*put(implementation, logits, request))
    assert torch.equal(found.token_BQ.cpu(), logits.argmax(-1))


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize(("temperature", "cut"), [(1e38, {}), (1e39, {}), (1e300, {"top_k": 500}), (MOST, {}),
                                                  (1e300, {"top_p": 0.999})], ids=str)
def test_the_hottest_draws_are_from_all_that_is_allowed(implementation: Implementation, temperature: float,
                                                        cut: dict[str, Any]) -> None:
    """Whatever their logits: as those of logits that are all alike."""
    logits = 40 * torch.randn(1, 20, 6)
    logits[..., [0, 5]] = -INF
    request = StatisticsRequest(frozenset(), drawing(1, 20, temperature, **cut))
    with using(implementation):
        found = token_statistics(*put(implementation, logits, request))
    alike = token_statistics(torch.where(logits == -INF, -INF, 0), StatisticsRequest(frozenset(), drawing(1, 20)))
    assert torch.equal(found.token_BQ.cpu(), alike.token_BQ)
    assert set(found.token_BQ.flatten().tolist()) == {1, 2, 3, 4}


@PATHS
@pytest.mark.parametrize("temperature", [LEAST, 1e-38, 1e300, MOST])
def test_statistics_of_any_temperature_are_numbers(ask: Any, temperature: float) -> None:
    logits = torch.tensor([[[1.0, 3.0, 2.0, -INF]]])
    found = ask(logits, StatisticsRequest(ALL, None, temperature, torch.tensor([[1]])))
    probability, margin, entropy = (1, 1, 0) if temperature < 1 else (1 / 3, 0, np.log(3))
    np.testing.assert_allclose(found.log_prob_BQ.exp(), probability, rtol=1e-6)
    np.testing.assert_allclose(found.canvas_log_prob_BQ.exp(), probability, rtol=1e-6)
    np.testing.assert_allclose(found.margin_BQ, margin, atol=1e-6)
    np.testing.assert_allclose(found.entropy_BQ, entropy, atol=1e-6)
    assert found.logit_gap_BQ.isfinite().all()
    previous = PreviousDistribution.empty(logits.shape, torch.device("cpu"))
    for _ in range(2):
        request = StatisticsRequest(frozenset({"divergence"}), None, temperature, previous=previous)
        found = token_statistics(logits, request)
    assert found.divergence_BQ is not None
    assert found.divergence_BQ.item() == 0


@PATHS
def test_no_position_gives_no_answer(ask: Any) -> None:
    assert ask(torch.empty(2, 0, 7), StatisticsRequest(frozenset({"log_prob"}))).token_BQ.shape == (2, 0)


@PATHS
def test_only_what_is_wanted_is_computed(ask: Any) -> None:
    found = ask(torch.randn(1, 2, 5), StatisticsRequest(frozenset({"margin"})))
    assert found.log_prob_BQ is None
    assert found.entropy_BQ is None
    assert found.margin_BQ is not None


@PATHS
@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("places", [(5, 6), (0, 8192), (8191, 8192), (9000, 17)], ids=str)
def test_the_gap_alone_is_that_of_the_two_best_logits_wherever_they_stand(
        ask: Any, places: tuple[int, int], temperature: float) -> None:
    logits = torch.zeros(1, 2, 9001)
    logits[0, 0, places[0]], logits[0, 0, places[1]] = 5.5, 3.25
    logits[0, 1, places[0]] = -4.0
    found = ask(logits, StatisticsRequest(frozenset({"logit_gap"}), None, temperature))
    assert found.logit_gap_BQ[0].tolist() == [2.25 / temperature, 0.0]
    assert found.log_prob_BQ is found.margin_BQ is None


@PATHS
def test_a_draw_leaves_the_gap_as_it_is(ask: Any) -> None:
    logits = torch.randn(2, 3, 300) * 3
    greedy, drawn = (ask(logits, StatisticsRequest(frozenset({"logit_gap"}), draw)) for draw in (None, drawing(2, 3)))
    assert not torch.equal(greedy.token_BQ, drawn.token_BQ)
    assert torch.equal(greedy.logit_gap_BQ, drawn.logit_gap_BQ)


def test_a_row_alone_gives_the_same_bits_as_in_a_batch() -> None:
    logits, wanted = torch.randn(1, 3, 8200), frozenset(ALL - {"canvas_log_prob"})
    together = triton(logits, StatisticsRequest(wanted))
    for row in range(3):
        alone = triton(logits[:, row : row + 1], StatisticsRequest(wanted))
        for name, value in vars(alone).items():
            assert value is None or value.item() == getattr(together, name)[0, row].item()


def drawing(num_rows: int, num_queried: int, temperature: float = 0.7, **cut: Any) -> SamplingParams:
    position_BQ = torch.arange(num_rows * num_queried).view(num_rows, num_queried) % 997
    step_B = torch.arange(num_rows) % 2 + 3
    return SamplingParams(temperature, torch.arange(num_rows) + 2**40, position_BQ, step_B, **cut)


@pytest.mark.parametrize("cut", [{}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 50, "top_p": 0.95}], ids=str)
def test_both_paths_draw_the_same_tokens_under_one_seed(cut: dict[str, Any]) -> None:
    logits = torch.randn(2, 3, 8300) * 3
    request = StatisticsRequest(frozenset({"log_prob"}), drawing(2, 3, **cut))
    reference, found = token_statistics(logits, request), triton(logits, request)
    assert torch.equal(reference.token_BQ, found.token_BQ)
    assert reference.log_prob_BQ is not None
    torch.testing.assert_close(reference.log_prob_BQ, found.log_prob_BQ, rtol=0, atol=2e-5)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 300), st.sampled_from(DTYPES), st.booleans())
def test_any_shape(num_rows: int, num_queried: int, vocab_size: int, dtype: torch.dtype, coarse: bool) -> None:
    logits = torch.randn(num_rows, num_queried, vocab_size) * 5
    logits = (logits.round() if coarse else logits).to(dtype)  # rounding plants ties
    canvas = torch.randint(0, vocab_size, (num_rows, num_queried))
    check_definitions(triton(logits, StatisticsRequest(ALL, canvas_token_BQ=canvas)), logits, canvas)


def draws(logits: list[float], num: int, **cut: Any) -> np.ndarray:
    """How often each token is drawn in `num` draws."""
    draw = SamplingParams(1.0, torch.arange(num), torch.zeros(num, 1, dtype=torch.int64),
                          torch.zeros(num, dtype=torch.int64), **cut)
    token = token_statistics(torch.tensor(logits).expand(num, 1, -1), StatisticsRequest(sampling=draw)).token_BQ
    return np.bincount(token.flatten().numpy(), minlength=len(logits)) / num


def test_top_k_leaves_the_k_most_probable() -> None:
    share = draws([0.0, 2.0, 1.0, -1.0], 20_000, top_k=2)
    np.testing.assert_allclose(share, [0, np.e / (1 + np.e), 1 / (1 + np.e), 0], atol=0.015)


def test_top_p_keeps_the_token_that_crosses() -> None:
    log_p = np.log([0.5, 0.3, 0.15, 0.05]).tolist()
    np.testing.assert_allclose(draws(log_p, 20_000, top_p=0.6), [0.625, 0.375, 0, 0], atol=0.015)
    np.testing.assert_allclose(draws(log_p, 20_000, top_p=0.49), [1, 0, 0, 0], atol=0)


def test_temperature_sharpens_the_draw() -> None:
    draw = SamplingParams(0.5, torch.arange(20_000), torch.zeros(20_000, 1, dtype=torch.int64),
                          torch.zeros(20_000, dtype=torch.int64))
    token = token_statistics(torch.tensor([0.0, 1.0]).expand(20_000, 1, -1), StatisticsRequest(sampling=draw)).token_BQ
    assert abs(token.float().mean().item() - np.exp(2) / (1 + np.exp(2))) < 0.015


def test_a_nucleus_of_everything_cuts_nothing() -> None:
    logits = torch.randn(1, 1, 50_000) * 3
    assert cut_off(logits, drawing(1, 1, top_p=1.0)) is None
    nearly = cut_off(logits, drawing(1, 1, 1.0, top_p=1 - 1e-9))
    assert nearly is not None
    assert (logits < nearly).double().mean() < 0.1


def test_a_row_of_nan_still_names_a_token_of_the_vocabulary() -> None:
    with using(Implementation.TRITON):
        found = token_statistics(on_device(torch.full((1, 2, 300), torch.nan)),
                                 StatisticsRequest(frozenset({"log_prob"})))
    assert ((found.token_BQ >= 0) & (found.token_BQ < 300)).all()


def test_the_canvas_must_be_given_where_it_is_asked_about() -> None:
    with pytest.raises(ValueError, match="canvas_token_BQ=None"):
        token_statistics(torch.randn(1, 1, 4), StatisticsRequest(frozenset({"canvas_log_prob"})))


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_divergence_is_that_from_the_step_before_by_the_temperature_of_the_statistics(
        implementation: Implementation, temperature: float) -> None:
    steps = torch.randn(3, 1, 2, 200) * 3
    steps[..., 7] = -torch.inf
    previous = PreviousDistribution.empty(steps[0].shape, torch.device("cpu"))
    draw = drawing(1, 2)
    request = StatisticsRequest(frozenset({"log_prob", "divergence"}), draw, temperature, previous=previous)
    assert request.needs_logits
    asked, *moved = put(implementation, request, *steps)
    with using(implementation):
        found = [with_tensors(token_statistics(logits, asked), Tensor.cpu) for logits in moved]
    p, before = ((logits.double() / temperature).softmax(-1).numpy() for logits in (steps[2], steps[1]))
    wanted = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, before, 1)), 0).sum(-1)
    assert found[0].divergence_BQ is not None
    assert found[2].divergence_BQ is not None
    assert (found[0].divergence_BQ == torch.inf).all()
    np.testing.assert_allclose(found[2].divergence_BQ, wanted, rtol=1e-5)
    plain = token_statistics(steps[2], StatisticsRequest(frozenset({"log_prob"}), draw, temperature))
    assert torch.equal(found[2].token_BQ, plain.token_BQ)
    assert found[2].log_prob_BQ is not None
    assert plain.log_prob_BQ is not None
    torch.testing.assert_close(found[2].log_prob_BQ, plain.log_prob_BQ, rtol=0, atol=2e-5)


@pytest.mark.parametrize("implementation", list(Implementation))
def test_credit_changes_the_logits_before_anything_is_asked_of_them(implementation: Implementation) -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0, -torch.inf], [0.0, 3.0, 1.0, -torch.inf]]])
    memory = torch.zeros(logits.shape)
    memory[0, 0, 1] = 1.0
    credit = TokenCredit(memory, torch.tensor([[True, False]]), alpha=3.0, beta=0.5, gamma=1.0)
    canvas, previous = torch.tensor([[0, 2]]), PreviousDistribution.empty(logits.shape, torch.device("cpu"))
    request = StatisticsRequest(frozenset({*ALL, "divergence"}), None, 1.0, canvas, previous, credit)
    assert request.needs_logits
    moved, asked = put(implementation, logits, request)
    with using(implementation):
        found = with_tensors(token_statistics(moved, asked), Tensor.cpu)
    fused = logits.double()
    fused[0, 0, 0] += 3 * np.log(1 + np.exp(2) / (np.exp(2) + np.e + 1))  # the most probable one earns
    fused[0, 0, 1] += 3 * np.log(1.5)  # half of its credit is left; nothing is earned at a decided position
    check_definitions(found, fused, canvas)
    np.testing.assert_allclose(asked.previous.log_probs_BQV.cpu().exp(), fused.softmax(-1), atol=1e-6)


def test_the_step_before_must_be_given_where_it_is_asked_about() -> None:
    with pytest.raises(ValueError, match="previous=None"):
        token_statistics(torch.randn(1, 1, 4), StatisticsRequest(frozenset({"divergence"})))


@PATHS
@pytest.mark.parametrize("drawn", [False, True])
def test_banned_tokens_are_as_if_their_logits_were_minus_infinity(ask: Any, drawn: bool) -> None:
    """A token whose level is above its position's, whatever its logit; the logits themselves stay."""
    logits, level_V = torch.randn(2, 3, 70), torch.arange(70, dtype=torch.int32) % 3
    admitted_BQ = torch.tensor([[0, 1, 2], [2, 1, 0]], dtype=torch.int32)
    logits[0, 0, 1] = torch.nan  # of level 1
    sampling = SamplingParams(0.8, torch.tensor([1, 2]), torch.arange(6).view(2, 3), torch.tensor([4, 0]))
    request = StatisticsRequest(ALL, sampling if drawn else None, canvas_token_BQ=torch.zeros(2, 3, dtype=torch.int64))
    kept, by_hand = logits.clone(), logits.clone()
    for row, place, token in itertools.product(range(2), range(3), range(70)):
        if token % 3 > admitted_BQ[row, place]:
            by_hand[row, place, token] = -torch.inf
    found, wanted = ask(logits, replace(request, bans=Bans(level_V, admitted_BQ))), ask(by_hand, request)
    for name, value in vars(wanted).items():
        assert value is None or torch.equal(getattr(found, name), value)
    assert (found.token_BQ % 3 <= admitted_BQ).all()
    assert not found.nonfinite_BQ.any()
    assert torch.equal(logits.nan_to_num(), kept.nan_to_num())


@pytest.mark.parametrize(("bans", "message"), [
    (Bans(torch.zeros(8, dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int32)), r"level_V of shape \[8\]: must be"),
    (Bans(torch.zeros(9, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)), r"admitted_BQ of shape \[2\]"),
    (Bans(torch.zeros(9), torch.zeros(1, 2, dtype=torch.int32)), "level_V of torch.float32: must be torch.int32"),
    (Bans(torch.zeros(9, dtype=torch.int32), torch.zeros(1, 2)), "admitted_BQ of torch.float32")],
    ids=lambda value: value if isinstance(value, str) else "")
def test_bans_of_another_shape_or_type_are_refused(bans: Bans, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_statistics(torch.randn(1, 2, 9), StatisticsRequest(bans=bans))
