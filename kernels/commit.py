"""Writing chosen tokens onto the canvas, and counting the masks that are left.

    tokens[b, query[b, q]] = token[b, q]   where commit[b, q];   masked, step and log_prob likewise
    remaining[b] = #{q : masked[b, query[b, q]] and not commit[b, q]}

A program takes one row. Nothing is read on the host: whether a row is finished is a number on the device.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .case import Case, Cost
from .dispatch import kernel, launch
from .tensor_checks import assert_contiguous, check_dtype, check_rank, check_shape


def reference(tokens_BS: Tensor, masked_BS: Tensor, step_BS: Tensor, log_prob_BS: Tensor, query_BQ: Tensor,
              commit_BQ: Tensor, token_BQ: Tensor, log_prob_BQ: Tensor | None, step_B: Tensor) -> Tensor:
    """Write tokens (int64) at the positions query_BQ (int64) where commit_BQ (bool) says so, into canvas buffers:
    tokens_BS and step_BS int64, masked_BS bool, log_prob_BS float32 (untouched where log_prob_BQ is None). step_B is
    int64. Returns how many of the queried positions are still masked, int64 [B].

    The last column of the buffers is a spare one, which is never masked and may be overwritten; a position that is
    queried twice in a row is the spare one."""
    # What is not committed goes to the spare column, so nothing has to be read first.
    column_BQ = torch.where(commit_BQ, query_BQ, tokens_BS.shape[1] - 1)
    tokens_BS.scatter_(1, column_BQ, token_BQ)
    masked_BS.scatter_(1, column_BQ, False)
    step_BS.scatter_(1, column_BQ, step_B[:, None].expand_as(column_BQ))
    if log_prob_BQ is not None:
        log_prob_BS.scatter_(1, column_BQ, log_prob_BQ.to(log_prob_BS.dtype))
    return masked_BS.gather(1, query_BQ).sum(1)


def _check(tokens_BS: Tensor, masked_BS: Tensor, step_BS: Tensor, log_prob_BS: Tensor, query_BQ: Tensor,
           commit_BQ: Tensor, token_BQ: Tensor, log_prob_BQ: Tensor | None, step_B: Tensor) -> None:
    check_rank("query_BQ", query_BQ, 2)
    check_rank("tokens_BS", tokens_BS, 2)
    check_shape("tokens_BS", tokens_BS, query_BQ.shape[0], tokens_BS.shape[1])
    for name, buffer_BS in (("masked_BS", masked_BS), ("step_BS", step_BS), ("log_prob_BS", log_prob_BS)):
        check_shape(name, buffer_BS, *tokens_BS.shape)
    for name, value_BQ in (("commit_BQ", commit_BQ), ("token_BQ", token_BQ), ("log_prob_BQ", log_prob_BQ)):
        check_shape(name, value_BQ, *query_BQ.shape)
    check_shape("step_B", step_B, query_BQ.shape[0])
    for name, value in (("tokens_BS", tokens_BS), ("step_BS", step_BS), ("query_BQ", query_BQ), ("token_BQ", token_BQ),
                        ("step_B", step_B)):
        check_dtype(name, value, torch.int64)
    check_dtype("masked_BS", masked_BS, torch.bool)
    check_dtype("commit_BQ", commit_BQ, torch.bool)


@kernel(reference, check=_check)
def commit(tokens_BS: Tensor, masked_BS: Tensor, step_BS: Tensor, log_prob_BS: Tensor, query_BQ: Tensor,
           commit_BQ: Tensor, token_BQ: Tensor, log_prob_BQ: Tensor | None, step_B: Tensor) -> Tensor:
    assert_contiguous(tokens_BS=tokens_BS, masked_BS=masked_BS, step_BS=step_BS, log_prob_BS=log_prob_BS,
                      query_BQ=query_BQ, commit_BQ=commit_BQ, token_BQ=token_BQ, log_prob_BQ=log_prob_BQ)
    (num_rows, num_queried), num_columns = query_BQ.shape, tokens_BS.shape[1]
    remaining_B = torch.empty((num_rows,), dtype=torch.int64, device=query_BQ.device)
    launch(_commit_kernel, (num_rows,), tokens_BS, masked_BS, step_BS, log_prob_BS, query_BQ, commit_BQ, token_BQ,
           log_prob_BQ, remaining_B, step_B.contiguous(), num_columns, num_queried,
           BLOCK=64 if num_queried <= 64 else 256, num_warps=1 if num_queried <= 64 else 4)
    return remaining_B


@triton.jit(do_not_specialize=["num_columns", "num_queried"])
def _commit_kernel(tokens_ptr, masked_ptr, steps_ptr, log_probs_ptr, query_ptr, commit_ptr, token_ptr, log_prob_ptr,
                   remaining_ptr, step_ptr, num_columns, num_queried, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    remaining = tl.zeros((BLOCK,), tl.int32)
    step = tl.zeros((BLOCK,), tl.int64) + tl.load(step_ptr + row)
    for start in range(0, num_queried, BLOCK):
        lane = start + tl.arange(0, BLOCK)
        inside = lane < num_queried
        source = row * num_queried + lane
        target = row * num_columns + tl.load(query_ptr + source, mask=inside, other=0)
        committed = inside & (tl.load(commit_ptr + source, mask=inside, other=0) != 0)
        masked = inside & (tl.load(masked_ptr + target, mask=inside, other=0) != 0)
        remaining += (masked & (committed == 0)).to(tl.int32)
        tl.store(tokens_ptr + target, tl.load(token_ptr + source, mask=committed, other=0), mask=committed)
        tl.store(masked_ptr + target, tl.zeros((BLOCK,), tl.int1), mask=committed)
        tl.store(steps_ptr + target, step, mask=committed)
        if log_prob_ptr is not None:
            log_prob = tl.load(log_prob_ptr + source, mask=committed, other=0).to(tl.float32)
            tl.store(log_probs_ptr + target, log_prob, mask=committed)
    tl.store(remaining_ptr + row, tl.sum(remaining.to(tl.int64)))


@dataclass(frozen=True)
class CommitCase(Case):
    """The commit of about half of `queried` positions in each of `rows` rows of a canvas of `length`."""

    rows: int
    queried: int
    length: int

    @property
    def needs_wide_loads(self) -> bool:
        return False  # a number a position, not rows of weights, logits, keys or values

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        """`dtype` is that of the log-probabilities."""
        size = (self.rows, self.length + 1)
        tokens_BS, step_BS = torch.zeros(2, *size, dtype=torch.int64, device=device)
        masked_BS = torch.ones(size, dtype=torch.bool, device=device)
        log_prob_BS = torch.zeros(size, dtype=torch.float32, device=device)
        query_BQ = torch.arange(self.queried, device=device).repeat(self.rows, 1)
        commit_BQ = torch.rand(self.rows, self.queried, device=device) < 0.5
        token_BQ = torch.randint(1, 1000, (self.rows, self.queried), device=device)
        log_prob_BQ = -torch.rand(self.rows, self.queried, dtype=dtype, device=device)
        step_B = torch.ones(self.rows, dtype=torch.int64, device=device)
        return tokens_BS, masked_BS, step_BS, log_prob_BS, query_BQ, commit_BQ, token_BQ, log_prob_BQ, step_B

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return commit(*inputs), *_without_spare_column(inputs[:4])

    def reference(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return reference(*inputs), *_without_spare_column(inputs[:4])

    def cost(self, dtype: torch.dtype) -> Cost:
        # Of all positions: query, choice and mask; of the half that is chosen, token and log-probability are read, and
        # token, mask, step and log-probability written.
        per_chosen = 8 + dtype.itemsize + 8 + 1 + 8 + 4
        return Cost(self.rows * (self.queried * 10 + self.queried // 2 * per_chosen + 8))


def _without_spare_column(buffers: tuple[Tensor, ...]) -> list[Tensor]:
    return [buffer[:, :-1] for buffer in buffers]
