"""The choice of positions against its definition: exact, ties and all."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.choose import choose
from quicksilver.kernels.commit_rules import Rule
from quicksilver.kernels.dispatch import Implementation, using
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import run

Limited = tuple[Rule, float]
ALL_RULES: list[Limited] = [(Rule.TOP_K, 0.0), (Rule.THRESHOLD, -0.5), (Rule.FACTOR, 1.25), (Rule.ENTROPY_BOUND, 0.875),
                            (Rule.ENTROPY_SUM, 0.875)]
EVERY_RULE = pytest.mark.parametrize("limited", ALL_RULES, ids=lambda limited: limited[0].name)


def test_every_rule_is_tested() -> None:
    assert [rule for rule, _ in ALL_RULES] == list(Rule)


def _passes(rule: Rule, limit: float, best_first: list[float]) -> bool:
    """Whether the rule lets all of these scores be committed together, by its definition."""
    num, last = len(best_first), best_first[-1]
    entropies = [-score for score in best_first]
    return {Rule.TOP_K: True, Rule.THRESHOLD: last >= limit, Rule.FACTOR: (num + 1) * (1 - math.exp(last)) < limit,
            Rule.ENTROPY_BOUND: sum(entropies) - max(entropies) <= limit,
            Rule.ENTROPY_SUM: sum(entropies) < limit}[rule]


def _defined(score: list[float], eligible: list[bool], at_least: int, at_most: int, limited: Limited) -> list[bool]:
    order = sorted((q for q in range(len(score)) if eligible[q]), key=lambda q: (-score[q], q))
    num = max((n for n in range(1, len(order) + 1) if _passes(*limited, [score[q] for q in order[:n]])), default=0)
    chosen = order[: min(max(num, at_least), at_most)]
    return [q in chosen for q in range(len(score))]


def _check(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, limited: Limited) -> None:
    """Triton and the reference equal the definition."""
    arguments = score_BQ, eligible_BQ, at_least_B, at_most_B, *limited
    rows = zip(score_BQ.tolist(), eligible_BQ.tolist(), at_least_B.tolist(), at_most_B.tolist(), strict=True)
    wanted = [_defined(*row, limited) for row in rows]
    wanted_BQ = torch.tensor(wanted, dtype=torch.bool).view(score_BQ.shape)
    (commit_BQ,), _ = run(choose, *arguments)
    assert torch.equal(commit_BQ.cpu(), wanted_BQ)
    assert torch.equal(choose(*arguments), wanted_BQ)


def _scores(*shape: int) -> Tensor:
    """Negative scores with ties, and sums that float32 holds exactly."""
    return -torch.randint(1, 24, shape) / 16


def _quota(num_rows: int, num_queried: int) -> tuple[Tensor, Tensor]:
    at_most_B = torch.randint(1, num_queried + 2, (num_rows,))
    return torch.minimum(torch.randint(0, 3, (num_rows,)), at_most_B), at_most_B


@EVERY_RULE
@pytest.mark.parametrize("num_queried", [1, 7, 63, 64, 65, 131])
def test_it_equals_the_definition(num_queried: int, limited: Limited) -> None:
    eligible_BQ = torch.rand(3, num_queried) < 0.6
    _check(_scores(3, num_queried), eligible_BQ, *_quota(3, num_queried), limited)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_takes_narrow_scores(dtype: torch.dtype) -> None:
    _check(_scores(2, 33).to(dtype), torch.rand(2, 33) < 0.7, *_quota(2, 33), (Rule.ENTROPY_BOUND, 0.875))


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)], ids=str)
def test_nothing_to_choose_from_gives_nothing(shape: tuple[int, int]) -> None:
    _check(_scores(*shape), torch.ones(shape, dtype=torch.bool), *_quota(shape[0], shape[1]), (Rule.TOP_K, 0.0))


@pytest.mark.parametrize("num_queried", [5, 70])
def test_equal_scores_go_to_the_lowest_positions(num_queried: int) -> None:
    eligible_BQ = torch.arange(num_queried)[None] > 1
    (commit_BQ,), _ = run(choose, torch.zeros(1, num_queried), eligible_BQ, torch.tensor([0]), torch.tensor([2]),
                       Rule.TOP_K, 0.0)
    assert commit_BQ[0].nonzero().flatten().tolist() == [2, 3]


@EVERY_RULE
def test_rows_without_a_usable_score_still_commit_what_the_quota_demands(limited: Limited) -> None:
    score_BQ = torch.tensor([[-torch.inf] * 4, [torch.nan] * 4, [torch.nan, -torch.inf, -3.0, torch.nan]])
    eligible_BQ = torch.tensor([[False, True, True, True]] * 3)
    arguments = score_BQ, eligible_BQ, torch.tensor([1, 1, 2]), torch.tensor([2, 1, 2]), *limited
    (commit_BQ,), _ = run(choose, *arguments)
    at_most = limited[0] is Rule.TOP_K
    assert commit_BQ.tolist() == [[False, True, at_most, False], [False, True, False, False],
                                  [False, True, True, False]]
    assert torch.equal(choose(*arguments), commit_BQ.cpu())


@pytest.mark.parametrize(("rule", "limit", "expected"), [
    (Rule.FACTOR, 1.0, [1, 1, 0]),  # 2 x 0.1 and 3 x 0.2 are below 1; 4 x 0.5 is not
    (Rule.FACTOR, 0.5, [1, 0, 0]),
    (Rule.ENTROPY_BOUND, 0.3, [1, 1, 0]),  # without the largest: 0, 0.11, then 0.11 + 0.22
    (Rule.ENTROPY_BOUND, 0.4, [1, 1, 1]),
    (Rule.ENTROPY_SUM, 0.3, [1, 0, 0]),  # 0.11, then 0.11 + 0.22
    (Rule.THRESHOLD, math.log(0.8) - 1e-6, [1, 1, 0]),
], ids=str)
def test_a_case_worked_by_hand(rule: Rule, limit: float, expected: list[int]) -> None:
    score_BQ = torch.tensor([[0.9, 0.8, 0.5]]).log()
    one = torch.tensor([1])
    (commit_BQ,), _ = run(choose, score_BQ, torch.ones(1, 3, dtype=torch.bool), one, 3 * one, rule, limit)
    assert commit_BQ[0].int().tolist() == expected


@pytest.mark.parametrize("implementation", list(Implementation))
def test_no_value_is_read_on_the_host(implementation: Implementation) -> None:
    with FakeTensorMode(), using(implementation):
        quota_B = torch.ones(2, dtype=torch.int64)
        for limited in ALL_RULES:
            commit_BQ = choose(torch.rand(2, 70), torch.rand(2, 70) < 0.5, quota_B, quota_B, *limited)
            assert commit_BQ.shape == (2, 70)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 90), st.sampled_from(ALL_RULES), st.integers(0, 2**31))
def test_any_shape(num_rows: int, num_queried: int, limited: Limited, seed: int) -> None:
    torch.manual_seed(seed)
    eligible_BQ = torch.rand(num_rows, num_queried) < torch.rand(())
    _check(_scores(num_rows, num_queried), eligible_BQ, *_quota(num_rows, num_queried), limited)


@pytest.mark.slow
@EVERY_RULE
def test_long_rows_equal_the_definition(limited: Limited) -> None:
    _check(_scores(1, 1100), torch.rand(1, 1100) < 0.9, torch.tensor([3]), torch.tensor([900]), limited)
