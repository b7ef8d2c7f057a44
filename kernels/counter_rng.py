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


@triton.jit
def gumbel_tile(seed, position, step, group):
    """Standard Gumbel noise of `group`s of four tokens: seed (int64) and position (int32) [M], step (int32, [M]
    or a scalar), group (int32) [N] to float32 [4 N, M]."""
    seed = tl.broadcast_to(seed[None, :], group.shape[0], seed.shape[0])
    lane = tl.broadcast_to(group[:, None], seed.shape)
    position = tl.broadcast_to(position[None, :], seed.shape)
    # Zeros of the tile's shape: Philox wants four counters of one shape; the stream is TOKEN_STREAM, 0.
    zero = lane * 0
    word_0, word_1, word_2, word_3 = tl.philox(seed, lane, position, zero + step, zero)
    word = tl.join(tl.join(word_0, word_2), tl.join(word_1, word_3))
    word = tl.reshape(tl.permute(word, (0, 2, 3, 1)), (4 * lane.shape[0], lane.shape[1]))
    value = tl.minimum((word.to(tl.float32) + 0.5) * (1.0 / 4294967296.0), 1 - 1.0 / 16777216.0)
    # -log1p(-v): its series where 1 - v would round v away; the next term is below 4e-8 of the sum.
    series = value * (1 + value * (0.5 + value * (0.33333333 + value * 0.25)))
    return -tl.log(tl.where(value < 0.02, series, -tl.log(1 - value)))
