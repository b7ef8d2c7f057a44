"""The figure of parallel commits: per task bound and gap, and the share of right answers, by number of steps."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..harness.style import BLUE, GREY, ORANGE, VERMILION, own_style, png
from .rows import JointRow

_LINEAR_BELOW = 0.1


@own_style()
def joint_error(rows: Sequence[JointRow], sources: Sequence[str]) -> bytes:
    """A PNG with a column of two panels per task."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure = Figure(figsize=(max(2.75 * len(tasks) + 0.5, 5.5), 6.0), layout="constrained")
    grid = figure.subplots(2, len(tasks), squeeze=False, sharey="row", sharex="col")
    for column, task in enumerate(tasks):
        here = sorted((row for row in rows if row.task == task), key=lambda row: row.steps)
        steps = [row.steps for row in here]
        nats, quality = grid[0][column], grid[1][column]
        nats.axhline(0, color=GREY, linewidth=2.5, zorder=2, label="zero: nothing lost")
        nats.plot(steps, [row.bound for row in here], color=ORANGE, marker="s", markersize=4.5, linewidth=1.2,
                  linestyle="--", label="bound: sum of entropies - largest")
        nats.plot(steps, [row.gap for row in here], color=BLUE, marker="o", markersize=4.5, linewidth=1.2,
                  label="gap: log product - log joint")
        wrong = [row for row in here if row.wrong_gap is not None]
        nats.plot([row.steps for row in wrong], [row.wrong_gap for row in wrong], color=VERMILION, marker="x",
                  markersize=5.5, linestyle="none", zorder=4, label="gap of the wrong answers alone")
        share, low, high = ([100 * value for value in values] for values in (
            [row.share for row in here], [row.share - row.interval[0] for row in here],
            [row.interval[1] - row.share for row in here]))
        quality.errorbar(steps, share, yerr=([max(0.0, value) for value in low], [max(0.0, value) for value in high]),
                         color="#000000", marker="D", markersize=4.5, linewidth=1.2, elinewidth=0.9,
                         label="right answers (95 % interval)")
        nats.set_title(task, fontsize=10)
        quality.set_xlabel("steps a window", fontsize=8.5)
        for axes in (nats, quality):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(steps))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
            axes.tick_params(labelsize=7.5)
            axes.grid(True, linewidth=0.4, alpha=0.5)
    grid[0][0].set_yscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.7)
    grid[0][0].yaxis.set_minor_locator(NullLocator())
    grid[0][0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = grid[0][0].get_ylim()
    grid[0][0].set_ylim(min(low, -_LINEAR_BELOW), max(2 * high, 10 * _LINEAR_BELOW))
    grid[0][0].set_ylabel("nats an item, sum over its commits", fontsize=8.5)
    grid[1][0].set_ylim(-4, 106)
    grid[1][0].set_ylabel("right answers, %", fontsize=8.5)
    return png(figure, sources, legend_columns=3)
