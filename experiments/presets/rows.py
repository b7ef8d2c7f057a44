"""Every decoder at autoregression's quality: one row per decoder, one cell per task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..study.rows import EqualQuality, Row, equal_quality, numbered


@dataclass(frozen=True)
class Cell:
    """A decoder on a task: its fastest setting as good as autoregression, if any, and its best setting."""

    compared: EqualQuality
    best: Row

    @property
    def shown(self) -> Row:
        """The setting shown: the fastest at equal quality, else the best."""
        return self.best if self.compared.fastest is None else self.compared.fastest

    @property
    def text(self) -> str:
        """The cell's text: speed-up and quality at equal quality, else the best quality."""
        fastest = self.compared.fastest
        if fastest is None:
            verdict = "no reference" if self.compared.reference_fails else "none"
            return f"{verdict}; best {100 * self.best.share:.1f} %{_in_steps(self.best)}, {self.best.speed_up:.2f}x"
        return f"{fastest.speed_up:.2f}x; {100 * fastest.share:.1f} %{_in_steps(fastest)}"


@dataclass(frozen=True)
class DecoderTable:
    """All decoders at one batch size, sorted by name: a cell for each of `tasks`, None where one was not measured."""

    batch_size: int
    tasks: Sequence[str]
    references: Sequence[Row]
    cells: Mapping[str, Sequence[Cell | None]]

    @property
    def tolerance(self) -> float:
        """The largest tolerance for equal quality over all cells, as a share."""
        return max((cell.compared.tolerance for cells in self.cells.values() for cell in cells if cell is not None),
                   default=0.0)


def decoder_tables(rows: Sequence[Row]) -> list[DecoderTable]:
    """A table per batch size, over the tasks with one right answer and an autoregressive reference."""
    tables = []
    for batch_size in sorted({row.batch_size for row in rows}):
        here = [row for row in rows if row.batch_size == batch_size]
        references = {numbered(row.task, row.number): row for row in here
                      if row.family == "autoregressive" and not row.text}
        decoders = sorted({row.order for row in here if row.family != "autoregressive"})
        cells = {decoder: [_cell(reference, [row for row in here if row.order == decoder])
                           for reference in references.values()] for decoder in decoders}
        tables.append(DecoderTable(batch_size, list(references), list(references.values()), cells))
    return tables


def _cell(reference: Row, settings: Sequence[Row]) -> Cell | None:
    own = [row for row in settings if (row.task, row.reference) == (reference.task, reference.reference)]
    if not own:
        return None
    (compared,) = equal_quality([reference, *own])
    return Cell(compared, max(own, key=lambda row: (row.share, row.speed_up)))


def _in_steps(row: Row) -> str:
    return "" if row.steps is None else f", {row.steps} step{'s' * (row.steps > 1)}"
