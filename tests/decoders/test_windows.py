"""Where windows lie."""

import pytest
import torch
from quicksilver.decoders import Blocks, GridBlocks, Whole
from quicksilver.decoders.windows import Span, WindowGrid


def test_whole_is_one_window() -> None:
    assert Whole().span(3, 10) == Span(3, 7, 1)


def test_blocks_count_from_the_completion_and_grid_blocks_from_the_row() -> None:
    assert Blocks(4).span(3, 11) == Span(3, 4, 2)
    assert GridBlocks(4).span(3, 12) == Span(0, 4, 3)
    assert GridBlocks(4).span(4, 12) == Span(4, 4, 2)


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


@pytest.mark.parametrize("kind", [Blocks, GridBlocks])
def test_a_bad_size_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match="size=0"):
        kind(0)
