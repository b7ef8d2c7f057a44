"""What the report says of the presets: figures, tables, sentences."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from .analysis import Json, Row, rows
from .decoder_table import Cell, DecoderTable, decoder_tables
from .decoders_figure import decoders
from .report_section import Section


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The section of these records of presets."""
    settings = rows(records)
    tables = decoder_tables(settings)
    images = {"decoders.png" if number == 0 else f"decoders_batch{table.batch_size}.png": decoders(table, sources)
              for number, table in enumerate(tables) if table.cells}
    values: Json = {"tables": tables, "settings": settings}
    return Section("Decoder presets", "decoders.html.j2", values, images, list(_findings(tables)), _shown(tables))


def _findings(tables: Sequence[DecoderTable]) -> Iterator[str]:
    for table in tables:
        for column, task in enumerate(table.tasks):
            cells = {name: cells[column] for name, cells in table.cells.items()}
            equal = {name: cell.shown for name, cell in cells.items()
                     if cell is not None and cell.compared.fastest is not None}
            if not equal:
                yield f"{task}, batch {table.batch_size}: no preset is as good as autoregression."
                continue
            faster = sum(row.speed_up > 1 for row in equal.values())
            name, row = max(equal.items(), key=lambda item: item[1].speed_up)
            yield (f"{task}, batch {table.batch_size}: {len(equal)} of {_measured(cells)} presets are as good as "
                   f"autoregression, {faster} of them faster; {name} ({_setting(row)}) most, "
                   f"{row.speed_up:.1f} times.")


def _measured(cells: dict[str, Cell | None]) -> int:
    return sum(cell is not None for cell in cells.values())


def _setting(row: Row) -> str:
    return f"{100 * row.share:.1f} %" + ("" if row.steps is None else f", {row.steps} steps")


def _shown(tables: Sequence[DecoderTable]) -> Table:
    shown = Table("batch", "decoder", title="decoders at autoregression's quality", title_justify="left", box=None,
                  header_style="bold")
    for task in dict.fromkeys(task for table in tables for task in table.tasks):
        shown.add_column(task)
    for table in tables:
        for name, cells in table.cells.items():
            shown.add_row(str(table.batch_size), name, *("-" if cell is None else cell.text for cell in cells))
    return shown
