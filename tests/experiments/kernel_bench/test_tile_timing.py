"""Tiles taken in turns, on inputs that overflow the cache, and held to their first results."""

from collections import Counter

import pytest
import torch
from quicksilver.experiments.kernel_bench import timing
from quicksilver.experiments.kernel_bench.tile_timing import Trial, samples_of, verdict_of
from quicksilver.kernels.tile_table import TileChoice

from .planted_tiles import RIGHT, SHIPPED, SQUARES, WRONG, Square, SquareCase
from .rehearsal import FakeClock

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
TRIAL = Trial(SQUARES, 0, SquareCase(3), "float32")


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the machine that tests is not asked."""
    monkeypatch.setattr(timing, "cache_bytes", lambda: 0)
    monkeypatch.setattr(timing, "_LEAST_CACHE_BYTES", 192)  # of which a case touches a third


def test_a_verdict_is_of_the_tile_that_is_tried() -> None:
    assert [verdict_of(TRIAL, tile, "cpu")["passed"] for tile in (SHIPPED, WRONG, RIGHT)] == [True, False, True]


def test_every_tile_is_called_on_every_set_of_inputs_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, int]] = []
    tile_of, clock = TileChoice.tile, FakeClock()

    def noted(self: TileChoice, size: float, device: torch.device) -> object:
        tile = tile_of(self, size, device)
        taken.append((tile.side, int(size)))
        return tile

    monkeypatch.setattr(TileChoice, "tile", noted)
    found = samples_of(TRIAL, (SHIPPED, RIGHT), "cpu", 3, clock)
    assert found["samples_us"] == [[8.0] * 3] * 2
    assert clock.replays == [found["num_input_sets"]] * 2 == [6, 6]
    before, after = [(1, 3), (4, 3)], [(1, 3), (4, 3)]
    forwards = [(1, 3)] * 6 + [(4, 3)] * 6
    assert taken == before + forwards + forwards[::-1] + forwards + after


def test_a_tile_with_another_result_after_timing_has_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    run, num_calls = SquareCase.run, Counter[Square]()

    def forgetful(self: SquareCase, *arguments: torch.Tensor) -> torch.Tensor:
        tile = SQUARES.tile(self.rows, torch.device("cpu"))
        num_calls[tile] += 1
        return run(self, *arguments) * (1.1 if tile == RIGHT and num_calls[tile] > 5 else 1.0)

    monkeypatch.setattr(SquareCase, "run", forgetful)
    found = samples_of(TRIAL, (SHIPPED, RIGHT), "cpu", 2, FakeClock())
    assert found["samples_us"] == [[8.0, 8.0], None]
