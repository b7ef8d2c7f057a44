"""The style of all figures: PNGs with one legend and their sources below. The palette of Okabe and Ito (2008) is safe
for colour-blind readers; markers differ as well."""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLACK, BLUE, ORANGE, VERMILION, GREEN, PURPLE, SKY, GREY = (
    "#000000", "#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#888888")
MARKS = {"autoregressive": (BLACK, "*"), "masked diffusion": (BLUE, "o"), "block diffusion": (PURPLE, "v")}
"""Colour and marker of each family."""
OTHER_MARK = (SKY, "v")
LINES = ("-", "--", ":")
_DOTS_PER_INCH = 130


@contextmanager
def own_style() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever the user's style is."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def _legend(figure: Figure, most_columns: int) -> None:
    """Each label once, above the panels, in as many columns as fit the figure, at most `most_columns`."""
    handles = {handle.get_label(): handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]}
    for columns in range(most_columns, 0, -1):
        legend = figure.legend(handles=list(handles.values()), loc="outside upper center", ncols=columns, frameon=False,
                               fontsize=9)
        if legend.get_window_extent().width <= figure.bbox.width or columns == 1:
            return
        legend.remove()


def png(figure: Figure, sources: Sequence[str], legend_columns: int | None) -> bytes:
    """The figure as a PNG, with one legend of at most `legend_columns` columns (None: panels have their own) and its
    sources below, with a warning if there are several."""
    figure.set_dpi(_DOTS_PER_INCH)
    if legend_columns is not None:
        _legend(figure, legend_columns)
    mixed = len(sources) > 1
    lines = ("MIXED SOURCES, times must not be compared:", *sources) if mixed else sources
    characters = int(17 * figure.get_figwidth())
    text = "\n".join(part for line in lines for part in textwrap.wrap(line, characters))
    figure.supxlabel(text, fontsize=6.5, color=VERMILION if mixed else "#555555")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # draws once; savefig would lay out and draw twice
    return buffer.getvalue()
