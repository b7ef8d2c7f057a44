"""Which of a row's masked positions to commit: the best n by score, n from a rule within the schedule's quota.

Eligible positions are ranked by score, the lowest position first among equals; commit_rules.py has the rules.

    commit(q) = rank(q) <= min(max(n, at_least), at_most)

Triton ranks by comparing all pairs, without a sort: the rank of a position is the number of positions before it. A
program takes one piece of a row against the whole of it; a row of at most one piece (64 positions) is finished by the
same program, a longer one by a second launch.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .case import Case, Cost
from .commit_rules import Rule
from .dispatch import kernel, launch
from .tensor_checks import assert_contiguous, check_dtype, check_rank, check_shape

_PIECE, _CHUNK = 64, 32


def reference(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, rule: Rule, limit: float
              ) -> Tensor:
    """The positions to commit, bool [B, Q].

    score_BQ is float of at most 32 bits, higher is better; -inf and NaN rank last among the eligible positions, which
    eligible_BQ (bool) marks. at_least_B and at_most_B are int64; at_most_B holds where they disagree. `limit` is the
    rule's number."""
    if score_BQ.dtype in (torch.float16, torch.bfloat16):
        score_BQ = score_BQ.float()
    # Eligible positions stay above the others even where their score is -inf or NaN.
    lowest = torch.finfo(score_BQ.dtype).min
    score_BQ = torch.where(score_BQ > lowest, score_BQ, lowest).masked_fill(~eligible_BQ, -torch.inf)
    sorted_BQ, order_BQ = score_BQ.sort(dim=1, descending=True, stable=True)
    count_B = rule.count(sorted_BQ, limit).clamp(min=at_least_B, max=at_most_B)
    rank_Q = torch.arange(score_BQ.shape[1], device=score_BQ.device)
    return torch.empty_like(eligible_BQ).scatter_(1, order_BQ, rank_Q < count_B[:, None]) & eligible_BQ


def _check(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, rule: Rule, limit: float
           ) -> None:
    check_rank("score_BQ", score_BQ, 2)
    num_rows = score_BQ.shape[0]
    check_shape("eligible_BQ", eligible_BQ, *score_BQ.shape)
    check_dtype("eligible_BQ", eligible_BQ, torch.bool)
    check_shape("at_least_B", at_least_B, num_rows)
    check_shape("at_most_B", at_most_B, num_rows)


@kernel(reference, check=_check)
def choose(score_BQ: Tensor, eligible_BQ: Tensor, at_least_B: Tensor, at_most_B: Tensor, rule: Rule, limit: float
           ) -> Tensor:
    assert_contiguous(score_BQ=score_BQ, eligible_BQ=eligible_BQ)
    (num_rows, num_queried), device = score_BQ.shape, score_BQ.device
    at_least_B, at_most_B = at_least_B.contiguous(), at_most_B.contiguous()
    num_pieces = triton.cdiv(num_queried, _PIECE)
    commit_BQ = torch.empty((num_rows, num_queried), dtype=torch.bool, device=device)
    alone = num_pieces <= 1
    rank_BQ = None if alone else torch.empty((num_rows, num_queried), dtype=torch.int32, device=device)
    num_passing_BN = None if alone else torch.empty((num_rows, num_pieces), dtype=torch.int32, device=device)
    block = max(16, min(_PIECE, triton.next_power_of_2(max(num_queried, 1))))
    launch(_rank_kernel, (num_rows, max(num_pieces, 1)), score_BQ, eligible_BQ, at_least_B, at_most_B, rank_BQ,
           num_passing_BN, commit_BQ, limit, num_queried, RULE=rule.passes, ALONE=alone, BLOCK=block,
           CHUNK=min(block, _CHUNK), num_warps=4 if block == _PIECE else 1)
    if not alone:
        launch(_finish_kernel, (num_rows,), rank_BQ, num_passing_BN, at_least_B, at_most_B, commit_BQ, num_queried,
               num_pieces, BLOCK=1024, num_warps=4)
    return commit_BQ


@triton.jit
def _load(score_ptr, eligible_ptr, row, position, num_queried):
    inside = position < num_queried
    score = tl.load(score_ptr + row * num_queried + position, mask=inside, other=0).to(tl.float32)
    eligible = tl.load(eligible_ptr + row * num_queried + position, mask=inside, other=0) != 0
    # Also false for NaN, which would make the order of pairs contradict itself.
    return tl.where(score > float("-inf"), score, float("-inf")), eligible


@triton.jit
def _within_quota(count, row, at_least_ptr, at_most_ptr):
    return tl.minimum(tl.maximum(count.to(tl.int64), tl.load(at_least_ptr + row)), tl.load(at_most_ptr + row))


@triton.jit(do_not_specialize=["num_queried"])
def _rank_kernel(score_ptr, eligible_ptr, at_least_ptr, at_most_ptr, rank_ptr, num_passing_ptr, commit_ptr, limit,
                 num_queried, RULE: tl.constexpr, ALONE: tl.constexpr, BLOCK: tl.constexpr,
                 CHUNK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    piece = tl.program_id(1)
    position_i = piece * BLOCK + tl.arange(0, BLOCK)
    score_i, eligible_i = _load(score_ptr, eligible_ptr, row, position_i, num_queried)
    rank = tl.zeros((BLOCK,), tl.int32)
    before = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_queried, CHUNK):
        position_j = start + tl.arange(0, CHUNK)
        score_j, eligible_j = _load(score_ptr, eligible_ptr, row, position_j, num_queried)
        is_tie = (score_j[None, :] == score_i[:, None]) & (position_j[None, :] < position_i[:, None])
        precedes = eligible_j[None, :] & ((score_j[None, :] > score_i[:, None]) | is_tie)
        rank += tl.sum(precedes.to(tl.int32), axis=1)
        before += tl.sum(tl.where(precedes, score_j[None, :], 0.0), axis=1)
    num_passing = tl.sum((eligible_i & RULE(score_i, before, rank + 1, limit)).to(tl.int32))
    inside = position_i < num_queried
    if ALONE:
        count = _within_quota(num_passing, row, at_least_ptr, at_most_ptr)
        tl.store(commit_ptr + row * num_queried + position_i, eligible_i & (rank < count), mask=inside)
    else:
        # No position that may not be committed has a rank below the row's length.
        tl.store(rank_ptr + row * num_queried + position_i, tl.where(eligible_i, rank, num_queried), mask=inside)
        tl.store(num_passing_ptr + row * tl.num_programs(1) + piece, num_passing)


@triton.jit(do_not_specialize=["num_queried", "num_pieces"])
def _finish_kernel(rank_ptr, num_passing_ptr, at_least_ptr, at_most_ptr, commit_ptr, num_queried, num_pieces,
                   BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    num_passing = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, num_pieces, BLOCK):
        piece = start + lane
        num_passing += tl.load(num_passing_ptr + row * num_pieces + piece, mask=piece < num_pieces, other=0)
    count = tl.minimum(_within_quota(tl.sum(num_passing), row, at_least_ptr, at_most_ptr), num_queried)
    for start in range(0, num_queried, BLOCK):
        position = start + lane
        rank = tl.load(rank_ptr + row * num_queried + position, mask=position < num_queried, other=num_queried)
        tl.store(commit_ptr + row * num_queried + position, rank < count, mask=position < num_queried)


@dataclass(frozen=True)
class ChooseCase(Case):
    """The most probable of `queried` positions in each of `rows` rows, half of them eligible, by Fast-dLLM's factor."""

    rows: int
    queried: int
    run = staticmethod(choose)
    reference = staticmethod(reference)

    @property
    def needs_wide_loads(self) -> bool:
        return False  # a number a position, not rows of weights, logits, keys or values

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Rule, float]:
        score_BQ = -torch.rand(self.rows, self.queried, dtype=dtype, device=device)
        eligible_BQ = torch.rand(self.rows, self.queried, device=device) < 0.5
        at_least_B = torch.ones(self.rows, dtype=torch.int64, device=device)
        return score_BQ, eligible_BQ, at_least_B, at_least_B * self.queried, Rule.FACTOR, 1.0

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(self.rows * (self.queried * (dtype.itemsize + 2) + 16))
