"""Sort the assignments of tokens to experts by expert: a counting sort, stable, compact, without a host sync.

    order_P[start(x_i) + |{j < i : x_j = x_i}|] = i,    start(x) = |{j : x_j < x}|,    i = t * A + a

Three launches: count each chunk of assignments; find where each chunk's share of each expert begins; rank within the
chunk by comparison. A single chunk, as in decoding, is sorted by comparison alone, in one launch. Nothing is padded and
no map of tiles is written: whoever multiplies by the experts' weights finds its tile from the counts.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .case import Case, Cost
from .checks import integer_field, real_field
from .dispatch import kernel, launch
from .tensor_checks import assert_contiguous, check_dtype, check_rank

CHUNK = 512  # assignments; ranking them costs its square


def reference(expert_TA: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """order_P int32 [T * A]: the assignments t * A + a sorted by expert_TA int32 [T, A] (in 0 .. num_experts - 1), in
    their own order within an expert; count_X int32 [num_experts]: how many each expert has."""
    expert_P = expert_TA.reshape(-1).long()
    # Not bincount, which would wait for the largest value on a GPU.
    count_X = torch.zeros(num_experts, dtype=torch.int32, device=expert_P.device)
    count_X.scatter_add_(0, expert_P, torch.ones_like(expert_P, dtype=torch.int32))
    return expert_P.argsort(stable=True).int(), count_X


def expert_block(num_experts: int) -> int:
    """Lanes that count experts: the same for most models, so that they share programs."""
    return max(256, triton.next_power_of_2(num_experts))


def _check(expert_TA: Tensor, num_experts: int) -> None:
    check_rank("expert_TA", expert_TA, 2)
    check_dtype("expert_TA", expert_TA, torch.int32)


@kernel(reference, check=_check)
def sort_by_expert(expert_TA: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    assert_contiguous(expert_TA=expert_TA)
    expert_P = expert_TA.view(-1)
    num_assignments = len(expert_P)
    order_P = torch.empty((num_assignments,), dtype=torch.int32, device=expert_P.device)
    count_X = torch.empty((num_experts,), dtype=torch.int32, device=expert_P.device)
    block_experts = expert_block(num_experts)
    num_chunks = triton.cdiv(num_assignments, CHUNK)
    if num_chunks <= 1:
        launch(_sort_chunk_kernel, (1,), expert_P, order_P, count_X, num_assignments, num_experts, CHUNK=CHUNK,
               COMPARED=32, BLOCK_EXPERTS=block_experts, num_warps=8)
        return order_P, count_X
    begin_CX = torch.empty((num_chunks, num_experts), dtype=torch.int32, device=expert_P.device)
    launch(_count_kernel, (num_chunks,), expert_P, begin_CX, num_assignments, num_experts, CHUNK=CHUNK,
           BLOCK_EXPERTS=block_experts, num_warps=4)
    launch(_begin_kernel, (1,), begin_CX, count_X, num_chunks, num_experts, BLOCK_CHUNKS=16,
           BLOCK_EXPERTS=block_experts, num_warps=8)
    launch(_place_kernel, (num_chunks,), expert_P, begin_CX, order_P, num_assignments, num_experts, CHUNK=CHUNK,
           COMPARED=32, num_warps=8)
    return order_P, count_X


@triton.jit(do_not_specialize=["num_assignments"])
def _sort_chunk_kernel(expert_ptr, order_ptr, count_ptr, num_assignments, num_experts, CHUNK: tl.constexpr,
                       COMPARED: tl.constexpr, BLOCK_EXPERTS: tl.constexpr):
    place_i = tl.arange(0, CHUNK)
    expert_i = tl.load(expert_ptr + place_i, mask=place_i < num_assignments, other=0)
    rank = tl.zeros([CHUNK], dtype=tl.int32)
    for start in range(0, num_assignments, COMPARED):
        place_j = start + tl.arange(0, COMPARED)[:, None]
        expert_j = tl.load(expert_ptr + place_j, mask=place_j < num_assignments, other=BLOCK_EXPERTS)
        smaller = (expert_j < expert_i[None, :]) | ((expert_j == expert_i[None, :]) & (place_j < place_i[None, :]))
        rank += tl.sum(smaller.to(tl.int32), axis=0)
    tl.store(order_ptr + rank, place_i, mask=place_i < num_assignments)
    column = tl.arange(0, BLOCK_EXPERTS)
    counted = tl.histogram(expert_i, BLOCK_EXPERTS, mask=place_i < num_assignments)
    tl.store(count_ptr + column, counted, mask=column < num_experts)


@triton.jit(do_not_specialize=["num_assignments"])
def _count_kernel(expert_ptr, counts_ptr, num_assignments, num_experts, CHUNK: tl.constexpr,
                  BLOCK_EXPERTS: tl.constexpr):
    chunk = tl.program_id(0)
    place = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = place < num_assignments
    counted = tl.histogram(tl.load(expert_ptr + place, mask=inside, other=0), BLOCK_EXPERTS, mask=inside)
    column = tl.arange(0, BLOCK_EXPERTS)
    tl.store(counts_ptr + chunk * num_experts + column, counted, mask=column < num_experts)


@triton.jit(do_not_specialize=["num_chunks"])
def _begin_kernel(counts_ptr, count_ptr, num_chunks, num_experts, BLOCK_CHUNKS: tl.constexpr,
                  BLOCK_EXPERTS: tl.constexpr):
    """Put in place of each chunk's counts where its assignments begin in the sorted order."""
    column = tl.arange(0, BLOCK_EXPERTS)[None, :]
    line = tl.arange(0, BLOCK_CHUNKS)[:, None]
    total = tl.zeros([BLOCK_EXPERTS], dtype=tl.int32)
    for start in range(0, num_chunks, BLOCK_CHUNKS):
        inside = (start + line < num_chunks) & (column < num_experts)
        total += tl.sum(tl.load(counts_ptr + (start + line) * num_experts + column, mask=inside, other=0), axis=0)
    tl.store(count_ptr + tl.arange(0, BLOCK_EXPERTS), total, mask=tl.arange(0, BLOCK_EXPERTS) < num_experts)
    begin = tl.cumsum(total, axis=0) - total
    for start in range(0, num_chunks, BLOCK_CHUNKS):
        inside = (start + line < num_chunks) & (column < num_experts)
        counted = tl.load(counts_ptr + (start + line) * num_experts + column, mask=inside, other=0)
        tl.store(counts_ptr + (start + line) * num_experts + column,
                 begin[None, :] + tl.cumsum(counted, axis=0) - counted, mask=inside)
        begin += tl.sum(counted, axis=0)


@triton.jit(do_not_specialize=["num_assignments"])
def _place_kernel(expert_ptr, begin_ptr, order_ptr, num_assignments, num_experts, CHUNK: tl.constexpr,
                  COMPARED: tl.constexpr):
    chunk = tl.program_id(0)
    first = chunk * CHUNK
    place_i = first + tl.arange(0, CHUNK)
    inside = place_i < num_assignments
    expert_i = tl.load(expert_ptr + place_i, mask=inside, other=0)
    rank = tl.load(begin_ptr + chunk * num_experts + expert_i, mask=inside, other=0)
    for start in range(0, CHUNK, COMPARED):
        place_j = first + start + tl.arange(0, COMPARED)[:, None]
        expert_j = tl.load(expert_ptr + place_j, mask=place_j < num_assignments, other=-1)
        precedes = (expert_j == expert_i[None, :]) & (place_j < place_i[None, :])
        rank += tl.sum(precedes.to(tl.int32), axis=0)
    tl.store(order_ptr + rank, place_i, mask=inside)


@dataclass(frozen=True)
class ExpertLoad:
    """How many tokens go to which experts: each token to `top_k` different ones of the first `num_active` (None: all),
    drawn in proportion to 1 / rank^zipf_exponent, the ranks dealt out at random. An exponent of 0 is the uniform load;
    num_active = top_k sends every token to the same experts."""

    num_tokens: int
    num_experts: int
    top_k: int
    zipf_exponent: float = 0.0
    num_active: int | None = None

    def __post_init__(self) -> None:
        integer_field(self, "num_tokens", at_least=0)
        integer_field(self, "num_experts")
        integer_field(self, "top_k", at_most=self.num_experts)
        real_field(self, "zipf_exponent", at_least=0)
        if self.num_active is not None:
            integer_field(self, "num_active", at_least=self.top_k, at_most=self.num_experts)

    @property
    def _num_active(self) -> int:
        return self.num_experts if self.num_active is None else self.num_active

    def scores(self) -> Tensor:
        """What the tokens rank the active experts by, float32 [T, num_active] on the CPU, the same each time."""
        generator = torch.Generator().manual_seed(0)
        rank_X = 1.0 + torch.randperm(self._num_active, generator=generator)
        noise_TX = -torch.empty(self.num_tokens, len(rank_X)).exponential_(generator=generator).log()
        return noise_TX - self.zipf_exponent * rank_X.log()

    def draw(self) -> Tensor:
        """expert_TA int32 [T, A]: the `top_k` largest, a copy of what was drawn the first time."""
        return _drawn(self).clone()

    def num_distinct(self) -> int:
        """How many experts have at least one token: those whose weights must be read."""
        return len(self.draw().unique())


@lru_cache(maxsize=32)
def _drawn(load: ExpertLoad) -> Tensor:
    return load.scores().topk(load.top_k, dim=1).indices.int()


@dataclass(frozen=True)
class SortCase(Case):
    """The sort of one load."""

    load: ExpertLoad
    run = staticmethod(sort_by_expert)
    reference = staticmethod(reference)

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, int]:
        return self.load.draw().to(device), self.load.num_experts

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(4 * (2 * self.load.num_tokens * self.load.top_k + self.load.num_experts))
