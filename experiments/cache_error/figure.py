"""The figure of cache errors: per task KL and argmax flips by step, and KL by layer."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from ..harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, own_style, png
from .rows import EXACT_NATS, CacheRow, StepRow

_STYLES = {"recompute": (GREY, ""), "prefix": (BLUE, "o"), "dual": (VERMILION, "s"),
           "vicinity": (GREEN, "^"), "delayed": (PURPLE, "D"), "block_causal": (SKY, "v"),
           "block_causal_apart": (ORANGE, "P"), "append": (BLACK, "X")}
_OTHER = ("#F0E442", "<")
_ZERO_LINE = "recompute"
FEW_POSITIONS = 20
"""Below this number of masked positions a marker is hollow."""


@own_style()
def cache_error(rows: Sequence[CacheRow], sources: Sequence[str]) -> bytes:
    """A PNG with a column of three panels per task; the rows of a task have one number of steps."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure = Figure(figsize=(max(2.75 * len(tasks) + 0.4, 5.5), 8.4), layout="constrained")
    grid = figure.subplots(3, len(tasks), squeeze=False, sharey="row")
    for column, task in enumerate(tasks):
        here = [row for row in rows if row.task == task]
        for row in here:
            number = range(1, len(row.curve) + 1)
            is_certain = [step.num_eligible >= FEW_POSITIONS for step in row.curve]
            _draw(grid[0][column], row.cache, number, [step.kl for step in row.curve], is_certain)
            _draw(grid[1][column], row.cache, number, [100 * step.flips for step in row.curve], is_certain)
            _draw(grid[2][column], row.cache, range(1, len(row.kl) + 1), row.kl, [True] * len(row.kl))
        grid[0][column].set_title(f"{task}\n{here[0].steps} steps a window", fontsize=9)
        for axes in (grid[0][column], grid[1][column]):
            axes.set_xlabel("step of the decode", fontsize=8.5)
            _mark_windows(axes, here[0].curve)
        grid[2][column].set_xlabel("layer (the last is the answer)", fontsize=8.5)
    for axes in grid.flat:
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(True, linewidth=0.4, alpha=0.5)
    for line in (0, 2):
        grid[line][0].set_yscale("symlog", linthresh=EXACT_NATS, linscale=0.6)
        grid[line][0].yaxis.set_minor_locator(NullLocator())
        grid[line][0].set_ylim(-0.4 * EXACT_NATS, max(2 * grid[line][0].get_ylim()[1], 10 * EXACT_NATS))
    grid[1][0].set_ylim(-1, max(5.0, 1.05 * grid[1][0].get_ylim()[1]))
    grid[0][0].set_ylabel("mean KL(exact || cached), nats", fontsize=8.5)
    grid[1][0].set_ylabel("argmax flips, % of eligible positions", fontsize=8.5)
    grid[2][0].set_ylabel("mean KL over all steps, nats", fontsize=8.5)
    return png(figure, sources, legend_columns=5)


def _draw(axes: Axes, cache: str, x: Sequence[int], y: Sequence[float], is_certain: Sequence[bool]) -> None:
    """A line with markers, hollow where they average few positions."""
    is_zero_line = cache == _ZERO_LINE
    colour, marker = _STYLES.get(cache, _OTHER)
    label = f"{cache} (zero line)" if is_zero_line else cache
    axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=3 if is_zero_line else 1.2,
              zorder=2 if is_zero_line else 3, label=label)
    few = [place for place, enough in enumerate(is_certain) if not enough]
    if few and not is_zero_line:
        axes.plot([x[place] for place in few], [y[place] for place in few], color=colour, marker=marker, markersize=4,
                  markerfacecolor="white", linestyle="none", zorder=4)


def _mark_windows(axes: Axes, curve: Sequence[StepRow]) -> None:
    """A dotted line where the next window begins."""
    for number, (before, after) in enumerate(pairwise(curve), start=1):
        if after.window != before.window:
            axes.axvline(number + 0.5, color="#666666", linewidth=0.8, linestyle=":", zorder=1)
