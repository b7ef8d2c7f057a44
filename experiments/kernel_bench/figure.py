"""The roofline figure of the kernels: each shape's attainable throughput, its roofline bound and, if measured, its
time."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..harness.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, own_style
from .rows import CLOCKS_AGREE_WITHIN, OURS, TimeRow

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, BLACK)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_BYTES_PER_SECOND, _FLOPS_PER_SECOND = 4.3e12, 790e12
_DOTS_PER_INCH = 130


@own_style()
def roofline(rows: Sequence[TimeRow], sources: Sequence[str], no_times: str | None) -> bytes:
    """A PNG: left the roofline of the kernels with products, right the time of every kernel and its roofline bound."""
    kernels = list(dict.fromkeys(row.kernel for row in rows))
    figure = Figure(figsize=(11.5, max(4.2, 0.34 * len(kernels) + 2.2)), layout="constrained")
    left, right = figure.subplots(1, 2)
    _roof(left, rows, kernels)
    _floors(right, rows, kernels)
    if no_times:
        figure.suptitle(f"Floors only; times {no_times}", fontsize=10, color=VERMILION)
    text = "\n".join(part for line in sources for part in textwrap.wrap(line, 190))
    figure.supxlabel(text, fontsize=6.5, color="#555555")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()


def _style(kernels: Sequence[str], kernel: str) -> tuple[str, str]:
    place = kernels.index(kernel)
    return _COLOURS[place % len(_COLOURS)], _MARKERS[place // len(_COLOURS) % len(_MARKERS)]


def _roof(axes: Axes, rows: Sequence[TimeRow], kernels: Sequence[str]) -> None:
    intensity = np.geomspace(0.5, 4096, 200)
    axes.plot(intensity, np.minimum(intensity * _BYTES_PER_SECOND, _FLOPS_PER_SECOND) / 1e12, color="#333333",
              linewidth=1.2)
    axes.axvline(_FLOPS_PER_SECOND / _BYTES_PER_SECOND, color="#999999", linewidth=0.7, linestyle=":")
    for row in rows:
        if not row.num_flops or row.contender != OURS:
            continue
        colour, marker = _style(kernels, row.kernel)
        place = row.num_flops / row.num_bytes
        axes.plot(place, row.num_flops / row.floor_us / 1e6, marker=marker, color=colour, fillstyle="none",
                  linestyle="none", markersize=6, label=f"{row.kernel}, floor")
        if row.median_us:
            axes.plot(place, row.num_flops / row.median_us / 1e6, marker=marker, color=colour, linestyle="none",
                      markersize=6, label=f"{row.kernel}, measured")
    axes.set(xscale="log", yscale="log", title="Roofline, H200: 4.3 TB/s, 790 TFLOP/s (bf16)",
             xlabel="FLOPs a byte", ylabel="TFLOP/s")
    handles = {handle.get_label(): handle for handle in axes.get_legend_handles_labels()[0]}
    if handles:
        axes.legend(handles=list(handles.values()), fontsize=8, frameon=False, loc="upper left")
    _finish(axes)


def _floors(axes: Axes, rows: Sequence[TimeRow], kernels: Sequence[str]) -> None:
    for row in rows:
        if row.contender != OURS and not row.median_us:
            continue
        colour, marker = _style(kernels, row.kernel)
        place = kernels.index(row.kernel)
        if row.contender == OURS:
            axes.plot(row.floor_us, place, marker=marker, color=colour, fillstyle="none", linestyle="none",
                      markersize=6)
        if row.median_us:
            is_ours = row.contender == OURS
            axes.plot(row.median_us, place + (0.22 if is_ours else 0.42), marker=marker if is_ours else "|",
                      color=colour if is_ours else GREY, linestyle="none", markersize=6)
            if is_ours and row.clocks_disagree and row.flushed_us:
                axes.plot([row.median_us, row.flushed_us[0]], [place + 0.22] * 2, marker="x", markevery=[1],
                          color=colour, linestyle=":", linewidth=0.8, markersize=5)
    axes.set(xscale="log", xlabel="microseconds", title="Time, hollow: floor; filled: ours; grey: peers; x: launched "
             f"from\nPython, where the clocks differ over {CLOCKS_AGREE_WITHIN:g} times")
    axes.set_yticks(range(len(kernels)), kernels)
    axes.set_ylim(len(kernels) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.title.set_fontsize(10)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.tick_params(labelsize=8)
    axes.grid(True, which="major", linewidth=0.4, alpha=0.5)

