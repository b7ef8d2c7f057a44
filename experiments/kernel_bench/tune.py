"""Tiles tuned on this GPU: python -m quicksilver.experiments experiment=kernel_tune kernel=[moe_experts,...]

Of every bucket of tiles that the kernels' shapes meet, the candidates that agree with the reference are timed in turns.
The fastest is timed again beside the tile that ships, since the best of many samples is lucky too, and enters the GPU's
table (kernels/tiles) where the ratio's interval lies below 1; else what ships stays. The table is written once, when
all buckets are done, and is checked in like code.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...kernels import tile_table
from ...kernels.checks import check_integer, check_real
from ...kernels.dispatch import Implementation, using
from ...kernels.tile_table import TileChoice, observing
from ..harness.experiment import Unavailable, check_folder
from ..harness.json_lines import JsonLines
from ..harness.paired import LEAST_ROUNDS
from .axis import along_axis
from .experiment import KernelCases, items_of
from .stages import Item
from .tile_decisions import Tuner
from .tile_timing import Trial

ROWS = "tune.jsonl"


@dataclass(frozen=True)
class KernelTune:
    """The experiment. It stops `seconds` after its start, and the same command goes on; samples are taken in `rounds`
    turns, on at most `most_cases` of a bucket's. With `axis`, a field of the cases, every shape that has it is taken at
    each of `values` instead."""

    kernels: dict[str, KernelCases]
    seconds: float
    rounds: int
    most_cases: int
    axis: str | None = None
    values: list[int] = field(default_factory=list)

    def check(self) -> None:
        """ValueError for kernels that have no choice of tiles, an axis that no case has, or a folder of tables that
        cannot be written."""
        check_real("seconds", self.seconds, at_least=0)
        check_integer("rounds", self.rounds, at_least=LEAST_ROUNDS)
        check_integer("most_cases", self.most_cases)
        if not self.buckets():
            raise ValueError(f"kernel={list(self.kernels)}: must be of those that have a choice of tiles, as "
                             "moe_experts has")
        check_folder("kernels/tiles", tile_table.FOLDER)

    def items(self) -> list[Item]:
        """The shapes of the kernels that are for GPUs, or those along the axis."""
        found = items_of({name: kernel for name, kernel in self.kernels.items() if kernel.dtypes})
        return found if self.axis is None else along_axis(found, self.axis, self.values)

    def buckets(self) -> list[list[Trial]]:
        """The trials of each bucket, evenly out of all."""
        return [trials[:: -(-len(trials) // self.most_cases)] for trials in trials_of(self.items())]

    def run(self, folder: Path) -> int:
        """Tune this machine's GPU and write its table. Returns the number of buckets that could not be timed."""
        if not torch.cuda.is_available():
            raise Unavailable("there is no GPU to tune for")
        tuner = Tuner("cuda", torch.cuda.get_device_name(), self.rounds, JsonLines(folder / "kernels" / ROWS))
        return tuner.run(self.buckets(), time.monotonic() + self.seconds)


def trials_of(items: Sequence[Item]) -> list[list[Trial]]:
    """A list of trials for each bucket that the items meet, as their launchers choose on tensors without data."""
    found: dict[tuple[TileChoice[Any], int], list[Trial]] = {}
    for item in items:
        inputs = item.case.inputs(getattr(torch, item.dtype), torch.device("meta"))
        with using(Implementation.TRITON), observing() as choices, torch.no_grad():
            item.case.run(*inputs)
        for choice, place in sorted(choices, key=lambda one: (one[0].name, one[1])):
            found.setdefault((choice, place), []).append(Trial(choice, place, item.case, item.dtype))
    return list(found.values())
