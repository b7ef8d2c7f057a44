"""The figure of the frontier: series, marks and words, from records written by hand."""

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from quicksilver.experiments.frontier import figure as module
from quicksilver.experiments.frontier.figure import frontier
from quicksilver.experiments.study.rows import rows

from tests.experiments.drawing import keep_figures, series, written
from tests.experiments.study.test_rows import TEXT, record, reference


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, module)


def linestyles(axes: Axes) -> dict[str, object]:
    return {str(bars.get_label()): bars.lines[0].get_linestyle() for bars in axes.containers
            if isinstance(bars, ErrorbarContainer)}


def test_share_stands_against_speed_and_the_confident_orders_marks_say_their_steps(drawn: list[Figure]) -> None:
    frontier(rows([reference(0.9), record("diffusion", 0.2, 9.0, steps=1), record("diffusion", 1.0, 7.0, steps=4),
                   record("diffusion", 0.5, 3.0, order="random"), record("diffusion", 0.5, 2.0, batch_size=16)]),
             ["here"], 1)
    (axes,) = drawn[0].axes
    assert axes.get_title() == "sums, batch 1"
    assert series(axes) == {"autoregressive": [(1000, 90)], "confident (numbers: steps)": [(7000, 100), (9000, 20)],
                            "random": [(3000, 50)]}
    assert sorted(written(axes)) == ["1", "4"]
    assert (axes.get_xlabel(), axes.get_xscale()) == ("answer tokens per second", "log")
    assert axes.get_ylabel() == "right answers, % (95 % interval)"
    assert linestyles(axes)["autoregressive"] == "None"


def test_collapsed_text_is_a_series_that_no_line_joins(drawn: list[Figure]) -> None:
    frontier(rows([record("diffusion", 1.0, 2.0, text=TEXT),
                   record("diffusion", 0.4, 2.0, order="random", text=TEXT | {"unique": 0.98})]), ["here"], 1)
    (axes,) = drawn[0].axes
    assert series(axes) == {"collapsed": [(2000, 100)], "random": [(2000, 40)]}
    assert linestyles(axes) == {"collapsed": "None", "random": "-"}
    assert axes.get_ylabel() == "valid lines, %"


def test_another_sampler_is_another_series_with_its_own_line(drawn: list[Figure]) -> None:
    frontier(rows([record("diffusion", 0.5, 2.0, sampler=sampler) for sampler in ("greedy", "nucleus")]), ["here"], 1)
    assert len(set(linestyles(drawn[0].axes[0]).values())) == 2


def test_an_order_without_a_style_of_its_own_is_drawn_by_its_first_word(drawn: list[Figure]) -> None:
    frontier(rows([record("diffusion", 0.9, 2.0, order="mine at 0.5")]), ["here"], 1)
    assert series(drawn[0].axes[0]) == {"mine": [(2000, 90)]}


def test_three_tasks_leave_the_fourth_panel_empty(drawn: list[Figure]) -> None:
    frontier(rows([reference(0.9, task=task) for task in "abc"]), ["here"], 1)
    assert [(axes.get_title(), axes.get_visible()) for axes in drawn[0].axes] == [
        ("a, batch 1", True), ("b, batch 1", True), ("c, batch 1", True), ("", False)]
