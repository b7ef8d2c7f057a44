"""The frontier's section of the report: speed-ups at equal quality, figures, all settings, findings."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table

from ..harness.records import Json
from ..report.section import Section
from ..study.rows import Row, is_collapsed, numbered, rows
from .figure import frontier
from .findings import best_texts, findings
from .speed_ups import speed_ups

KINDS = {"DecodePoint": "decode"}


def section(records: Sequence[Json], sources: Sequence[str]) -> Section:
    """The Section of these records."""
    settings = rows(records)
    images = {"frontier.png" if number == 0 else f"frontier_batch{batch_size}.png":
              frontier(settings, sources, batch_size)
              for number, batch_size in enumerate(sorted({row.batch_size for row in settings}))}
    values: Json = {"rows": settings, "speed_ups": speed_ups(settings), "texts": best_texts(settings),
                    "is_collapsed": is_collapsed}
    shown = Group(*(_table(task, [row for row in settings if row.task == task])
                    for task in dict.fromkeys(row.task for row in settings)))
    return Section("Quality against speed", "frontier/section.html.j2", values, images, findings(settings), shown,
                   summary="frontier/speed_ups.html.j2", details="frontier/settings.html.j2",
                   headline="Masked diffusion against autoregression: tokens per second and quality")


def _table(task: str, rows: Sequence[Row]) -> Table:
    shown = Table("batch", "order", title=task, title_justify="left", box=None, header_style="bold")
    for name in ("steps", "right %", "95 % interval", "tokens/s", "x AR", "forwards", "p50 ms"):
        shown.add_column(name, justify="right")
    for name in rows[0].text:
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        low, high = row.interval
        collapsed = " (collapsed)" if is_collapsed(row.text) else ""
        shown.add_row(str(row.batch_size), numbered(row.order_label, row.number) + collapsed, str(row.steps or "-"),
                      f"{100 * row.share:.1f}", f"{100 * low:.1f}-{100 * high:.1f}",
                      f"{row.tokens_per_second:,.0f}", f"{row.speed_up:.2f}", f"{row.forwards_per_item:.1f}",
                      f"{1e3 * row.latency_p50:.1f}", *(f"{value:.2f}" for value in row.text.values()),
                      style="bold" if row.family == "autoregressive" else "")
    return shown
