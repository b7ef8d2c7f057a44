"""The figure of an axis: each implementation's time at every size, and the size from which another is the faster."""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from matplotlib.figure import Figure

from ..harness.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, own_style
from .rows import OURS

_PEERS = (ORANGE, GREEN, PURPLE, VERMILION, SKY, GREY)
_COLUMNS, _DOTS_PER_INCH = 3, 130
_NOISE = 0.05  # share of a time

Curve = list[tuple[int, float]]


class Timed(Protocol):
    """A row of times, on any device."""

    @property
    def kernel(self) -> str: ...
    @property
    def contender(self) -> str: ...
    @property
    def median_us(self) -> float | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def along(self) -> tuple[str, str, int] | None: ...


def curves(rows: Iterable[Timed]) -> dict[str, dict[str, Curve]]:
    """By kernel, shape, type and axis, then by implementation, ours first: (size, median microseconds), sizes
    ascending. Rows that lie along no axis, or have no time, have no part."""
    found: dict[str, dict[str, Curve]] = {}
    for row in rows:
        if row.along is not None and row.median_us is not None:
            shape, axis, size = row.along
            by_name = found.setdefault(f"{row.kernel}: {shape}, {row.dtype}, by {axis}", {})
            by_name.setdefault(row.contender, []).append((size, row.median_us))
    return {title: {name: sorted(lines[name]) for name in sorted(lines, key=lambda name: (name != OURS, name))}
            for title, lines in found.items()}


def crossings(ours: Curve, other: Curve) -> list[int]:
    """The sizes from which on the other order holds, of those at which both were timed and differ beyond noise."""
    times = dict(other)
    faster = [(size, value < times[size]) for size, value in ours
              if size in times and abs(value - times[size]) > _NOISE * max(value, times[size])]
    return [size for (_, before), (size, after) in pairwise(faster) if before != after]


@own_style()
def crossover(lines: Mapping[str, Mapping[str, Curve]], sources: Sequence[str]) -> bytes:
    """A PNG with a panel a shape; a thin line stands where ours and a peer change places."""
    num_rows = -(-len(lines) // _COLUMNS)
    figure = Figure(figsize=(11.5, 3.2 * num_rows + 0.6), layout="constrained")
    panels = figure.subplots(num_rows, _COLUMNS, squeeze=False).flatten()
    for axes, (title, by_name) in zip(panels, lines.items(), strict=False):
        for number, (name, curve) in enumerate(by_name.items()):
            colour = BLUE if name == OURS else _PEERS[(number - 1) % len(_PEERS)]
            axes.plot(*zip(*curve, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.3, label=name)
            for size in crossings(by_name.get(OURS, []), curve) if name != OURS else ():
                axes.axvline(size, color=colour, linewidth=0.7, linestyle=":")
        axes.set(xscale="log", yscale="log", ylabel="microseconds")
        axes.set_title("\n".join(textwrap.wrap(title, 46)), fontsize=8.5)
        axes.tick_params(labelsize=7.5)
        axes.grid(True, which="major", linewidth=0.4, alpha=0.5)
        axes.legend(fontsize=7.5, frameon=False)
    for axes in panels[len(lines) :]:
        axes.set_axis_off()
    text = "\n".join(part for line in sources for part in textwrap.wrap(line, 190))
    figure.supxlabel(text, fontsize=6.5, color="#555555")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()
