"""Tokens drawn by scores: the bounds are bounds, and the tokens are those of all keys."""

import math
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from quicksilver.kernels import token_statistics as module
from quicksilver.kernels.counter_rng import gumbel_of
from quicksilver.kernels.dispatch import Implementation, launch, using
from quicksilver.kernels.drawn_token import CHUNK, LARGEST_INVERSE_TEMPERATURE, chunk_scores, key_bound
from quicksilver.kernels.token_statistics import SamplingParams, StatisticsRequest, TokenStatistics, token_statistics
from torch import Tensor

from .comparison import on_device, put

_TILE = 8192
INF = math.inf


@triton.jit
def _bound_kernel(word, z, top, inverse_temperature, bound, key, TILE: tl.constexpr, VECTOR: tl.constexpr):
    """As a tile's program and the merge compute them: key [TILE], bound [TILE / 32]."""
    place = tl.arange(0, TILE)[:, None]
    words = tl.load(word + place).to(tl.uint32, bitcast=True)
    zs = tl.load(z + place)
    weight = tl.exp2((zs - top) * (inverse_temperature * 1.4426950408889634))
    scores = chunk_scores(weight, words, VECTOR)
    tl.store(bound + tl.arange(0, TILE // 32), key_bound(scores, top, inverse_temperature))
    tl.store(key + place, zs * inverse_temperature + gumbel_of(words))


def chunk_of(vector: int) -> Tensor:
    """The chunk of each token of a tile, [TILE]."""
    token = torch.arange(_TILE)
    return token // vector % (_TILE // CHUNK)


def bounds_and_keys(word_C: Tensor, z_C: Tensor, top: float, inverse_temperature: float, vector: int
                    ) -> tuple[Tensor, Tensor]:
    """Bounds and keys, [C], of chunks whose tokens all have one word and one logit."""
    chunk = chunk_of(vector)
    words = torch.where(word_C >= 2**31, word_C - 2**32, word_C).to(torch.int32)[chunk]
    bound_C, key_V = on_device(torch.empty(_TILE // CHUNK)), on_device(torch.empty(_TILE))
    launch(_bound_kernel, (1,), on_device(words), on_device(z_C[chunk]), top, inverse_temperature, bound_C, key_V,
           TILE=_TILE, VECTOR=vector)
    key_C = torch.full((_TILE // CHUNK,), -INF).scatter_reduce(0, chunk, key_V.cpu(), "amax")
    return bound_C.cpu(), key_C


def edge_words() -> Tensor:
    """Words around every power of two, the last ones, and at random: 256 of them."""
    near = [2**power + by for power in range(32) for by in (-1, 0, 1)] + [2**32 - 1, 2**32 - 128, 2**32 - 256]
    # Where the line is farthest below the logarithm: at 1 / ln(2) times a power of two.
    far = [round(2**power / math.log(2)) for power in range(32)]
    some = torch.randint(0, 2**32, (_TILE // CHUNK - len(near) - len(far),))
    return torch.cat((torch.tensor(near + far), some))


@pytest.mark.parametrize("vector", [4, 8])
@pytest.mark.parametrize(("top", "temperature"), [(3.0, 1.0), (-40.0, 0.3), (700.0, 2.0**-10), (5.0, 1e30), (-1e4, 7.0),
                                                  (2.0**24 + 2, 1.0), (1e30, 0.5)], ids=str)
def test_no_key_exceeds_its_bound(top: float, temperature: float, vector: int) -> None:
    word_C = edge_words()
    for nats in (0.0, 1e-6, 0.3, math.log(2) * 0.4712, 5.0, 40.0, 87.0):
        z_C = torch.full(word_C.shape, top - nats * temperature)
        bound_C, key_C = bounds_and_keys(word_C, z_C, top, 1 / temperature, vector)
        assert (bound_C >= key_C).all(), (nats, (key_C - bound_C).max())


def test_a_bound_is_near_the_key_where_words_are_few_of_all() -> None:
    """Or it would be of no use: within twice what lines lose of a logarithm."""
    word_C = edge_words()
    for nats in (0.0, 0.3, 5.0, 40.0):
        bound_C, key_C = bounds_and_keys(word_C, torch.full(word_C.shape, 3.0 - nats), 3.0, 1.0, 8)
        assert ((bound_C - key_C)[(word_C >= 2**8) & (word_C < 2**26)] < 2 * 0.0861 * math.log(2) + 0.02).all()


def drawn(logits: Tensor, temperature: float, *, by_keys: bool = False, **options: Any) -> TokenStatistics:
    """The Triton path's tokens with their log-probabilities: by scores, or by the keys of all tokens."""
    num_rows, num_queried, _ = logits.shape
    position_BQ = torch.arange(num_rows * num_queried).view(num_rows, num_queried)
    sampling = SamplingParams(temperature, torch.arange(num_rows) * 2**33 + 7, position_BQ, torch.arange(num_rows) + 3,
                              **options)
    request = StatisticsRequest(frozenset({"log_prob"}), sampling)
    with pytest.MonkeyPatch.context() as patch, using(Implementation.TRITON):
        if by_keys:
            patch.setattr(module, "LARGEST_INVERSE_TEMPERATURE", 0.0)
        return token_statistics(*put(Implementation.TRITON, logits, request))


def check_same(logits: Tensor, temperature: float, **options: Any) -> TokenStatistics:
    """Both ways give the same bits."""
    by_scores, by_keys = (drawn(logits, temperature, by_keys=keys, **options) for keys in (False, True))
    assert torch.equal(by_scores.token_BQ, by_keys.token_BQ)
    assert by_scores.log_prob_BQ is not None
    assert by_keys.log_prob_BQ is not None
    torch.testing.assert_close(by_scores.log_prob_BQ, by_keys.log_prob_BQ, rtol=0, atol=2e-6)
    return by_scores


def logits_of(kind: str, num_rows: int, vocab_size: int) -> Tensor:
    """[1, rows, V] at which bounds are tight, or of little help."""
    z = torch.randn(1, num_rows, vocab_size)
    if kind == "alike":
        return torch.zeros_like(z)
    if kind == "one allowed":
        return torch.where(torch.arange(vocab_size) == vocab_size - 2, 1.5, -INF).expand_as(z)
    if kind == "peaked":
        return torch.where(torch.arange(vocab_size) == 3, 12.0, z)
    if kind == "two levels":
        return torch.where(z > 1, 0.0, -math.log(2) * 0.4712)
    if kind == "huge":  # so that rounding makes ties of unequal keys
        return (z > 0) * 2.0 + 2.0**25
    if kind == "least":  # masked with the least number there is
        return torch.where(torch.arange(vocab_size) < vocab_size // 2, torch.finfo(torch.float32).min, z)
    return z * {"normal": 1.0, "wide": 30.0}[kind]


@pytest.mark.parametrize("kind", ["alike", "one allowed", "peaked", "two levels", "huge", "least", "normal", "wide"])
@pytest.mark.parametrize("temperature", [1 / LARGEST_INVERSE_TEMPERATURE, 0.3, 1.0, 1e30])
def test_tokens_are_those_of_all_keys(kind: str, temperature: float) -> None:
    for num_rows, vocab_size in ((8, 37), (4, 300), (2, 9001)):
        if kind == "huge" and vocab_size > 300:
            break  # the keys of most chunks are near the best: many to interpret
        found = check_same(logits_of(kind, num_rows, vocab_size), temperature)
        assert (found.token_BQ < vocab_size).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alike", "two levels", "normal"])
def test_hundreds_of_tokens_are_those_of_all_keys(kind: str) -> None:
    check_same(logits_of(kind, 400, 512), 0.9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_cut_into_other_chunks(dtype: torch.dtype) -> None:
    check_same((3 * torch.randn(2, 3, 9001)).to(dtype), 0.8)


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_k": 5}, {"top_p": 0.7}], ids=str)
def test_a_cut_leaves_the_tokens_of_all_keys(cut: dict[str, Any]) -> None:
    check_same(2 * torch.randn(1, 12, 9001), 1.5, **cut)


@pytest.mark.parametrize("vocab_size", [2, 9001])
def test_a_row_that_allows_nothing_draws_the_first_token(vocab_size: int) -> None:
    found = check_same(torch.full((1, 2, vocab_size), -INF), 1.0)
    assert found.token_BQ.tolist() == [[0, 0]]


def test_equal_keys_give_the_lowest_token() -> None:
    """At 2^30 float32 has one number in 64 or 128: all keys are one."""
    assert check_same(torch.full((1, 1, 100), 2.0**30), 1.0).token_BQ.tolist() == [[0]]
    logits = torch.full((1, 1, 9001), -5.0)
    logits[..., [8700, 4099, 8999]] = 2.0**30
    assert check_same(logits, 1.0).token_BQ.tolist() == [[4099]]


