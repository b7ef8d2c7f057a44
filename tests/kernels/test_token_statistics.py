"""Token statistics against definitions written out in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from quicksilver.kernels.token_statistics import Draw, Statistic, token_statistics

ALL: frozenset[Statistic] = frozenset({"log_prob", "margin", "entropy"})


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 3, 5), (1, 7, 127), (3, 1, 1024)])
@pytest.mark.parametrize("statistics_temperature", [1.0, 0.5])
def test_statistics_match_their_definitions(shape: tuple[int, int, int], statistics_temperature: float) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    logits[..., 1] = -torch.inf
    found = token_statistics(logits, wanted=ALL, statistics_temperature=statistics_temperature)
    scaled = logits.double().numpy() / statistics_temperature
    p = np.exp(scaled - scaled.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    ordered = np.sort(p, axis=-1)
    assert found.log_prob_BQ is not None
    assert found.margin_BQ is not None
    assert found.entropy_BQ is not None
    np.testing.assert_array_equal(found.token_BQ, p.argmax(-1))
    np.testing.assert_allclose(found.log_prob_BQ, np.log(p.max(-1)), atol=1e-5)
    np.testing.assert_allclose(found.margin_BQ, ordered[..., -1] - ordered[..., -2], atol=1e-5)
    np.testing.assert_allclose(found.entropy_BQ, -(p * np.log(np.where(p > 0, p, 1))).sum(-1), atol=1e-5)


def test_a_tie_takes_the_lowest_token() -> None:
    assert token_statistics(torch.tensor([[[1.0, 3.0, 3.0, 0.0]]])).token_BQ.item() == 1


def test_only_what_is_wanted_is_computed() -> None:
    found = token_statistics(torch.randn(1, 2, 5), wanted=frozenset({"margin"}))
    assert found.log_prob_BQ is None
    assert found.entropy_BQ is None
    assert found.margin_BQ is not None


def draws(logits: list[float], num: int, **cut: Any) -> np.ndarray:
    """How often each token is drawn in `num` draws."""
    draw = Draw(1.0, torch.arange(num), torch.zeros(num, 1, dtype=torch.int64), 0, **cut)
    token = token_statistics(torch.tensor(logits).expand(num, 1, -1), draw=draw).token_BQ
    return np.bincount(token.flatten().numpy(), minlength=len(logits)) / num


def test_top_k_leaves_the_k_most_probable() -> None:
    share = draws([0.0, 2.0, 1.0, -1.0], 20_000, top_k=2)
    np.testing.assert_allclose(share, [0, np.e / (1 + np.e), 1 / (1 + np.e), 0], atol=0.015)


def test_top_p_keeps_the_token_that_crosses() -> None:
    log_p = np.log([0.5, 0.3, 0.15, 0.05]).tolist()
    np.testing.assert_allclose(draws(log_p, 20_000, top_p=0.6), [0.625, 0.375, 0, 0], atol=0.015)
    np.testing.assert_allclose(draws(log_p, 20_000, top_p=0.5), [1, 0, 0, 0], atol=0)


def test_temperature_sharpens_the_draw() -> None:
    draw = Draw(0.5, torch.arange(20_000), torch.zeros(20_000, 1, dtype=torch.int64), 0)
    token = token_statistics(torch.tensor([0.0, 1.0]).expand(20_000, 1, -1), draw=draw).token_BQ
    assert abs(token.float().mean().item() - np.exp(2) / (1 + np.exp(2))) < 0.015
