"""Verifies and times the tiles that a launcher may take. Runs in a separate process, so that a tile that cannot be
compiled, or a fault, costs that tile alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ...kernels.case import Case
from ...kernels.dispatch import Implementation, using
from ...kernels.tile_table import Bucket, TileChoice, trying
from ..harness.gpu_clocks import ramp
from ..harness.paired import interleaved
from ..harness.records import Json
from .timing import Clock, CudaClock, cold_sets
from .verify import TOLERANCES, compared, copied, outputs, verdict


@dataclass(frozen=True)
class Trial:
    """A bucket of a choice, on one case with inputs of one type."""

    choice: TileChoice[Any]
    place: int
    case: Case
    dtype: str

    @property
    def bucket(self) -> Bucket[Any]:
        return self.choice.buckets[self.place]

    def run(self, tile: Any, arguments: tuple[Any, ...]) -> Any:
        """The case's result with this tile."""
        with trying(self.choice, self.place, tile):
            return self.case.run(*arguments)


def verdict_of(trial: Trial, tile: Any, device_name: str) -> Json:
    """Whether the kernel agrees with its reference where it takes this tile."""
    with trying(trial.choice, trial.place, tile):
        return verdict(trial.case, trial.dtype, device_name)


def samples_of(trial: Trial, tiles: Sequence[Any], device_name: str, num_rounds: int, clock: Clock | None = None
               ) -> Json:
    """Of each tile, microseconds a call in each of the rounds, taken in turns: on inputs that overflow the cache where
    they fit the memory. None for a tile with another result afterwards."""
    device, dtype, clock = torch.device(device_name), getattr(torch, trial.dtype), clock or CudaClock()
    hardware = ramp(device)
    with using(Implementation.TRITON), torch.no_grad():
        inputs = [trial.case.inputs(dtype, device)]
        num_sets, too_many = cold_sets(trial.case, inputs[0], dtype)
        if too_many is None:
            inputs += [trial.case.inputs(dtype, device) for _ in range(num_sets - 1)]
        before = [outputs(trial.run(tile, copied(inputs[0]))) for tile in tiles]
        samples = interleaved([clock.sampler(_calls(trial, tile, inputs)) for tile in tiles], num_rounds)
        kept = [compared(outputs(trial.run(tile, copied(inputs[0]))), expected)
                for tile, expected in zip(tiles, before, strict=True)]
    return {"hardware": hardware, "num_input_sets": len(inputs), "samples_us": [
        times if error <= TOLERANCES[trial.dtype] and not num_differ else None
        for times, (error, num_differ) in zip(samples, kept, strict=True)]}


def _calls(trial: Trial, tile: Any, inputs: Sequence[tuple[Any, ...]]) -> list[Callable[[], Any]]:
    return [partial(trial.run, tile, arguments) for arguments in inputs]
