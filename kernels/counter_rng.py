"""Counter-based random numbers: a draw is a pure function of (request seed, position, step, token id).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The key is the request's
64-bit seed; the counter is (token id // 4, position, step, stream), and token id % 4 picks the output word. Nothing
depends on the row's place in the batch, on tiles, or on draws made before.

    gumbel = -log(E),  E = -log1p(-v),  v = (word + 1/2) / 2^32

so that the largest Gumbel values, which decide an argmax, come from small v, where float32 is fine-grained; the
usual -log(-log(u)) in float32 truncates them and lowers the temperature (Zheng et al., arXiv 2409.02908).
"""

import torch
from torch import Tensor

TOKEN_STREAM = 0
ORDER_STREAM = 1

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox4x32(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10. Four counter words and two key words (broadcastable int64 tensors holding uint32 values) to
    four int64 tensors holding uint32 values."""
    c0, c1, c2, c3 = counter
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
    return ((word.double() + 0.5) / 2.0**32).float()


def uniform(seed_B: Tensor, position_BQ: Tensor, step: int) -> Tensor:
    """One float32 uniform in (0, 1] for each position, from the stream that orders positions: [B, Q].

    seed_B and position_BQ are int64; step counts from 0."""
    seed_B1 = seed_B[:, None]
    counter = (torch.zeros_like(position_BQ), position_BQ, torch.full_like(position_BQ, step),
               torch.full_like(position_BQ, ORDER_STREAM))
    return _uniform(philox4x32(counter, (seed_B1 & _WORD, (seed_B1 >> 32) & _WORD))[0])


def gumbel(seed_B: Tensor, position_BQ: Tensor, step: int, vocab_size: int) -> Tensor:
    """Standard Gumbel noise for each token of each position: float32 [B, Q, V].

    seed_B and position_BQ are int64; step counts from 0."""
    lanes = torch.arange((vocab_size + 3) // 4, device=position_BQ.device)
    position_BQ1, seed_B11 = position_BQ[:, :, None], seed_B[:, None, None]
    counter = (lanes, position_BQ1, torch.full_like(position_BQ1, step), torch.full_like(position_BQ1, TOKEN_STREAM))
    words = philox4x32(counter, (seed_B11 & _WORD, (seed_B11 >> 32) & _WORD))
    word_BQV = torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(2)[..., :vocab_size]
    return -torch.log(-torch.log1p(-_uniform(word_BQV)))
