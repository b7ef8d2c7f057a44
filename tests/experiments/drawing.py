"""What is on a figure: keeps those that a module draws, and reads their series."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


def keep_figures(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[Figure]:
    """The figures that `module` draws from now on; none is written."""
    drawn: list[Figure] = []

    def keep(figure: Figure, sources: Sequence[str], legend_columns: int | None) -> bytes:
        drawn.append(figure)
        return b"png"

    monkeypatch.setattr(module, "png", keep)
    return drawn


def series(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The marks of each label of the legend."""
    found: dict[str, list[tuple[float, float]]] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
        assert isinstance(line, Line2D)
        found.setdefault(label, []).extend(marks(line))
    return found


def marks(line: Line2D) -> list[tuple[float, float]]:
    x, y = (np.ravel(np.asarray(values, dtype=float)).tolist() for values in (line.get_xdata(), line.get_ydata()))
    return list(zip(x, y, strict=True))


def written(axes: Axes) -> list[str]:
    """The words beside the marks."""
    return [text.get_text() for text in axes.texts]
