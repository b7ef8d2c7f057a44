"""The figure of the frontier: quality against tokens per second."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..harness.style import BLUE, GREEN, GREY, LINES, MARKS, ORANGE, OTHER_MARK, VERMILION, own_style, png
from ..study.rows import Row, is_collapsed

_MARKS = MARKS | {"confident": (BLUE, "o"), "margin": (ORANGE, "s"), "random": (VERMILION, "^"),
                  "threshold": (GREEN, "D"), "collapsed": (GREY, "x")}
_FILLS = ("full", "none", "left")
_PANEL_INCHES = (4.6, 3.6)


@own_style()
def frontier(rows: Sequence[Row], sources: Sequence[str], batch_size: int) -> bytes:
    """A PNG with one panel per task: share of right answers against answer tokens per second at one batch size."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    columns = min(2, len(tasks))
    lines = -(-len(tasks) // columns)
    width = 7.6 if columns == 1 else _PANEL_INCHES[0] * columns + 0.8
    figure = Figure(figsize=(width, _PANEL_INCHES[1] * lines + 0.8), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    for axes, task in zip(grid.flat, tasks, strict=False):
        axes.set_title(f"{task}, batch {batch_size}", fontsize=10)
        _panel(axes, [row for row in rows if row.task == task and row.batch_size == batch_size])
    return png(figure, sources, legend_columns=2 if columns == 1 else 5)


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    samplers = list(dict.fromkeys(row.sampler for row in rows))
    series: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        kind = row.order.split()[0] if row.family == "diffusion" else row.family
        series.setdefault(("collapsed" if is_collapsed(row.text) else kind, row.sampler), []).append(row)
    for (kind, sampler), members in series.items():
        is_reference = kind == "autoregressive"
        colour, marker = _MARKS.get(kind, OTHER_MARK)
        members = sorted(members, key=lambda row: row.tokens_per_second)
        speed = [row.tokens_per_second for row in members]
        share = [100 * row.share for row in members]
        below = [100 * max(0.0, row.share - row.interval[0]) for row in members]
        above = [100 * max(0.0, row.interval[1] - row.share) for row in members]
        label = kind if sampler == "greedy" or kind == "collapsed" else f"{kind}, {sampler}"
        is_line = not is_reference and kind != "collapsed"
        axes.errorbar(speed, share, yerr=(below, above), color=colour, marker=marker,
                      markersize=15 if is_reference else 5.5, linewidth=1.2, elinewidth=0.9,
                      linestyle=LINES[samplers.index(sampler) % len(LINES)] if is_line else "none",
                      fillstyle=_FILLS[samplers.index(sampler) % len(_FILLS)], zorder=4 if is_reference else 3,
                      label=f"{label} (numbers: steps)" if kind == "confident" else label)
        if kind == "confident":
            for row in members:
                axes.annotate(str(row.steps), (row.tokens_per_second, 100 * row.share), xytext=(5, 3),
                              textcoords="offset points", fontsize=8, color=colour, zorder=5,
                              path_effects=[withStroke(linewidth=2, foreground="white")])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{speed:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-4, 110)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlabel("answer tokens per second", fontsize=9)
    axes.set_ylabel("right answers, % (95 % interval)" if not rows or not rows[0].text else "valid lines, %",
                    fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)
