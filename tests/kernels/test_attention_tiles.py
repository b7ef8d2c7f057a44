"""Programs of attention: enough to fill a card, by rows, heads and keys."""

import pytest
import torch
from quicksilver.kernels import attention as kernel
from quicksilver.kernels.attention import attention
from quicksilver.kernels.attention_tiles import split_size, tiles_of, tiles_that_fill
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.key_ranges import KeyRanges


@pytest.mark.parametrize(("queries", "heads", "kv_heads", "context", "programs"), [
    (32, 32, 32, 1024, 128), (32, 32, 8, 1024, 128), (32, 16, 4, 1024, 128), (1, 32, 8, 1024, 128),
    (1, 16, 4, 1024, 64), (32, 32, 32, 8192, 128), (32, 16, 4, 8192, 128), (32, 32, 8, 131072, 128)])
def test_a_block_of_queries_gives_a_card_enough_programs(
        queries: int, heads: int, kv_heads: int, context: int, programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[int, ...]] = []
    monkeypatch.setattr(kernel, "launch", lambda _, grid, *arguments, **options: launched.append(grid))
    q_BFHD = torch.empty(1, queries, heads, 128, dtype=torch.bfloat16)
    kv_BCKD = torch.empty(1, context, kv_heads, 128, dtype=torch.bfloat16)
    with using(Implementation.TRITON):
        attention(q_BFHD, kv_BCKD, kv_BCKD, KeyRanges(context))
    assert launched[0][0] * launched[0][1] >= programs


def test_a_batch_takes_fewer_splits() -> None:
    assert [split_size(batch * 8, 8, 1024) for batch in (1, 2, 4, 16, 99)] == [64, 128, 256, 1024, 1024]


def test_tiles_become_smaller_only_where_that_makes_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [tiles_that_fill(4, rows, 1024, 128, 2).rows for rows in (1, 4, 33, 64, 65, 128)] == [16, 16, 64, 64, 64, 64]
    assert tiles_that_fill(4, 128, 4096, 128, 2) == tiles_of(128, 128, 2)
    assert tiles_that_fill(1, 128, 64, 128, 4) == tiles_of(128, 128, 4)
    monkeypatch.setattr("quicksilver.kernels.attention_tiles.is_batch_invariant", lambda: True)
    assert tiles_that_fill(4, 128, 1024, 128, 2) == tiles_of(128, 128, 2)
