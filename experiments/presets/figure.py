"""The figure of all decoders: speed-up over autoregression, at equal quality where reached."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..harness.style import BLUE, VERMILION, own_style, png
from .rows import DecoderTable

_EQUAL, _WORSE, _LINE = BLUE, "#999999", VERMILION


@own_style()
def decoders(table: DecoderTable, sources: Sequence[str]) -> bytes:
    """A PNG with a panel per task and a line per decoder, in the table's order."""
    names = list(table.cells)
    figure = Figure(figsize=(2.6 * len(table.tasks) + 2.2, 0.2 * len(names) + 1.6), layout="constrained")
    panels = figure.subplots(1, len(table.tasks), squeeze=False, sharey=True)[0]
    for column, (axes, task, reference) in enumerate(zip(panels, table.tasks, table.references, strict=True)):
        cells = [(line, cells[column]) for line, cells in enumerate(table.cells.values())]
        equal = [(line, cell) for line, cell in cells if cell is not None and cell.compared.fastest is not None]
        worse = [(line, cell) for line, cell in cells if cell is not None and cell.compared.fastest is None]
        axes.axvline(1, color=_LINE, linewidth=1.2, zorder=1, label="autoregression's speed")
        for members, colour, marker, label in (
                (equal, _EQUAL, "o", "fastest setting at equal quality"),
                (worse, _WORSE, "x", "no setting is as good: the best one")):
            axes.plot([cell.shown.speed_up for _, cell in members], [line for line, _ in members], color=colour,
                      marker=marker, markersize=5, linestyle="none", label=label, zorder=3)
            for line, cell in members:
                axes.annotate(f"{100 * cell.shown.share:.0f}", (1, line), xycoords=("axes fraction", "data"),
                              xytext=(-3, 0), textcoords="offset points", fontsize=6.5, color=colour, ha="right",
                              va="center")
        axes.set_title(f"{task}, batch {table.batch_size}\n(autoregression {100 * reference.share:.0f} % right)",
                       fontsize=9)
        axes.set_xscale("log")
        axes.margins(x=0.16)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=7.5)
        axes.grid(True, axis="both", linewidth=0.4, alpha=0.5)
        axes.set_xlabel("speed-up; at the right: % right", fontsize=8)
    panels[0].set_yticks(range(len(names)), names, fontsize=7.5)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    return png(figure, sources, legend_columns=min(3, len(table.tasks)))
