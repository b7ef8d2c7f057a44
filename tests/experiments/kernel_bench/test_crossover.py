"""Curves along an axis, where they cross, and the figure of them."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.kernel_bench import crossover as module
from quicksilver.experiments.kernel_bench.crossover import crossings, crossover, curves
from quicksilver.experiments.kernel_bench.host_rows import HostRow

from tests.experiments.drawing import series


def row(contender: str, size: int | None, us: float | None) -> HostRow:
    along = None if size is None else ("a shape", "rows", size)
    return HostRow("linear", f"a shape, rows={size}", contender, "measured", cold_us=us, along=along)


ROWS = [row("torch eager", 4, 5.0), row("torch eager", 1, 2.0), row("quicksilver", 1, 3.0), row("quicksilver", 4, 4.0),
        row("quicksilver", 16, None), row("quicksilver", None, 1.0)]


def test_curves_hold_what_was_timed_along_an_axis_ours_first_and_sizes_ascending() -> None:
    found = curves(ROWS)
    title = "linear: a shape, float32, by rows"
    assert found == {title: {"quicksilver": [(1, 3.0), (4, 4.0)], "torch eager": [(1, 2.0), (4, 5.0)]}}
    assert list(found[title]) == ["quicksilver", "torch eager"]


def test_a_crossing_is_the_first_size_at_which_the_other_is_ahead() -> None:
    ours = [(1, 3.0), (4, 4.0), (16, 5.0), (64, 9.0)]
    assert crossings(ours, [(1, 2.0), (4, 5.0), (16, 6.0), (64, 7.0)]) == [4, 64]
    assert crossings(ours, [(1, 2.0), (16, 4.0)]) == []
    assert crossings(ours, [(1, 2.0), (4, 4.1), (16, 5.1), (64, 12.0)]) == [64]  # noise between


def test_the_figure_has_a_panel_a_shape_and_marks_where_they_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(module.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    crossover(curves(ROWS), ["here"])
    panel, *others = figures[0].axes
    assert series(panel) == {"quicksilver": [(1, 3.0), (4, 4.0)], "torch eager": [(1, 2.0), (4, 5.0)]}
    assert [np.asarray(line.get_xdata())[0] for line in panel.get_lines() if line.get_linestyle() == ":"] == [4]
    assert not any(axes.axison for axes in others)
