"""A kernel that may choose its tile, among them one that is wrong, one that is refused, and one that kills its process;
and clocks by which one tile is the fastest."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from quicksilver.experiments.kernel_bench.tile_timing import Trial
from quicksilver.kernels.case import Case, Cost
from quicksilver.kernels.rms_norm import reference, rms_norm
from quicksilver.kernels.tile_table import Bucket, TileChoice
from torch import Tensor


@dataclass(frozen=True)
class Square:
    """A tile; of side 2 it is wrong, of 3 refused, of 5 fatal."""

    side: int


SHIPPED, WRONG, REFUSED, RIGHT, FATAL, LUCKY = (Square(side) for side in (1, 2, 3, 4, 5, 6))
SQUARES = TileChoice("planted_squares", (
    Bucket(8, SHIPPED, (SHIPPED, WRONG, REFUSED, RIGHT, FATAL, LUCKY)), Bucket(float("inf"), RIGHT, (SHIPPED, RIGHT))))


@dataclass(frozen=True)
class SquareCase(Case):
    """Rows normed, by any tile that is right."""

    rows: int

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.randn(self.rows, 8, dtype=dtype, device=device), torch.randn(8, dtype=dtype, device=device)

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        tile = SQUARES.tile(self.rows, x.device)
        if tile == REFUSED:
            raise ValueError("out of shared memory")
        if tile == FATAL:
            os._exit(9)
        return rms_norm(x, weight, 1e-5) * (1.1 if tile == WRONG else 1.0)

    def reference(self, x: Tensor, weight: Tensor) -> Tensor:
        return reference(x, weight, 1e-5)

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(64)


def microseconds(trial: Trial, tiles: Sequence[Any], device_name: str, num_rounds: int) -> dict[str, Any]:
    """Side 4 takes 8, what is wrong would take 1, and side 6 takes 7 where many are timed, and 12 alone."""
    steady = {1: 10.0, 2: 1.0, 4: 8.0, 6: 7.0 if len(tiles) > 2 else 12.0}
    return {"hardware": {}, "num_input_sets": 4, "samples_us": [
        [steady[tile.side] * (1 + 0.01 * number) for number in range(num_rounds)] for tile in tiles]}


def microseconds_without_luck(trial: Trial, tiles: Sequence[Any], device_name: str, num_rounds: int) -> dict[str, Any]:
    """The same, but for side 6, which gives another result after timing."""
    found = microseconds(trial, tiles, device_name, num_rounds)
    samples = [None if tile == LUCKY else times for tile, times in zip(tiles, found["samples_us"], strict=True)]
    return found | {"samples_us": samples}


def deepest_is_fastest(trial: Trial, tiles: Sequence[Any], device_name: str, num_rounds: int) -> dict[str, Any]:
    """Of a grouped product's tiles."""
    return {"hardware": {}, "num_input_sets": 4, "samples_us": [
        [1000.0 / tile.depth - tile.num_stages + tile.columns / 100] * num_rounds for tile in tiles]}


def fault(trial: Trial, tiles: Sequence[Any], device_name: str, num_rounds: int) -> dict[str, Any]:
    """A fault in the timing itself."""
    os._exit(7)
