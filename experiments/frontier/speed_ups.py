"""The table of speed-ups: one line per task, one cell per batch size, each with its outcome in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..study.rows import EqualQuality, Row, equal_quality, numbered

FASTER, SLOWER, NONE, FAILS, UNMEASURED = "faster", "slower", "not as good", "not compared", "not measured"


@dataclass(frozen=True)
class SpeedUps:
    """The comparisons of one task with one reference, by batch size. A task has one line per reference."""

    task: str
    cells: Mapping[int, EqualQuality]

    @property
    def outcomes(self) -> Mapping[int, str]:
        """The outcome for diffusion at autoregression's quality, by batch size."""
        return {batch_size: _outcome(cell) for batch_size, cell in self.cells.items()}

    @property
    def has_better(self) -> bool:
        """Whether diffusion's best quality is above autoregression's at some batch size."""
        return any(cell.best_is_better for cell in self.cells.values())


def speed_ups(rows: Sequence[Row]) -> list[SpeedUps]:
    """One line per task with one right answer and autoregressive reference, in the order of the rows."""
    lines: dict[tuple[str, int], dict[int, EqualQuality]] = {}
    for cell in equal_quality(rows):
        number = 1
        while cell.batch_size in lines.get((cell.task, number), {}):
            number += 1
        lines.setdefault((cell.task, number), {})[cell.batch_size] = cell
    return [SpeedUps(numbered(*key), cells) for key, cells in lines.items()]


def _outcome(cell: EqualQuality) -> str:
    if cell.highest is None:
        return UNMEASURED
    if cell.reference_fails:
        return FAILS
    if cell.fastest is None:
        return NONE
    return FASTER if cell.fastest.speed_up > 1 else SLOWER
