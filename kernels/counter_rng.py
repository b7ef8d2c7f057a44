"""Counter-based random numbers: a draw is a pure function of (request seed, position, step, token id).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The key is the request's
64-bit seed; the counter is (token id // 4, position, step, stream), and token id % 4 picks the output word. Nothing
depends on the row's place in the batch, on tiles, or on draws made before.

    gumbel = -log(E),  E = -log1p(-v),  v = (word + 1/2) / 2^32, at most 1 - 2^-24

so that the largest Gumbel values, which decide an argmax, come from small v, where float32 is fine-grained; the
usual -log(-log(u)) in float32 truncates them and lowers the temperature (Zheng et al., arXiv 2409.02908).

The PyTorch functions and the Triton one, which kernels call, draw the same words.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKEN_STREAM = 0
ORDER_STREAM = 1
COUNT_STREAM = 2

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_MULTIPLIER_0, _MULTIPLIER_1 = (tl.constexpr(multiplier) for multiplier in _MULTIPLIERS)
_WEYL_0, _WEYL_1 = (tl.constexpr(step) for step in _WEYL)
_ROUNDS_LEFT = tl.constexpr(_ROUNDS - 3)


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10. Four counter words and two key words (broadcastable int64 tensors holding uint32 values) to
    four int64 tensors holding uint32 values."""
    c0, c1, c2, c3 = (word & _WORD for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The low 64 bits of an int64 product are those of the unsigned one, so wrapping does no harm.
        product_0, product_1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product_1 >> 32) & _WORD) ^ c1 ^ k0,
            product_1 & _WORD,
            ((product_0 >> 32) & _WORD) ^ c3 ^ k1,
            product_0 & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _uniform(word: Tensor) -> Tensor:
    return ((word.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)


def uniform(seed_B: Tensor, position_BQ: Tensor, step_B: Tensor, stream: int = ORDER_STREAM) -> Tensor:
    """One float32 uniform in (0, 1) for each position, [B, Q], by default from the stream that orders positions.

    seed_B, position_BQ and step_B (from 0) are int64."""
    seed_B1 = seed_B[:, None]
    counter = (torch.zeros_like(position_BQ), position_BQ, step_B[:, None].expand_as(position_BQ),
               torch.full_like(position_BQ, stream))
    return _uniform(philox4x32(counter, (seed_B1 & _WORD, (seed_B1 >> 32) & _WORD))[0])


def gumbel(seed_B: Tensor, position_BQ: Tensor, step_B: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise for each token of each position: float32 [B, Q, V].

    seed_B, position_BQ and step_B (from 0) are int64."""
    lanes = torch.arange((vocab_size + 3) // 4, device=position_BQ.device)
    position_BQ1, seed_B11 = position_BQ[:, :, None], seed_B[:, None, None]
    counter = (lanes, position_BQ1, step_B[:, None, None].expand_as(position_BQ1),
               torch.full_like(position_BQ1, TOKEN_STREAM))
    words = philox4x32(counter, (seed_B11 & _WORD, (seed_B11 >> 32) & _WORD))
    word_BQV = torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(2)[..., :vocab_size]
    return -torch.log(-torch.log1p(-_uniform(word_BQV)))


def key_words_of(seed_B: Tensor) -> Tensor:
    """The key words of seeds, int32 [2 B], the low one first, as memory has them. Apart, they spare programs arithmetic
    of 64 bits."""
    return seed_B.contiguous().view(torch.int32)


@triton.jit
def load_key(key_ptr, request, mask):
    """Both key words of requests, int32 [M] each."""
    return tl.load(key_ptr + 2 * request, mask=mask), tl.load(key_ptr + 2 * request + 1, mask=mask)


@triton.jit
def word_tile(key, position, step, group):
    """The random words of `group`s of four tokens: key (both words of a seed) and position and step [M], group
    [N], all int32, to uint32 [4 N, M].

    Philox with its first three rounds written out: what is a row's alone is computed once a row, not once a group."""
    key_0, key_1 = key[0].to(tl.uint32), key[1].to(tl.uint32)
    position, step = position.to(tl.uint32), step.to(tl.uint32)
    lane = group.to(tl.uint32)[:, None]
    # The first: (group, position, step, TOKEN_STREAM, which is 0).
    row_0, row_1 = tl.umulhi(step, _MULTIPLIER_1) ^ position ^ key_0, step * _MULTIPLIER_1
    word_2, word_3 = tl.umulhi(lane, _MULTIPLIER_0) ^ key_1[None, :], lane * _MULTIPLIER_0
    key_0 += _WEYL_0
    key_1 += _WEYL_1
    word_0, word_1 = tl.umulhi(word_2, _MULTIPLIER_1) ^ (row_1 ^ key_0)[None, :], word_2 * _MULTIPLIER_1
    word_2, row_3 = word_3 ^ (tl.umulhi(row_0, _MULTIPLIER_0) ^ key_1)[None, :], row_0 * _MULTIPLIER_0
    key_0 += _WEYL_0
    key_1 += _WEYL_1
    product_0, product_1 = word_0 * _MULTIPLIER_0, word_2 * _MULTIPLIER_1
    word_2, word_0 = (tl.umulhi(word_0, _MULTIPLIER_0) ^ (row_3 ^ key_1)[None, :],
                      tl.umulhi(word_2, _MULTIPLIER_1) ^ word_1 ^ key_0[None, :])
    word_1, word_3 = product_1, product_0
    for _ in tl.static_range(_ROUNDS_LEFT):  # pyright: ignore[reportGeneralTypeIssues]
        key_0 += _WEYL_0
        key_1 += _WEYL_1
        product_0, product_1 = word_0 * _MULTIPLIER_0, word_2 * _MULTIPLIER_1
        word_2, word_0 = (tl.umulhi(word_0, _MULTIPLIER_0) ^ word_3 ^ key_1[None, :],
                          tl.umulhi(word_2, _MULTIPLIER_1) ^ word_1 ^ key_0[None, :])
        word_1, word_3 = product_1, product_0
    word = tl.join(tl.join(word_0, word_2), tl.join(word_1, word_3))
    return tl.reshape(tl.permute(word, (0, 2, 3, 1)), (4 * word_0.shape[0], word_0.shape[1]))


@triton.jit
def gumbel_of(word):
    """Standard Gumbel noise, float32, of random words, uint32."""
    value = tl.minimum((word.to(tl.float32) + 0.5) * (1.0 / 4294967296.0), 1 - 1.0 / 16777216.0)
    # -log1p(-v): its series where 1 - v would round v away; the next term is below 4e-8 of the sum.
    series = value * (1 + value * (0.5 + value * (0.33333333 + value * 0.25)))
    return -tl.log(tl.where(value < 0.02, series, -tl.log(1 - value)))
