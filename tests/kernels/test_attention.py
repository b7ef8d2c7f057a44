"""Attention against float64: masks, grouped queries, splits, lists of tiles, layouts, and rows that see nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels import attention as kernel
from quicksilver.kernels import attention_tiles
from quicksilver.kernels.attention import attention, reference
from quicksilver.kernels.attention_tiles import split_size
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.key_ranges import KEY_TILE, KeyRanges
from torch import Tensor

from .comparison import DTYPES, PRODUCT, check, on_device, rel_rms, run


def inputs(batch: int, queries: int, heads: int, kv_heads: int, width: int, keys: int,
           dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    return (torch.randn(batch, queries, heads, width).to(dtype), torch.randn(batch, keys, kv_heads, width).to(dtype),
            torch.randn(batch, keys, kv_heads, width).to(dtype))


def masks(queries: int, keys: int) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """first and stop of the last `queries` of `keys` positions, under each pattern."""
    position = torch.arange(keys - queries, keys)[None]
    return {"none": (None, None), "causal": (None, position + 1), "block-causal": (None, (position // 4 + 1) * 4),
            "window": ((position - 4).clamp(min=0), position + 1), "window ahead": (position - 2, position + 3)}


def seen(tensors: tuple[Tensor, Tensor, Tensor], first_BF: Tensor | None = None, stop_BF: Tensor | None = None,
         *lists: Tensor) -> tuple[Any, ...]:
    """All arguments: the tensors, and what queries see of the keys."""
    return *tensors, KeyRanges(tensors[1].shape[1], first_BF, stop_BF, *lists)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", ["none", "causal", "block-causal", "window", "window ahead"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 32, 1), (2, 3, 4, 2, 40, 67), (1, 17, 4, 1, 64, 130)], ids=str)
def test_it_matches_float64(shape: tuple[int, int, int, int, int, int], mask: str, dtype: torch.dtype) -> None:
    first_BF, stop_BF = masks(shape[1], shape[5])[mask]
    check(attention, reference, seen(inputs(*shape, dtype), first_BF, stop_BF), PRODUCT)


@pytest.mark.parametrize("width", [32, 80, 128, 192, 256])
def test_any_head_width(width: int) -> None:
    check(attention, reference, seen(inputs(1, 5, 2, 1, width, 70)), PRODUCT)


@pytest.mark.parametrize("keys", [63, 64, 65, 255, 256, 257, 600])
@pytest.mark.parametrize("invariant", [False, True])
def test_splits_are_merged_exactly(keys: int, invariant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_tiles, "is_batch_invariant", lambda: invariant)
    assert split_size(2, 1, keys) == (256 if invariant else 64)
    arguments = seen(inputs(2, 4, 2, 1, 32, keys), None, torch.tensor([[1, 64, 65, keys]]))
    check(attention, reference, arguments, PRODUCT)


def test_one_split_and_many_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = seen(inputs(1, 3, 2, 1, 32, 700))
    many, _ = run(attention, *arguments)
    monkeypatch.setattr(kernel, "split_size", lambda *_: 1024)
    one, _ = run(attention, *arguments)
    assert rel_rms(many[0], one[0]) < 1e-6


def test_more_queries_than_a_tile_has_rows() -> None:
    first_BF, stop_BF = masks(75, 80)["causal"]
    check(attention, reference, seen(inputs(1, 75, 3, 1, 32, 80), first_BF, stop_BF), PRODUCT)


def test_rows_have_their_own_bounds() -> None:
    stop_BF = torch.tensor([[1, 2, 3], [20, 70, 90]])
    first_BF = torch.tensor([[0, 1, 2], [19, 5, 80]])
    check(attention, reference, seen(inputs(2, 3, 2, 2, 32, 90), first_BF, stop_BF), PRODUCT)


@pytest.mark.parametrize("keys", [70, 600])
def test_a_query_that_sees_nothing_gives_zeros(keys: int) -> None:
    stop_BF = torch.tensor([[0, 5, 0], [0, 0, 0]])
    out, = check(attention, reference, seen(inputs(2, 3, 4, 2, 32, keys), None, stop_BF), PRODUCT)
    assert not out[0, 0].any()
    assert not out[1].any()
    assert out[0, 1].all()


def test_no_query_gives_no_answer() -> None:
    out, = check(attention, reference, seen(inputs(2, 0, 4, 2, 32, 9)), PRODUCT)
    assert out.shape == (2, 0, 4, 32)


@pytest.mark.parametrize("counts", [[[1, 3], [0, 2]], [[2, 2], [3, 1]]], ids=str)
@pytest.mark.parametrize("mask", ["none", "causal"])
def test_lists_of_tiles_restrict_what_is_read(counts: list[list[int]], mask: str) -> None:
    keys = 4 * KEY_TILE + 7
    tiles_BKN = torch.stack([torch.randperm(5)[:3] for _ in range(4)]).view(2, 2, 3).to(torch.int32)
    first_BF, stop_BF = masks(3, keys)[mask]
    counts_BK = torch.tensor(counts, dtype=torch.int32)
    tensors = inputs(2, 3, 4, 2, 32, keys)
    check(attention, reference, seen(tensors, first_BF, stop_BF, tiles_BKN, counts_BK), PRODUCT)


def test_listing_all_tiles_is_reading_everything() -> None:
    shape = (1, 3, 4, 2, 32, 5 * KEY_TILE)
    tensors = inputs(*shape)
    every = torch.arange(5, dtype=torch.int32).expand(1, 2, 5).contiguous()
    listed, _ = run(attention, *seen(tensors, None, None, every, torch.full((1, 2), 5, dtype=torch.int32)))
    dense, _ = run(attention, *seen(tensors))
    assert torch.equal(listed[0], dense[0])


def test_keys_and_values_are_read_in_a_store_that_is_longer() -> None:
    q, k, v = inputs(2, 3, 4, 2, 32, 90)
    check(attention, reference, seen((q, k[:, :70], v[:, :70])), PRODUCT)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_heads_before_positions_are_refused(place: int) -> None:
    arguments = [on_device(tensor) for tensor in inputs(2, 3, 4, 2, 32, 70)]
    arguments[place] = arguments[place].transpose(1, 2).contiguous().transpose(1, 2)
    with using(Implementation.TRITON), pytest.raises(AssertionError, match="must be"):
        attention(arguments[0], arguments[1], arguments[2], KeyRanges(70))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_alone_gives_the_same_bits_as_in_a_batch_with_longer_rows(
        dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is asked for; as of yet no other kernel promises it on a GPU."""
    monkeypatch.setattr(attention_tiles, "is_batch_invariant", lambda: True)
    q, k, v = inputs(3, 2, 2, 1, 32, 300, dtype)
    stop_B1 = torch.tensor([[90], [300], [257]])
    together, _ = run(attention, *seen((q, k, v), None, stop_B1.repeat(1, 2)))
    for row in range(3):
        length = int(stop_B1[row])
        one = slice(row, row + 1)
        alone, _ = run(attention, *seen((q[one], k[one, :length], v[one, :length]), None, stop_B1[one].repeat(1, 2)))
        assert torch.equal(alone[0][0], together[0][row])


def test_causal_queries_equal_each_query_alone_over_its_past() -> None:
    tensors, position = inputs(1, 5, 2, 2, 32, 5), torch.arange(5)[None]
    causal, _ = run(attention, *seen(tensors, None, position + 1))
    for query in range(5):
        alone, _ = run(attention, *seen((tensors[0][:, query : query + 1], tensors[1][:, : query + 1],
                                         tensors[2][:, : query + 1])))
        assert rel_rms(alone[0][0, 0], causal[0][0, query]) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_is_no_worse_than_pytorch_in_the_same_dtype(dtype: torch.dtype) -> None:
    arguments = seen(inputs(1, 32, 2, 1, 64, 300, dtype))
    expected = reference(*(tensor.double() for tensor in arguments[:3]), *arguments[3:])
    found, _ = run(attention, *arguments)
    assert found[0].numel() >= 4096
    assert rel_rms(found[0], expected) <= 1.1 * rel_rms(reference(*arguments), expected) + 1e-4


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 3), st.integers(1, 4), st.integers(1, 70),
       st.integers(1, 300), st.sampled_from(DTYPES), st.sampled_from(["none", "causal", "block-causal", "window"]))
def test_any_shape(batch: int, queries: int, kv_heads: int, group: int, width: int, keys: int, dtype: torch.dtype,
                   mask: str) -> None:
    first_BF, stop_BF = masks(queries, max(queries, keys))[mask]
    tensors = inputs(batch, queries, kv_heads * group, kv_heads, width, max(queries, keys), dtype)
    check(attention, reference, seen(tensors, first_BF, stop_BF), PRODUCT)


@pytest.mark.parametrize("shape", [(1, 2, 6, 4, 32, 9), (1, 2, 2, 2, 257, 9)], ids=str)
def test_heads_that_do_not_divide_or_fit_are_refused(shape: tuple[int, int, int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be a multiple"), using(Implementation.TRITON):
        attention(*seen(inputs(*shape)))


@pytest.mark.parametrize("queries", [1, 32, 70])
def test_a_grid_fits_a_gpu_however_many_rows_and_heads(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grids = []
    monkeypatch.setattr(kernel, "launch", lambda program, grid, *_, **__: grids.append(grid))
    with using(Implementation.TRITON):
        q_BFHD, k_BCKD = (torch.empty(4096, num, 32, 32, device="meta") for num in (queries, 2100))
        attention(q_BFHD, k_BCKD, k_BCKD, KeyRanges(2100))
    assert grids
    assert all(grid[0] < 2**31 and max((1, *grid[1:])) <= 65535 for grid in grids)


def test_bounds_beyond_the_keys_are_those_of_the_keys() -> None:
    far = torch.tensor([[2**31, 2**62, 5]])
    check(attention, reference, seen(inputs(1, 3, 2, 2, 32, 70), None, far), PRODUCT)
    check(attention, reference, seen(inputs(1, 3, 2, 2, 32, 70), far - 2**40, far), PRODUCT)
