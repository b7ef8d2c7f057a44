"""LM-head token statistics: the head's product and the token statistics in one pass, without ever writing logits.

    z = h W^T,  then the statistics of `token_statistics` of z, with z_banned = -inf

As FlashSampling does for a sample alone (arXiv 2603.15854). Each program multiplies one tile of the vocabulary with one
tile of rows and keeps the logits in registers; the weights stand on the M side of the tensor core, so that a warp
group's 64 rows are full however few positions are asked for. The tiles' partials are merged as in `token_statistics`.
The tiles never change with the number of rows, so neither do the bits of a row's result.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .case import Cost
from .dispatch import check_rank, check_shape, kernel, launch, stages
from .token_statistics import Draw, Question, Statistic, TokenStatistics, answer, check_question, terms
from .token_statistics import reference as statistics_reference
from .vocabulary_tiles import empty_partials, merged, per_row, summarise


def lm_head_statistics(hidden_BQE: Tensor, head_VE: Tensor, banned_id: int | None, question: Question
                       ) -> TokenStatistics:
    """Answer the question about the logits hidden [B, Q, E] x head [V, E] of one float dtype, in which banned_id has
    none. ValueError where the question needs all logits at once: top_k, top_p, divergence and credit."""
    if question.needs_logits:
        raise ValueError(f"{question}: a fused head never holds all logits, which top_k, top_p, divergence and credit "
                         "need; take the separate head")
    return answer(statistics_of_hidden(hidden_BQE, head_VE, banned_id, *terms(question)), question)


def reference(
    hidden_BQE: Tensor, head_VE: Tensor, banned_id: int | None, seed_B: Tensor | None, position_BQ: Tensor | None,
    step_B: Tensor | None, inverse_temperature: float, canvas_BQ: Tensor | None, inverse_statistics_temperature: float,
    log_prob: bool, margin: bool, logit_gap: bool, entropy: bool,
) -> list[Tensor]:
    """The token, int64 [B, Q], of log_prob, canvas_log_prob (where canvas_BQ is given), margin, logit_gap and entropy
    those that are asked for, and the flag nonfinite."""
    logits_BQV = F.linear(hidden_BQE, head_VE)
    if banned_id is not None:
        logits_BQV[..., banned_id] = -torch.inf
    return statistics_reference(logits_BQV, None, seed_B, position_BQ, step_B, inverse_temperature, canvas_BQ,
                                inverse_statistics_temperature, log_prob, margin, logit_gap, entropy)


@dataclass(frozen=True)
class _Tiles:
    """Tokens, rows and width of a program's tile."""

    vocab: int
    rows: int
    width: int
    num_warps: int
    num_stages: int


# float32 has no exact tensor-core product: its operands stay in registers, so its tile is smaller.
_TILES = {2: _Tiles(128, 32, 64, num_warps=4, num_stages=4), 4: _Tiles(64, 32, 32, num_warps=4, num_stages=3)}
_DRAWN_TILES = {2: _Tiles(128, 32, 64, num_warps=8, num_stages=4), 4: _Tiles(64, 32, 32, num_warps=8, num_stages=3)}


def _check(
    hidden_BQE: Tensor, head_VE: Tensor, banned_id: int | None, seed_B: Tensor | None, position_BQ: Tensor | None,
    step_B: Tensor | None, inverse_temperature: float, canvas_BQ: Tensor | None, inverse_statistics_temperature: float,
    log_prob: bool, margin: bool, logit_gap: bool, entropy: bool,
) -> None:
    check_rank("hidden_BQE", hidden_BQE, 3)
    check_rank("head_VE", head_VE, 2)
    num_rows, num_queried, width = hidden_BQE.shape
    check_shape("head_VE", head_VE, len(head_VE), width)
    if banned_id is not None and not 0 <= banned_id < len(head_VE):
        raise ValueError(f"banned_id={banned_id}: must be from 0 to {len(head_VE) - 1}, the head's last token")
    check_question(num_rows, num_queried, len(head_VE), seed_B, position_BQ, step_B, canvas_BQ,
                   compares=margin or logit_gap)


@kernel(reference, check=_check)
def statistics_of_hidden(
    hidden_BQE: Tensor, head_VE: Tensor, banned_id: int | None, seed_B: Tensor | None, position_BQ: Tensor | None,
    step_B: Tensor | None, inverse_temperature: float, canvas_BQ: Tensor | None, inverse_statistics_temperature: float,
    log_prob: bool, margin: bool, logit_gap: bool, entropy: bool,
) -> list[Tensor]:
    num_queried, width = hidden_BQE.shape[1:]
    hidden_TE = hidden_BQE.reshape(-1, width)
    vocab_size = len(head_VE)
    tiles = (_TILES if seed_B is None else _DRAWN_TILES)[hidden_TE.element_size()]
    num_tiles = triton.cdiv(vocab_size, tiles.vocab)
    partials = empty_partials(len(hidden_TE), num_tiles, hidden_TE.device)
    shape = hidden_BQE.shape[:2]
    canvas_T = per_row(canvas_BQ, shape)
    # Programs that share weights are neighbours, so that these are read from memory once.
    launch(_head_kernel, (triton.cdiv(len(hidden_TE), tiles.rows), num_tiles), hidden_TE, head_VE, *partials,
           per_row(seed_B, shape[:1]), per_row(position_BQ, shape), canvas_T, per_row(step_B, shape[:1]),
           inverse_temperature, inverse_statistics_temperature * math.log2(math.e), banned_id, len(hidden_TE),
           vocab_size, width, num_queried, hidden_TE.stride(0), hidden_TE.stride(1), head_VE.stride(0),
           head_VE.stride(1), VOCAB_TILE=tiles.vocab, ROW_TILE=tiles.rows, WIDTH_TILE=tiles.width,
           NORMALISE=log_prob or margin or entropy or canvas_T is not None, MARGIN=margin or logit_gap, ENTROPY=entropy,
           num_warps=tiles.num_warps, num_stages=stages(tiles.num_stages))
    return merged(partials, shape, vocab_size, inverse_statistics_temperature, has_canvas=canvas_T is not None,
                  log_prob=log_prob, margin=margin, logit_gap=logit_gap, entropy=entropy, drawn=seed_B is not None)


@triton.jit(do_not_specialize=["num_rows", "num_queried"])
def _head_kernel(hidden, head, floats, ids, seed, position, canvas, step, inverse_temperature, scale, banned, num_rows,
                 vocab_size, width, num_queried, stride_row, stride_width, stride_token, stride_token_width,
                 VOCAB_TILE: tl.constexpr, ROW_TILE: tl.constexpr, WIDTH_TILE: tl.constexpr, NORMALISE: tl.constexpr,
                 MARGIN: tl.constexpr, ENTROPY: tl.constexpr):
    tile = tl.program_id(1)
    num_tiles = tl.num_programs(1)
    row = tl.program_id(0) * ROW_TILE + tl.arange(0, ROW_TILE)
    column = tile * VOCAB_TILE + tl.arange(0, VOCAB_TILE)
    inside = row < num_rows
    width_offset = tl.arange(0, WIDTH_TILE)
    weight = head + column[:, None].to(tl.int64) * stride_token + width_offset[None, :] * stride_token_width
    state = hidden + row[None, :].to(tl.int64) * stride_row + width_offset[:, None] * stride_width
    z = tl.zeros((VOCAB_TILE, ROW_TILE), tl.float32)
    for begin in range(0, width, WIDTH_TILE):
        left = width - begin
        w = tl.load(weight, mask=(column[:, None] < vocab_size) & (width_offset[None, :] < left), other=0)
        h = tl.load(state, mask=inside[None, :] & (width_offset[:, None] < left), other=0)
        z = tl.dot(w, h, z, input_precision="ieee")
        weight += WIDTH_TILE * stride_token_width
        state += WIDTH_TILE * stride_width
    allowed = column < vocab_size
    if banned is not None:
        allowed &= column != banned
    z = tl.where(allowed[:, None], z, float("-inf"))
    group = tile * (VOCAB_TILE // 4) + tl.arange(0, VOCAB_TILE // 4)
    summarise(z, column, None, None if seed is None else tl.load(seed + row // num_queried, mask=inside, other=0),
              None if position is None else tl.load(position + row, mask=inside, other=0).to(tl.int32),
              None if canvas is None else tl.load(canvas + row, mask=inside, other=-1),
              None if step is None else tl.load(step + row // num_queried, mask=inside, other=0).to(tl.int32),
              inverse_temperature, scale, group, floats, ids,
              row.to(tl.int64) * num_tiles + tile, (num_rows * num_tiles).to(tl.int64), inside, NORMALISE, MARGIN,
              ENTROPY)


@dataclass(frozen=True)
class LMHeadCase:
    """`rows` positions against a vocabulary: greedy, or drawn where a temperature is given."""

    rows: int
    width: int
    vocab_size: int
    wanted: tuple[Statistic, ...] = ("log_prob",)
    temperature: float | None = None
    needs_hgmma: bool = True

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Question]:
        hidden_BQE = torch.randn(1, self.rows, self.width, device=device).to(dtype)
        head_VE = (torch.randn(self.vocab_size, self.width, device=device) * 3 * self.width**-0.5).to(dtype)
        draw = None
        if self.temperature is not None:
            seed_B = torch.full((1,), 2**33 + 5, dtype=torch.int64, device=device)
            draw = Draw(self.temperature, seed_B, torch.arange(self.rows, device=device)[None],
                        torch.ones(1, dtype=torch.int64, device=device))
        return hidden_BQE, head_VE, Question(frozenset(self.wanted), draw)

    def run(self, hidden_BQE: Tensor, head_VE: Tensor, question: Question) -> tuple[Tensor, ...]:
        found = lm_head_statistics(hidden_BQE, head_VE, None, question)
        return tuple(value for value in vars(found).values() if value is not None)

    def reference(self, hidden_BQE: Tensor, head_VE: Tensor, question: Question) -> tuple[Tensor, ...]:
        return tuple(reference(hidden_BQE, head_VE, None, *terms(question)))

    def cost(self, dtype: torch.dtype) -> Cost:
        num_bytes = (self.vocab_size + self.rows) * self.width * dtype.itemsize
        return Cost(num_bytes + self.rows * (9 + 4 * len(self.wanted)), 2 * self.rows * self.width * self.vocab_size)
