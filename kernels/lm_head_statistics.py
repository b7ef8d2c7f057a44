"""LM-head token statistics: the head's product and the token statistics in one pass, without ever writing logits.

    z = h W^T,  then the statistics of `token_statistics` of z, with z_banned = -inf

As FlashSampling does for a sample alone (arXiv 2603.15854). Each program multiplies one tile of the vocabulary with one
tile of rows and keeps the logits in registers; the weights stand on the M side of the tensor core, so that a warp
group's 64 rows are full however few positions are asked for. The tiles' partials are merged as in `token_statistics`.
Many rows take tiles of more, so that the weights are read less often; under `batch_invariant` one tile is taken for any
number of rows, on any GPU whatever its table says, so that the bits of a row's result do not follow that number.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .batch_invariance import is_batch_invariant
from .case import Case, Cost, tensors_of
from .counter_rng import load_key
from .dispatch import kernel, launch, num_pipeline_stages
from .statistics_request import Statistic, StatisticsRequest, TokenStatistics
from .tensor_checks import assert_contiguous, assert_rows_contiguous, check_rank, check_shape
from .tile_table import Bucket, TileChoice
from .token_statistics import per_row_inputs, random_request
from .token_statistics import reference as statistics_reference
from .vocabulary_tiles import empty_partials, merge, per_row, summarise


def reference(hidden_BQE: Tensor, head_VE: Tensor, banned_id: int | None, request: StatisticsRequest
              ) -> TokenStatistics:
    """The statistics of the logits hidden [B, Q, E] x head [V, E] of one float dtype, in which banned_id and what the
    request bans have none. ValueError where the request needs all logits at once: top_k, top_p, divergence, credit."""
    logits_BQV = F.linear(hidden_BQE, head_VE)
    if banned_id is not None:
        logits_BQV[..., banned_id] = -torch.inf
    if request.bans is not None:
        logits_BQV = request.bans.applied(logits_BQV)
    return statistics_reference(logits_BQV, request, None)


def _check(hidden_BQE: Tensor, head_VE: Tensor, banned_id: int | None, request: StatisticsRequest) -> None:
    if request.needs_logits:
        raise ValueError(f"{request}: a fused head never holds all logits, which top_k, top_p, divergence and credit "
                         "need; take the separate head")
    check_rank("hidden_BQE", hidden_BQE, 3)
    check_rank("head_VE", head_VE, 2)
    num_rows, num_queried, width = hidden_BQE.shape
    check_shape("head_VE", head_VE, len(head_VE), width)
    if banned_id is not None and not 0 <= banned_id < len(head_VE):
        raise ValueError(f"banned_id={banned_id}: must be from 0 to {len(head_VE) - 1}, the head's last token")
    request.check(num_rows, num_queried, len(head_VE))


@dataclass(frozen=True)
class _Tiles:
    """Tokens, rows and width of a program's tile."""

    vocab: int
    rows: int
    width: int
    num_warps: int
    num_stages: int


_MOST_ELEMENTS = 116_000  # 16-bit ones in a card's shared memory


def _candidates(rows: tuple[int, ...], num_warps: tuple[int, ...]) -> tuple[_Tiles, ...]:
    """What may be tried: all of 128 tokens, so that the vocabulary is cut alike whatever a table says."""
    return tuple(_Tiles(128, tall, width, warps, num_stages) for tall in rows for width in (64, 128)
                 for warps in num_warps for num_stages in (3, 4) if (128 + tall) * width * num_stages <= _MOST_ELEMENTS)


# By the largest number of rows. Many of them overflow the registers of four warps, and of eight where a token is drawn.
TILES = TileChoice("lm_head", (
    Bucket(64, _Tiles(128, 32, 64, num_warps=4, num_stages=4), _candidates((16, 32, 64), (4, 8))),
    Bucket(math.inf, _Tiles(128, 128, 64, num_warps=8, num_stages=4), _candidates((64, 128), (8,)))))
DRAWN_TILES = TileChoice("lm_head_drawn", (
    Bucket(64, _Tiles(128, 32, 64, num_warps=8, num_stages=4), _candidates((16, 32), (4, 8))),
    Bucket(math.inf, _Tiles(128, 64, 64, num_warps=8, num_stages=4), _candidates((32, 64), (8,)))))
# float32 has no exact tensor-core product: its operands stay in registers, so its tile is smaller.
_FLOAT32_TILES = _Tiles(64, 32, 32, num_warps=4, num_stages=3)
_DRAWN_FLOAT32_TILES = _Tiles(64, 32, 32, num_warps=8, num_stages=3)


def _tiles(hidden_TE: Tensor, is_drawn: bool) -> _Tiles:
    if hidden_TE.element_size() == 4:
        return _DRAWN_FLOAT32_TILES if is_drawn else _FLOAT32_TILES
    choice = DRAWN_TILES if is_drawn else TILES
    return choice.buckets[0].default if is_batch_invariant() else choice.tile(len(hidden_TE), hidden_TE.device)


@kernel(reference, check=_check)
def lm_head_statistics(hidden_BQE: Tensor, head_VE: Tensor, banned_id: int | None, request: StatisticsRequest
                       ) -> TokenStatistics:
    num_rows, num_queried, width = hidden_BQE.shape
    hidden_TE, vocab_size = hidden_BQE.reshape(-1, width), len(head_VE)
    assert_rows_contiguous(hidden_BQE=hidden_TE)
    assert_contiguous(head_VE=head_VE)
    tiles = _tiles(hidden_TE, request.sampling is not None)
    num_tiles = triton.cdiv(vocab_size, tiles.vocab)
    partials = empty_partials(len(hidden_TE), num_tiles, hidden_TE.device)
    found = TokenStatistics.empty(request, (num_rows, num_queried), hidden_TE.device)
    level_V, admitted_T = (None, None) if request.bans is None else (
        request.bans.level_V.contiguous(), per_row(request.bans.admitted_BQ))
    # Programs that share weights are neighbours, so that these are read from memory once.
    launch(_head_kernel, (triton.cdiv(len(hidden_TE), tiles.rows), num_tiles), hidden_TE, head_VE, *partials,
           *per_row_inputs(request), level_V, admitted_T, request.inverse_temperature,
           request.inverse_statistics_temperature * math.log2(math.e), banned_id, len(hidden_TE), vocab_size, width,
           num_queried, hidden_TE.stride(0), VOCAB_TILE=tiles.vocab, ROW_TILE=tiles.rows, WIDTH_TILE=tiles.width,
           NORMALISE=request.needs_normaliser, SECOND=request.needs_second, ENTROPY="entropy" in request.wanted,
           num_warps=tiles.num_warps, num_stages=num_pipeline_stages(tiles.num_stages))
    merge(partials, found, vocab_size, request.inverse_statistics_temperature, drawn=request.sampling is not None)
    return found


@triton.jit(do_not_specialize=["num_rows", "num_queried"])
def _head_kernel(hidden_ptr, head_ptr, floats_ptr, ids_ptr, key_ptr, position_ptr, canvas_ptr, step_ptr, level_ptr,
                 admitted_ptr, inverse_temperature, scale, banned, num_rows, vocab_size, width, num_queried, stride_row,
                 VOCAB_TILE: tl.constexpr, ROW_TILE: tl.constexpr, WIDTH_TILE: tl.constexpr, NORMALISE: tl.constexpr,
                 SECOND: tl.constexpr, ENTROPY: tl.constexpr):
    tile = tl.program_id(1)
    num_tiles = tl.num_programs(1)
    row = tl.program_id(0) * ROW_TILE + tl.arange(0, ROW_TILE)
    column = tile * VOCAB_TILE + tl.arange(0, VOCAB_TILE)
    inside = row < num_rows
    width_offset = tl.arange(0, WIDTH_TILE)
    head_ptrs = head_ptr + column[:, None].to(tl.int64) * width + width_offset[None, :]
    hidden_ptrs = hidden_ptr + row[None, :].to(tl.int64) * stride_row + width_offset[:, None]
    z = tl.zeros((VOCAB_TILE, ROW_TILE), tl.float32)
    for begin in range(0, width, WIDTH_TILE):
        left = width - begin
        w = tl.load(head_ptrs, mask=(column[:, None] < vocab_size) & (width_offset[None, :] < left), other=0)
        h = tl.load(hidden_ptrs, mask=inside[None, :] & (width_offset[:, None] < left), other=0)
        z = tl.dot(w, h, z, input_precision="ieee")
        head_ptrs += WIDTH_TILE
        hidden_ptrs += WIDTH_TILE
    allowed = column < vocab_size
    if banned is not None:
        allowed &= column != banned
    z = tl.where(allowed[:, None], z, float("-inf"))
    if level_ptr is not None:
        level = tl.load(level_ptr + column, mask=column < vocab_size, other=0)
        admitted = tl.load(admitted_ptr + row, mask=inside, other=0)
        z = tl.where(level[:, None] <= admitted[None, :], z, float("-inf"))
    group = tile * (VOCAB_TILE // 4) + tl.arange(0, VOCAB_TILE // 4)
    summarise(z, column, None,
              None if key_ptr is None else load_key(key_ptr, row // num_queried, inside),
              None if position_ptr is None else tl.load(position_ptr + row, mask=inside, other=0).to(tl.int32),
              None if canvas_ptr is None else tl.load(canvas_ptr + row, mask=inside, other=-1),
              None if step_ptr is None else tl.load(step_ptr + row // num_queried, mask=inside, other=0).to(tl.int32),
              inverse_temperature, scale, group, floats_ptr, ids_ptr, None, row.to(tl.int64) * num_tiles + tile,
              (num_rows * num_tiles).to(tl.int64), inside, NORMALISE, SECOND, ENTROPY)


@dataclass(frozen=True)
class LMHeadCase(Case):
    """`rows` positions against a vocabulary: greedy, or drawn where a temperature is given."""

    rows: int
    width: int
    vocab_size: int
    wanted: tuple[Statistic, ...] = ("log_prob",)
    temperature: float | None = None

    @property
    def needs_hgmma(self) -> bool:
        return True

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, None, StatisticsRequest]:
        hidden_BQE = torch.randn(1, self.rows, self.width, device=device).to(dtype)
        head_VE = (torch.randn(self.vocab_size, self.width, device=device) * 3 * self.width**-0.5).to(dtype)
        return hidden_BQE, head_VE, None, random_request(self.rows, self.wanted, self.temperature, device)

    def run(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(tensors_of(lm_head_statistics(*inputs)))

    def reference(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(tensors_of(reference(*inputs)))

    def cost(self, dtype: torch.dtype) -> Cost:
        num_bytes = (self.vocab_size + self.rows) * self.width * dtype.itemsize
        return Cost(num_bytes + self.rows * (9 + 4 * len(self.wanted)), 2 * self.rows * self.width * self.vocab_size)
