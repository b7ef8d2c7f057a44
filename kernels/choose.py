"""Which of a row's masked positions to commit: the best n by score, n from a rule within the schedule's quota.

Eligible positions are ranked by score, the lowest position first among equals; commit_rules.py has the rules.

    commit(q) = rank(q) <= min(max(n, at_least), at_most)

Triton ranks by comparing all pairs, without a sort: the rank of a position is the number of positions before it. A
program takes one piece of a row against the whole of it; a row of at most one piece (64 positions) is finished by the
same program, a longer one by a second launch.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import triton
import triton.language as tl
from torch import Tensor

from .case import Cost
from .commit_rules import RULES, Factor, Rule
from .dispatch import check_dtype, check_rank, check_shape, kernel, launch

_PIECE, _CHUNK = 64, 32


def choose(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, rule: Rule
           ) -> tuple[Tensor, Tensor]:
    """The positions to commit, bool [B, Q], and how many they are, int64 [B].

    score_BQ is float of at most 32 bits, higher is better; -inf and NaN rank last among the eligible positions, which
    eligible_BQ (bool) marks. at_least_B and at_most_B are int64; at_most_B holds where they disagree."""
    return choose_ranked(score_BQ, eligible_BQ, at_least_B, at_most_B, RULES.index(type(rule)), rule.limit)


def reference(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, rule: int, limit: float
              ) -> tuple[Tensor, Tensor]:
    """`choose` with the rule given by its place in RULES and its limit: what a custom operator can take."""
    if score_BQ.dtype in (torch.float16, torch.bfloat16):
        score_BQ = score_BQ.float()
    # Eligible positions stay above the others even where their score is -inf or NaN.
    lowest = torch.finfo(score_BQ.dtype).min
    score_BQ = torch.where(score_BQ > lowest, score_BQ, lowest).masked_fill(~eligible_BQ, -torch.inf)
    sorted_BQ, order_BQ = score_BQ.sort(dim=1, descending=True, stable=True)
    count_B = RULES[rule].count(sorted_BQ, limit).clamp(min=at_least_B, max=at_most_B)
    count_B = torch.minimum(count_B, eligible_BQ.sum(1))
    rank_Q = torch.arange(score_BQ.shape[1], device=score_BQ.device)
    return torch.empty_like(eligible_BQ).scatter_(1, order_BQ, rank_Q < count_B[:, None]), count_B


def _check(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, rule: int, limit: float
           ) -> None:
    check_rank("score_BQ", score_BQ, 2)
    check_shape("eligible_BQ", eligible_BQ, *score_BQ.shape)
    check_dtype("eligible_BQ", eligible_BQ, torch.bool)
    check_shape("at_least_B", at_least_B, len(score_BQ))
    check_shape("at_most_B", at_most_B, len(score_BQ))


@kernel(reference, check=_check)
def choose_ranked(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, rule: int, limit: float
                  ) -> tuple[Tensor, Tensor]:
    (num_rows, num_queried), device = score_BQ.shape, score_BQ.device
    at_least_B, at_most_B = (quota_B.expand(num_rows).contiguous() for quota_B in (at_least_B, at_most_B))
    num_pieces = triton.cdiv(num_queried, _PIECE)
    commit_BQ = torch.empty((num_rows, num_queried), dtype=torch.bool, device=device)
    count_B = torch.empty((num_rows,), dtype=torch.int64, device=device)
    alone = num_pieces <= 1
    rank_BQ = None if alone else torch.empty((num_rows, num_queried), dtype=torch.int32, device=device)
    passed_BN = None if alone else torch.empty((num_rows, num_pieces), dtype=torch.int32, device=device)
    block = max(16, min(_PIECE, triton.next_power_of_2(max(num_queried, 1))))
    launch(_rank_kernel, (num_rows, max(num_pieces, 1)), score_BQ, eligible_BQ, at_least_B, at_most_B, rank_BQ,
           passed_BN, commit_BQ, count_B, limit, num_queried, *score_BQ.stride(), *eligible_BQ.stride(),
           RULE=RULES[rule].program, ALONE=alone, BLOCK=block, CHUNK=min(block, _CHUNK),
           num_warps=4 if block == _PIECE else 1)
    if not alone:
        launch(_finish_kernel, (num_rows,), rank_BQ, passed_BN, at_least_B, at_most_B, commit_BQ, count_B, num_queried,
               num_pieces, BLOCK=1024, num_warps=4)
    return commit_BQ, count_B


@triton.jit
def _load(score, eligible, row, position, num_queried, stride_score_row, stride_score, stride_eligible_row,
          stride_eligible):
    inside = position < num_queried
    value = tl.load(score + row * stride_score_row + position * stride_score, mask=inside, other=0).to(tl.float32)
    allowed = tl.load(eligible + row * stride_eligible_row + position * stride_eligible, mask=inside, other=0) != 0
    # Also false for NaN, which would make the order of pairs contradict itself.
    return tl.where(value > float("-inf"), value, float("-inf")), allowed


@triton.jit
def _within_quota(count, num_eligible, row, at_least, at_most):
    count = tl.maximum(count.to(tl.int64), tl.load(at_least + row))
    return tl.minimum(tl.minimum(count, tl.load(at_most + row)), num_eligible.to(tl.int64))


@triton.jit(do_not_specialize=["num_queried"])
def _rank_kernel(score, eligible, at_least, at_most, rank, passed, commit, count, limit, num_queried, stride_score_row,
                 stride_score, stride_eligible_row, stride_eligible, RULE: tl.constexpr, ALONE: tl.constexpr,
                 BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    position = piece * BLOCK + tl.arange(0, BLOCK)
    mine, allowed = _load(score, eligible, row, position, num_queried, stride_score_row, stride_score,
                          stride_eligible_row, stride_eligible)
    ahead = tl.zeros((BLOCK,), tl.int32)
    before = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_queried, CHUNK):
        other = start + tl.arange(0, CHUNK)
        theirs, rivals = _load(score, eligible, row, other, num_queried, stride_score_row, stride_score,
                               stride_eligible_row, stride_eligible)
        earlier = (theirs[None, :] == mine[:, None]) & (other[None, :] < position[:, None])
        better = rivals[None, :] & ((theirs[None, :] > mine[:, None]) | earlier)
        ahead += tl.sum(better.to(tl.int32), axis=1)
        before += tl.sum(tl.where(better, theirs[None, :], 0.0), axis=1)
    num_passing = tl.sum((allowed & RULE(mine, before, ahead + 1, limit)).to(tl.int32))
    inside = position < num_queried
    if ALONE:
        chosen = _within_quota(num_passing, tl.sum(allowed.to(tl.int32)), row, at_least, at_most)
        tl.store(commit + row * num_queried + position, allowed & (ahead < chosen), mask=inside)
        tl.store(count + row, chosen)
    else:
        # No position that may not be committed has a rank below the row's length.
        tl.store(rank + row * num_queried + position, tl.where(allowed, ahead, num_queried), mask=inside)
        tl.store(passed + row * tl.num_programs(1) + piece, num_passing)


@triton.jit(do_not_specialize=["num_queried", "num_pieces"])
def _finish_kernel(rank, passed, at_least, at_most, commit, count, num_queried, num_pieces, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    passing = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, num_pieces, BLOCK):
        piece = start + lane
        passing += tl.load(passed + row * num_pieces + piece, mask=piece < num_pieces, other=0)
    eligible = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, num_queried, BLOCK):
        position = start + lane
        ranked = tl.load(rank + row * num_queried + position, mask=position < num_queried, other=num_queried)
        eligible += (ranked < num_queried).to(tl.int32)
    chosen = _within_quota(tl.sum(passing), tl.sum(eligible), row, at_least, at_most)
    for start in range(0, num_queried, BLOCK):
        position = start + lane
        ranked = tl.load(rank + row * num_queried + position, mask=position < num_queried, other=num_queried)
        tl.store(commit + row * num_queried + position, ranked < chosen, mask=position < num_queried)
    tl.store(count + row, chosen)


@dataclass(frozen=True)
class ChooseCase:
    """The most probable of `queried` positions in each of `rows` rows, half of them eligible, by Fast-dLLM's factor."""

    rows: int
    queried: int
    # Scores are a number a position, not rows of weights, logits, keys or values.
    needs_wide_loads: ClassVar[bool] = False

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        score_BQ = -torch.rand(self.rows, self.queried, dtype=dtype, device=device)
        eligible_BQ = torch.rand(self.rows, self.queried, device=device) < 0.5
        at_least_B = torch.ones(self.rows, dtype=torch.int64, device=device)
        return score_BQ, eligible_BQ, at_least_B, at_least_B * self.queried

    def run(self, score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor
            ) -> tuple[Tensor, Tensor]:
        return choose(score_BQ, eligible_BQ, at_least_B, at_most_B, Factor(1.0))

    def reference(self, score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor
                  ) -> tuple[Tensor, Tensor]:
        return reference(score_BQ, eligible_BQ, at_least_B, at_most_B, RULES.index(Factor), 1.0)

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(self.rows * (self.queried * (dtype.itemsize + 2) + 24))
