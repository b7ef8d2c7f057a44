"""The token drawn from a row, without the noise of every token: scores bound all keys, and few keys are computed.

    key    = z / tau + g,  g = -ln(E),  E = -log1p(-v) >= v       (`counter_rng`; v is a random word / 2^32)
          <= m / tau + ln(2) (log2 w - log2 v),                   w = 2^((z - m) log2(e) / tau),  m = max z of the tile
    score  = bits(w) - bits(word)                                 of float32, as integers

The bits of a positive float32 are its logarithm, but with lines in place of the curve: log2(x) - 0.0861 <=
bits(x) 2^-23 - 127 <= log2(x) (Mitchell, "Computer multiplication and division using binary logarithms", 1962). So a
score takes three instructions, where a key takes eighty. A tile's program keeps the largest score of each chunk of 32
tokens. The merge computes the keys of chunks, that of the largest bound first, until no bound that is left reaches the
best key: of one chunk or two, mostly, of the whole row. The token is that of all keys, to the bit.

At temperatures below 2^-10, where rounding of z / tau may outweigh noise, the keys of all tokens are computed instead.
"""

# Triton's annotations do not tell tiles from numbers and tuples.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from .counter_rng import gumbel_of, word_tile

CHUNK = 32
"""Tokens of a chunk, which one thread holds: `vector` neighbours in each of 32 / vector equal parts of the tile."""
LARGEST_INVERSE_TEMPERATURE = 2.0**10
_CHUNK = tl.constexpr(CHUNK)
_NO_INDEX = tl.constexpr(2**31 - 1)


@dataclass(frozen=True)
class ScoredDraw:
    """A draw by scores, as the merge takes it: scores int32 [T, tiles, tile / 32], logits [T, V], each row contiguous,
    and what keys are made of: cut-off logits [T] (None: nothing is cut), key words [2 B], positions [T], steps [B]."""

    scores: Tensor
    logits_TV: Tensor
    cut_T: Tensor | None
    key_words: Tensor
    position_T: Tensor
    step_B: Tensor
    num_queried: int
    inverse_temperature: float
    tile: int

    @property
    def vector(self) -> int:
        """Neighbours among a thread's tokens: as many as it loads at once."""
        return 16 // self.logits_TV.element_size()

    @property
    def arguments(self) -> tuple[Tensor | int | float | None, ...]:
        """Those of the merge's program."""
        return (self.scores, self.logits_TV, self.cut_T, self.key_words, self.position_T, self.step_B,
                self.logits_TV.stride(0), self.num_queried, self.inverse_temperature)


@triton.jit
def chunk_scores(weight, word, VECTOR: tl.constexpr):
    """The largest score of each chunk, int32 [TILE / 32]: of a tile's weights (float32) and words (uint32), [TILE, 1].

    A weight of 0 counts as 2^-127, which may be too little, but its key is 60 nats below that of the largest logit."""
    score = weight.to(tl.int32, bitcast=True) - word.to(tl.float32).to(tl.int32, bitcast=True)
    score = tl.reshape(score, (_CHUNK // VECTOR, weight.shape[0] // _CHUNK, VECTOR))
    return tl.max(tl.max(score, 2), 0)


@triton.jit
def key_bound(score, top, inverse_temperature):
    """What no key exceeds whose score is at most `score` (int32), in a tile whose largest logit is `top` (float32)."""
    # 2^-10 octaves are ten times and more what rounding takes of differences, exp2 and noise; of z / tau it takes four
    # times 2^-24, on both sides of the comparison together.
    octaves = score.to(tl.float32) * (1.0 / 8388608.0) + (32 + 0.0861 + 1.0 / 1024.0)
    largest = top * inverse_temperature
    bound = largest + octaves * 0.6931471805599453 + tl.abs(largest) * (1.0 / 2097152.0)
    return tl.where(largest > float("-inf"), bound, float("-inf"))


@triton.jit
def drawn_token(logits_ptr, best_ptr, scores_ptr, tops, tile, exists, cut, key_words, position, step,
                inverse_temperature, vocab_size, TILE: tl.constexpr, VECTOR: tl.constexpr):
    """The token of the largest key, the lowest of several, and its logit; token 0 where no key is above -inf.

    The pointers are to a row's logits, its tiles' largest scores and its chunks' scores; `tops` (float32) and `tile`
    (int32), [TILES], are the tiles' largest logits and their numbers. key_words, position and step are int32 [1], cut
    is float32 [1] or None. Every tile and every chunk is taken once at most."""
    bounds = key_bound(tl.load(best_ptr + tile, mask=exists, other=0), tops, inverse_temperature)
    bounds = tl.where(exists, bounds, float("-inf"))
    bound = tl.max(bounds, 0)
    best, token, at_token = float("-inf"), 0, float("-inf")
    chunk = tl.arange(0, TILE // _CHUNK)
    group = tl.arange(0, _CHUNK // 4)
    # The chunk's groups of four tokens, counted from its first.
    group = (group // (VECTOR // 4)) * (TILE // _CHUNK * VECTOR // 4) + group % (VECTOR // 4)
    while (bound >= best) & (bound > float("-inf")):
        here = tl.min(tl.where(bounds == bound, tile, _NO_INDEX), 0)
        bounds = tl.where(tile == here, float("-inf"), bounds)
        top = tl.max(tl.where(tile == here, tops, float("-inf")), 0)
        of_chunks = key_bound(tl.load(scores_ptr + here * (TILE // _CHUNK) + chunk), top, inverse_temperature)
        bound = tl.max(of_chunks, 0)
        while (bound >= best) & (bound > float("-inf")):
            first = tl.min(tl.where(of_chunks == bound, chunk, _NO_INDEX), 0)
            of_chunks = tl.where(chunk == first, float("-inf"), of_chunks)
            groups = here * (TILE // 4) + first * (VECTOR // 4) + group
            column = tl.reshape(4 * groups[:, None] + tl.arange(0, 4)[None, :], (_CHUNK,))
            z = tl.load(logits_ptr + column, mask=column < vocab_size, other=float("-inf")).to(tl.float32)
            z = tl.where(z == z, z, float("inf"))
            noise = tl.reshape(gumbel_of(word_tile(key_words, position, step, groups)), (_CHUNK,))
            key = z * inverse_temperature + noise
            if cut is not None:
                key = tl.where(z < cut, float("-inf"), key)
            largest = tl.max(key, 0)
            chosen = tl.min(tl.where(key == largest, column, _NO_INDEX), 0)
            is_better = (largest > best) | ((largest == best) & (chosen < token))
            at_token = tl.where(is_better, tl.max(tl.where(column == chosen, z, float("-inf")), 0), at_token)
            token = tl.where(is_better, chosen, token)
            best = tl.maximum(largest, best)
            bound = tl.max(of_chunks, 0)
        bound = tl.max(bounds, 0)
    return token, at_token
