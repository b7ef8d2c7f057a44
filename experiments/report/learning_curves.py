"""Figures from rows: quality against tokens per second, and the learning curves. Colours after Okabe and Ito (2008),
which the colour-blind can tell apart; shapes differ as well."""

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..harness.records import Json
from ..study.conditions import refuse_mixed
from ..study.rows import Row, is_collapsed

_STYLES = {"autoregressive": ("#000000", "*"), "confident": ("#0072B2", "o"), "margin": ("#E69F00", "s"),
           "random": ("#D55E00", "^"), "threshold": ("#009E73", "D"), "collapsed": ("#888888", "x"),
           "masked diffusion": ("#0072B2", "o"), "block diffusion": ("#CC79A7", "v")}
_OTHER = ("#56B4E9", "v")
_LINES = ("-", "--", ":")
_FILLS = ("full", "none", "left")
_FAMILIES = {"AutoregressiveNLL": "autoregressive", "MaskedDiffusion": "masked diffusion",
             "BlockDiffusion": "block diffusion"}
_WARNING = "#D55E00"
_PANEL_INCHES = (4.6, 3.6)
_DOTS_PER_INCH = 130


@contextmanager
def own_style() -> Iterator[None]:
    """Draw as matplotlib does by default, whatever the user's style is: a figure is a file that others look at."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@own_style()
def frontier(rows: Sequence[Row], sources: Sequence[str], batch_size: int) -> bytes:
    """A PNG with one panel a task: share of right answers against answer tokens per second at one batch size."""
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
        colour, marker = _STYLES.get(kind, _OTHER)
        members = sorted(members, key=lambda row: row.tokens_per_second)
        speed = [row.tokens_per_second for row in members]
        share = [100 * row.share for row in members]
        below = [100 * max(0.0, row.share - row.interval[0]) for row in members]
        above = [100 * max(0.0, row.interval[1] - row.share) for row in members]
        label = kind if sampler == "greedy" or kind == "collapsed" else f"{kind}, {sampler}"
        is_line = not is_reference and kind != "collapsed"
        axes.errorbar(speed, share, yerr=(below, above), color=colour, marker=marker,
                      markersize=15 if is_reference else 5.5, linewidth=1.2, elinewidth=0.9,
                      linestyle=_LINES[samplers.index(sampler) % len(_LINES)] if is_line else "none",
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


@own_style()
def learning_curves(training: Sequence[Json], sources: Sequence[str]) -> bytes:
    """A PNG with one panel a task: the share of right answers against seconds of training, at equal examples.
    ValueError if the records are of several conditions."""
    refuse_mixed(training)
    by_task: dict[str, list[Json]] = {}
    for record in training:
        if "failed" not in record["result"]:
            by_task.setdefault(record["point"]["name"], []).append(record)
    columns = max(1, min(4, len(by_task)))
    lines = max(1, -(-len(by_task) // columns))
    figure = Figure(figsize=(max(2.9 * columns + 0.5, 4.8), 2.7 * lines + 0.9), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(by_task) :]:
        axes.set_visible(False)
    for axes, (task, records) in zip(grid.flat, by_task.items(), strict=False):
        for record in records:
            family = family_of(record["point"])
            colour, marker = _STYLES.get(family, _OTHER)
            curve = record["result"]["curve"]
            has_experts = record["point"]["recipe"]["shape"].get("experts") is not None
            axes.plot([point["seconds"] for point in curve], [100 * point["right"] for point in curve], color=colour,
                      marker=marker, markersize=8 if marker == "*" else 5, linewidth=1.2,
                      linestyle=_LINES[has_experts], label=f"{family}, experts" if has_experts else family)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("seconds of training", fontsize=9)
        axes.set_ylim(-4, 104)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=8)
        axes.grid(True, linewidth=0.4, alpha=0.5)
    grid[0][0].set_ylabel("right answers, %", fontsize=9)
    return png(figure, sources, legend_columns=2)


def family_of(point: Mapping) -> str:
    """A training point's family, in words."""
    kind: str = point["recipe"]["objective"]["kind"]
    return _FAMILIES.get(kind, kind)


def _legend(figure: Figure, most_columns: int) -> None:
    """Each label once, above the panels, in as many columns as the figure is wide."""
    handles = {handle.get_label(): handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]}
    for columns in range(most_columns, 0, -1):
        legend = figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=columns, frameon=False,
                               fontsize=9)
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def png(figure: Figure, sources: Sequence[str], legend_columns: int | None) -> bytes:
    """The figure with one legend in at most so many columns (None: its panels have their own), and below it its
    sources, which say so when they are more than one."""
    figure.set_dpi(_DOTS_PER_INCH)
    if legend_columns is not None:
        _legend(figure, legend_columns)
    mixed = len(sources) > 1
    lines = ("MIXED SOURCES, times must not be compared:", *sources) if mixed else sources
    characters = int(17 * figure.get_figwidth())
    text = "\n".join(part for line in lines for part in textwrap.wrap(line, characters))
    figure.supxlabel(text, fontsize=6.5, color=_WARNING if mixed else "#555555")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # draws once; savefig would lay out and draw twice
    return buffer.getvalue()
