"""The figure of sparse activation under parallel decoding: experts touched, tokens to break even, mitigations."""

from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from ..harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, own_style, png
from .rows import Estimate, MitigationRow, UnionRow

_BATCH_COLOURS = (BLUE, GREEN, PURPLE, ORANGE)
_OTHER_COLOURS = ("#882255", "#999933", "#44AA99")
_UNIFORM, _DENSE_TIME, _TIME, _ONE = BLACK, GREY, VERMILION, BLACK
_NEAR = 0.06  # of an axis: closer markers share a label
_MARKERS = {"dual": "o", "delayed": "s"}


@own_style()
def expert_union(unions: Sequence[UnionRow], mitigations: Sequence[MitigationRow], router: str,
                 sources: Sequence[str]) -> bytes:
    """A PNG with three panels per task, for the trained model with this router: the share of experts that a forward
    touches, the tokens it must yield to break even with autoregression, and an answer's bytes and quality under
    mitigations."""
    tasks = list(dict.fromkeys(row.task for row in unions))
    figure = Figure(figsize=(13.2, 5.3 * len(tasks)), layout="constrained")
    grid = figure.subplots(len(tasks), 3, squeeze=False)
    for (touched, even, won), task in zip(grid, tasks, strict=True):
        here = [row for row in unions if row.task == task]
        _touched(touched, [row for row in here if row.router == router])
        _other_routers(touched, [row for row in here if row.router != router and row.share is not None])
        _legend(touched)
        _break_even(even, [row for row in here if row.state == 1 and row.family != "autoregressive"], router)
        _won_back(won, [row for row in mitigations if row.task == task])
        touched.set_title(f"{task}: a wider step touches more experts\n({router})", fontsize=9.5)
        even.set_title("so it must yield more tokens\nto equal autoregression at the same batch", fontsize=9.5)
        won.set_title("what wins it back, and its cost\n(left is better, up is better)", fontsize=9.5)
    return png(figure, sources, legend_columns=None)


def _line(axes: Axes, rows: Sequence[UnionRow], values: Sequence[Estimate | None], **style: object) -> None:
    kept = [(row.width, value) for row, value in zip(rows, values, strict=True) if value is not None]
    axes.errorbar([width for width, _ in kept], [value.mean for _, value in kept],
                  yerr=[value.half_width or 0 for _, value in kept], elinewidth=0.9, linewidth=1.3, markersize=4.5,
                  **style)  # pyright: ignore[reportArgumentType]


def _touched(axes: Axes, rows: Sequence[UnionRow]) -> None:
    trained = [row for row in rows if row.state == 1 and row.family != "autoregressive"]
    for colour, batch_size in zip(cycle(_BATCH_COLOURS), sorted({row.batch_size for row in trained})):
        here = [row for row in trained if row.batch_size == batch_size]
        _line(axes, here, [row.share for row in here], color=colour, marker="o", label=f"trained, batch {batch_size}")
        axes.plot([row.width for row in here], [(row.uniform or 0) / (row.num_experts or 1) for row in here],
                  color=colour, linewidth=0.9, linestyle=":")
    axes.plot([], [], color=_UNIFORM, linewidth=0.9, linestyle=":", label="uniform choices at the same batch")
    untrained = [row for row in rows if row.state == 0 and row.family != "autoregressive" and row.batch_size == 1]
    _line(axes, untrained, [row.share for row in untrained], color=_BATCH_COLOURS[0], marker="x", linestyle="--",
          label="untrained, batch 1")
    next_token = [row for row in rows if row.state == 1 and row.family == "autoregressive" and row.batch_size == 1]
    _line(axes, next_token, [row.share for row in next_token], color=_UNIFORM, marker="*", linestyle="none",
          label="autoregressive, batch 1")
    _widths(axes, [row.width for row in rows])
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_ylabel("experts that a forward touches, of all", fontsize=8.5)


def _other_routers(axes: Axes, rows: Sequence[UnionRow]) -> None:
    """The other routers, trained, at batch 1."""
    for colour, router in zip(cycle(_OTHER_COLOURS), dict.fromkeys(row.router for row in rows)):
        here = [row for row in rows if (row.router, row.state, row.batch_size) == (router, 1, 1)
                and row.family != "autoregressive"]
        _line(axes, here, [row.share for row in here], color=colour, marker="v", linestyle="-.",
              label=f"{router}, batch 1")


def _break_even(axes: Axes, rows: Sequence[UnionRow], router: str) -> None:
    for kind, name, line, time in (("dense", "dense", ":", _DENSE_TIME), ("experts", router, "-", _TIME)):
        here = [row for row in rows if row.router == name]
        for colour, batch_size in zip(cycle(_BATCH_COLOURS), sorted({row.batch_size for row in here})):
            batch = [row for row in here if row.batch_size == batch_size]
            _line(axes, batch, [row.bytes_ratio for row in batch], color=colour, marker="o", linestyle=line,
                  label=f"{kind}, batch {batch_size}: by bytes")
            if batch_size == 1:
                _line(axes, batch, [row.time_ratio for row in batch], color=time, marker="^", linestyle="--",
                      label=f"{kind}, batch 1: by time on this machine")
    widths = sorted({row.width for row in rows})
    axes.plot(widths, widths, color=_ONE, linewidth=0.8, linestyle="-.", label="as many as its positions")
    _widths(axes, widths)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel("tokens a forward must yield", fontsize=8.5)
    _legend(axes)


def _won_back(axes: Axes, rows: Sequence[MitigationRow]) -> None:
    drawn = [(row, row.answer_bytes) for row in rows if row.answer_bytes is not None]
    for row, read in drawn:
        low, high = (max(0.0, 100 * abs(bound - row.share)) for bound in row.interval)
        axes.errorbar(read.mean, 100 * row.share, yerr=[[low], [high]], xerr=read.half_width or 0,
                      marker=_MARKERS.get(row.cache, "v"),
                      color=_UNIFORM if row.is_usual else _BATCH_COLOURS[row.cache == "delayed"],
                      markersize=7 if row.is_usual else 5, elinewidth=0.8,
                      label=f"{row.cache} cache, {'usual' if row.is_usual else 'changed'}")
    axes.axvline(1, color=_ONE, linewidth=0.8, linestyle="-.", label="as many as autoregression")
    axes.set_xlabel("bytes an answer reads, times autoregression's", fontsize=8.5)
    axes.set_ylabel("right answers, % (95 % interval)", fontsize=8.5)
    axes.margins(x=0.15, y=0.12)
    axes.tick_params(labelsize=7.5)
    axes.grid(True, linewidth=0.4, alpha=0.5)
    _named(axes, [(read.mean, 100 * row.share, row.mitigation) for row, read in drawn])
    _legend(axes)


def _named(axes: Axes, marks: Sequence[tuple[float, float, str]]) -> None:
    """Labels next to markers; markers close to each other share one label."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    together: list[list[tuple[float, float, str]]] = []
    for mark in sorted(marks):
        near = (group for group in together if abs(group[0][0] - mark[0]) < _NEAR * (right - left)
                and abs(group[0][1] - mark[1]) < _NEAR * (top - bottom))
        found = next(near, None)
        if found is None:
            together.append([mark])
        else:
            found.append(mark)
    for number, group in enumerate(together):
        axes.annotate("\n".join(name for _, _, name in group), max(group)[:2], fontsize=7, textcoords="offset points",
                      xytext=(-5, 4) if number % 2 else (5, 4), ha="right" if number % 2 else "left",
                      zorder=5, path_effects=[withStroke(linewidth=2.5, foreground="white")])


def _legend(axes: Axes) -> None:
    """Below the panel, each label once."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles=list(handles.values()), labels=list(handles), loc="upper center", bbox_to_anchor=(0.5, -0.14),
                ncols=2, frameon=False, fontsize=7.2)


def _widths(axes: Axes, widths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(widths))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step width: positions fed a row", fontsize=8.5)
    axes.tick_params(labelsize=7.5)
    axes.grid(True, linewidth=0.4, alpha=0.5)
