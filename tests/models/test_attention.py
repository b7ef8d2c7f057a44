"""Attention patterns against their definitions, pair by pair."""

from itertools import product

import pytest
import torch
from quicksilver.kernels.attention import attention
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal
from quicksilver.models.attention import AttentionMask, BD3LMMask, CanvasWindow, SlidingWindow

POSITIONS = torch.arange(12)[None]


def test_causal_sees_itself_and_the_past() -> None:
    seen = Causal().visible(POSITIONS, POSITIONS)
    assert all(seen[0, q, k] == (k <= q) for q in range(12) for k in range(12))


def test_bidirectional_sees_all() -> None:
    assert Bidirectional().visible(POSITIONS, POSITIONS) is None


@pytest.mark.parametrize("block", [1, 3, 4, 12])
def test_block_causal_sees_its_block_and_earlier_ones(block: int) -> None:
    seen = BlockCausal(block).visible(POSITIONS, POSITIONS)
    assert all(seen[0, q, k] == (k // block <= q // block) for q in range(12) for k in range(12))


def test_blocks_of_one_are_causal() -> None:
    assert (BlockCausal(1).visible(POSITIONS, POSITIONS) == Causal().visible(POSITIONS, POSITIONS)).all()


@pytest.mark.parametrize("block", [1, 2, 3, 6])
def test_noisy_sees_its_own_noise_and_clean_blocks_before(block: int) -> None:
    seen = BD3LMMask(block, 6).visible(POSITIONS, POSITIONS)
    for q in range(12):
        for k in range(12):
            q_block, k_block = q % 6 // block, k % 6 // block
            if q < 6:
                expected = q_block == k_block if k < 6 else k_block < q_block
            else:
                expected = k >= 6 and k_block <= q_block
            assert seen[0, q, k] == expected, (q, k)


def test_a_bad_block_is_refused() -> None:
    with pytest.raises(ValueError, match="block=0"):
        BlockCausal(0)


@pytest.mark.parametrize("inner", [Causal(), BlockCausal(4)], ids=str)
@pytest.mark.parametrize("window", [1, 3, 40])
def test_a_window_ends_what_is_seen_so_many_positions_back(inner: AttentionPattern, window: int) -> None:
    seen, inner_seen = (pattern.visible(POSITIONS, POSITIONS) for pattern in (SlidingWindow(inner, window), inner))
    assert seen is not None
    assert inner_seen is not None
    for q, k in product(range(POSITIONS.shape[1]), repeat=2):
        assert seen[0, q, k] == (inner_seen[0, q, k] and q - k < window), (q, k)
    with pytest.raises(ValueError, match="window=0"):
        SlidingWindow(inner, 0)


@pytest.mark.parametrize("window", [1, 2, 5, 50])
def test_a_window_over_keys_with_gaps_is_the_same_as_mask_and_as_interval(window: int) -> None:
    query = torch.tensor([[0, 3, 7, 8], [2, 5, 21, 30]])
    key = torch.tensor([[0, 1, 3, 7, 8, 30], [2, 4, 5, 21, 30, 30]])
    mask = AttentionMask(Causal(), query, key, 30).within(window)
    assert mask is not None
    visible, by_interval = mask.visible_BKFC, mask.ranges.visible_BKFC
    assert visible is not None
    assert by_interval is not None
    assert torch.equal(visible, by_interval)
    assert AttentionMask(Causal(), query, key).within(None) is None


@pytest.mark.parametrize("window", [1, 4, 50])
def test_all_of_a_canvas_sees_it_and_the_same_last_positions_before_it(window: int) -> None:
    mask = AttentionMask(CanvasWindow(Bidirectional(), window, start=7), POSITIONS[:, 7:], POSITIONS)
    visible, by_interval = mask.visible_BKFC, mask.ranges.visible_BKFC
    assert visible is not None
    assert by_interval is not None
    assert torch.equal(visible.expand_as(by_interval), by_interval)
    assert visible[0, 0].tolist() == [[k > 7 - window for k in range(12)]] * 5


@pytest.mark.parametrize("pattern", [Causal(), Bidirectional(), BlockCausal(4)], ids=str)
@pytest.mark.parametrize("end", [None, 30])
def test_mask_and_number_of_keys_seen_say_the_same(pattern: AttentionPattern, end: int | None) -> None:
    query = torch.tensor([[0, 3, 7, 8], [2, 5, 21, 30]])
    key = torch.tensor([[0, 1, 3, 7, 8, 30], [2, 4, 5, 21, 30, 30]])
    mask = AttentionMask(pattern, query, key, end)
    visible, stop = mask.visible_BKFC, mask.stop_BF
    everything = torch.ones(2, 4, 6, dtype=torch.bool)
    seen = everything if visible is None else visible[:, 0].expand(2, 4, 6)
    assert torch.equal(seen, everything if stop is None else torch.arange(6) < stop[..., None])
    assert mask.ranges.stop_BF is stop
    with pytest.raises(ValueError, match=r"a mask of \(4, 6\) queries and keys with \(4, 5\)"):
        mask.check(2, 4, 5, 1)
    picked = mask.at(torch.tensor([[3], [1]]))
    assert torch.equal(picked.query_BF, torch.tensor([[8], [5]]))


@pytest.mark.parametrize("pattern", [Causal(), Bidirectional(), BlockCausal(4)], ids=str)
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_attention_under_autocast_is_attention(pattern: AttentionPattern, num_kv_heads: int) -> None:
    """Output and gradients within what bfloat16 rounds, by its scores and, with shared heads, by PyTorch's."""
    q, k, v = (torch.randn(2, 12, heads, 8, requires_grad=True) for heads in (4, num_kv_heads, num_kv_heads))
    upstream = torch.randn(2, 12, 4, 8)
    mask = AttentionMask(pattern, POSITIONS, POSITIONS)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            mixed = attention(q, k, v, mask)
        results.append((mixed.float(), *torch.autograd.grad(mixed, (q, k, v), upstream.to(mixed.dtype))))
    for exact, rounded in zip(*results, strict=True):
        assert (exact - rounded).norm() < 0.02 * exact.norm()
