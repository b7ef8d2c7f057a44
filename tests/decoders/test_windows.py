"""Where windows lie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.decoders import (
    BlockCausalCache,
    Blocks,
    Decoder,
    Greedy,
    GridBlocks,
    Recompute,
    Request,
    TokenEditing,
    Unbounded,
    Whole,
)
from quicksilver.decoders.windows import Span, WindowGrid
from quicksilver.models import BlockCausal

from tests.conftest import MASK_ID, random_model
from tests.decoders.recording import run


def test_whole_is_one_window() -> None:
    assert Whole().span(3, 10) == Span(3, 7, 1)


def test_blocks_count_from_the_completion_and_grid_blocks_from_the_row() -> None:
    assert Blocks(4).span(3, 11) == Span(3, 4, 2)
    assert GridBlocks(4).span(3, 12) == Span(0, 4, 3)
    assert GridBlocks(4).span(4, 12) == Span(4, 4, 2)


def test_on_a_grid_a_completion_ends_at_a_blocks_edge() -> None:
    assert [GridBlocks(4).edge(stop) for stop in (1, 4, 5, 8, 9)] == [4, 4, 8, 8, 12]
    for stop in (1, 4, 7):
        assert Whole().edge(stop) == Blocks(4).edge(stop) == stop


@pytest.mark.parametrize(("windows", "start", "stop"), [(Blocks(4), 3, 10), (GridBlocks(4), 3, 11), (Blocks(5), 0, 4)],
                         ids=str)
def test_a_block_that_does_not_divide_is_refused(windows: Blocks, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"size=\d: blocks must divide the \d+ positions"):
        windows.span(start, stop)


def test_ragged_rows_have_their_own_windows() -> None:
    spans = [Span(2, 3, 2), Span(4, 3, 1)]
    grid = WindowGrid.of(spans, torch.tensor([8, 7]), length=8, num_revised=0)
    assert grid.window(0).query_BQ.tolist() == [[2, 3, 4], [4, 5, 6]]
    second = grid.window(1)
    assert second.query_BQ.tolist() == [[5, 6, 7], [8, 8, 8]]
    assert second.before_BP is not None
    assert second.before_BP.tolist() == [[2, 3, 4], [4, 5, 6]]
    assert (second.earliest, second.begin, second.reach, second.padded) == (5, 7, 8, True)


def test_what_lies_before_a_window_is_named_once() -> None:
    """The prompt at the first window, then each window when no later one may revise it any more."""
    grid = WindowGrid.of([Span(2, 2, 4)], torch.tensor([10]), length=10, num_revised=1)
    windows = [grid.window(index) for index in range(4)]
    assert [window.query_BQ.tolist()[0] for window in windows] == [[2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert [None if window.before_BP is None else window.before_BP.tolist()[0] for window in windows] == [
        [0, 1], None, [2, 3], [4, 5]]


def grid_of(rows: list[tuple[int, int]], size: int, num_revised: int) -> WindowGrid:
    """A grid of rows of (first, count)."""
    spans = [Span(first, size, count) for first, count in rows]
    stops = [first + size * count for first, count in rows]
    return WindowGrid.of(spans, torch.tensor(stops), max(stops), num_revised)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=1, max_size=4),
       size=st.integers(1, 4), num_revised=st.integers(0, 3))
def test_every_position_is_passed_once_in_order_and_bounds_hold_for_all_rows(
        rows: list[tuple[int, int]], size: int, num_revised: int) -> None:
    grid = grid_of(rows, size, num_revised)
    passed: list[list[int]] = [[] for _ in rows]
    for index in range(max(count for _, count in rows)):
        window = grid.window(index)
        assert window.padded == (len(set(rows)) > 1)
        for row, (first, count) in enumerate(rows):
            if count <= index:
                continue  # such rows have left the batch
            query = window.query_BQ[row].tolist()
            begin, end = first + index * size, first + (index + 1) * size
            assert query == list(range(max(begin - num_revised * size, first), end))
            if window.before_BP is not None:
                passed[row] += [position for position in window.before_BP[row].tolist() if position < grid.length]
            assert passed[row] == list(range(query[0])), "what precedes the open windows, each once"
            assert window.earliest <= begin <= window.begin
            assert end <= window.reach <= grid.length
            assert int(window.stop_B[row]) == first + size * count


@settings(deadline=None)
@given(first=st.integers(0, 6), count=st.integers(1, 5), size=st.integers(1, 4), num_revised=st.integers(0, 3))
def test_the_windows_of_a_row_do_not_depend_on_its_batch(first: int, count: int, size: int, num_revised: int) -> None:
    alone, batch = (grid_of(rows, size, num_revised) for rows in ([(first, count)], [(first, count), (6, 5), (0, 1)]))
    for index in range(count):
        query, other = alone.window(index).query_BQ[0].tolist(), batch.window(index).query_BQ[0].tolist()
        assert query == [position for position in other if position < first + size * count]


def test_rows_that_leave_take_nothing_with_them() -> None:
    grid = grid_of([(0, 3), (2, 1), (4, 2)], size=2, num_revised=1)
    kept = grid.rows(torch.tensor([0, 2]), [0, 2])
    assert kept.counts == (3, 2)
    assert kept.window(1).query_BQ.tolist() == [grid.window(1).query_BQ[row].tolist() for row in (0, 2)]
    assert kept.window(1).stop_B.tolist() == [6, 8]


@pytest.mark.parametrize("num_revised", [0, 1, 2])
def test_only_windows_that_are_still_open_are_revised(num_revised: int) -> None:
    """Over a decode in which edits abound: a block changes last while it is among the open ones, and does change."""
    oldest_edited = 0
    for seed in range(4):
        decoder = Decoder(GridBlocks(4, num_revised), Unbounded(), Greedy(), TokenEditing(0.3, 0.3, 4), Recompute())
        requests = [Request.completing([1, 2, 3, 4, 5], 15, mask_id=MASK_ID), Request([MASK_ID] * 12)]
        held = [torch.tensor(request.tokens) for request in requests]
        for taken in run(decoder, random_model(BlockCausal(4), seed), requests).steps:
            for place, row in enumerate(taken.rows):
                current = requests[row].start // 4 + taken.window.index
                tokens = taken.tokens_BS[place, : len(held[row])]
                ages = [current - int(position) // 4 for position in (tokens != held[row]).nonzero()]
                assert all(0 <= age <= num_revised for age in ages)
                oldest_edited = max([oldest_edited, *ages])
                held[row] = tokens
        assert held[0][:5].tolist() == [1, 2, 3, 4, 5]
    assert oldest_edited == num_revised


def test_revised_windows_are_for_any_cache_that_feeds_them_again() -> None:
    for cache in (Recompute(), BlockCausalCache()):
        Decoder(GridBlocks(4, num_revised=3), Unbounded(), Greedy(), TokenEditing(0.9, 0.9), cache)


@pytest.mark.parametrize("kind", [Blocks, GridBlocks])
def test_a_bad_size_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="size=0"):
        kind(0)


def test_a_bad_number_of_revised_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="num_revised=-1"):
        GridBlocks(4, num_revised=-1)
