"""The report's section on presets: figures, tables, sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from ..harness.records import Json
from ..report.section import Section, listed
from ..study.rows import Row, rows
from .figure import decoders
from .rows import DecoderTable, decoder_tables

KIND = "PresetPoint"
KINDS = {KIND: "decode"}


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records of presets."""
    settings = rows(records)
    tables = decoder_tables(settings)
    images = {"decoders.png" if number == 0 else f"decoders_batch{table.batch_size}.png": decoders(table, sources)
              for number, table in enumerate(tables) if table.cells}
    summary = _summary(tables)
    values: Json = {"tables": tables, "summary": summary, "settings": settings}
    return Section("Decoder presets", "presets/section.html.j2", values, images, list(_findings(summary)),
                   _shown(tables))


@dataclass(frozen=True)
class Summary:
    """One task at one batch size: the number of presets measured, as good as autoregression, and also faster; the
    fastest of equal quality with its name (None if there is none). None is compared where the reference fails."""

    task: str
    batch_size: int
    reference_fails: bool
    num_measured: int
    num_equal: int
    num_faster: int
    fastest: tuple[str, Row] | None


def _summary(tables: Sequence[DecoderTable]) -> list[Summary]:
    """By task, then batch size."""
    found = []
    for table in tables:
        for column, task in enumerate(table.tasks):
            cells = {name: cells[column] for name, cells in table.cells.items()}
            measured = {name: cell for name, cell in cells.items() if cell is not None}
            equal = {name: cell.shown for name, cell in measured.items() if cell.compared.fastest is not None}
            fails = any(cell.compared.reference_fails for cell in measured.values())
            found.append(Summary(task, table.batch_size, fails, len(measured), len(equal),
                                 sum(row.speed_up > 1 for row in equal.values()),
                                 max(equal.items(), key=lambda item: item[1].speed_up, default=None)))
    return sorted(found, key=lambda line: (line.task, line.batch_size))


def _findings(summary: Sequence[Summary]) -> Iterator[str]:
    """Sentences over all tasks and batch sizes; the table has the details."""
    compared = [line for line in summary if not line.reference_fails]
    some, none = ([line for line in compared if (line.num_equal > 0) is wanted] for wanted in (True, False))
    if some:
        yield (f"Presets as good as autoregression: {_range([line.num_equal for line in some])} of "
               f"{_range([line.num_measured for line in some])} on {listed(_tasks(some))}; faster as well: "
               + listed([f"{_range([line.num_faster for line in some if line.batch_size == batch_size])} at batch "
                         f"{batch_size}" for batch_size in sorted({line.batch_size for line in some})]) + ".")
    if failed := _tasks([line for line in summary if line.reference_fails]):
        yield f"{listed(failed)}: autoregression solves under 5 %, too little to compare presets with."
    for task in _tasks(none):
        sizes = [line.batch_size for line in none if line.task == task]
        yield f"{task}: no preset is as good as autoregression at batch {listed(sizes)}."


def _tasks(lines: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(line.task for line in lines))


def _range(counts: Sequence[int]) -> str:
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _shown(tables: Sequence[DecoderTable]) -> Table:
    shown = Table("batch", "decoder", title="decoders at autoregression's quality", title_justify="left", box=None,
                  header_style="bold")
    for task in dict.fromkeys(task for table in tables for task in table.tasks):
        shown.add_column(task)
    for table in tables:
        for name, cells in table.cells.items():
            shown.add_row(str(table.batch_size), name, *("-" if cell is None else cell.text for cell in cells))
    return shown
