"""The figure of caches: error by step and by layer, from records written by hand."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.cache_error import figure as module
from quicksilver.experiments.cache_error.figure import FEW_POSITIONS, cache_error
from quicksilver.experiments.cache_error.rows import cache_rows

from tests.experiments.drawing import keep_figures, marks, series
from tests.experiments.handmade import cache_record, step

EXACT = step(0, 0, kl=[0.0, 0.0], flips=[0, 0], num_eligible=40)
WRONG = step(0, 1, kl=[0.2, 0.8], flips=[0, 2], num_eligible=40)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, module)


def draw(*records: dict[str, Any]) -> None:
    cache_error(cache_rows(records), ["here"])


def test_a_task_is_a_column_of_kl_and_flips_by_step_and_kl_by_layer(drawn: list[Figure]) -> None:
    draw(*(record for task in "ab" for record in (
        cache_record("recompute", [EXACT, EXACT | {"index": 1}], task=task),
        cache_record("dual", [EXACT, WRONG], task=task))))
    kl, other, flips, _, layers, _ = drawn[0].axes
    assert [axes.get_title() for axes in (kl, other)] == ["a\n2 steps a window", "b\n2 steps a window"]
    assert series(kl) == {"recompute (zero line)": [(1, 0), (2, 0)], "dual": [(1, 0), (2, pytest.approx(0.02))]}
    assert series(flips)["dual"] == [(1, 0), (2, pytest.approx(5))]
    assert series(layers)["dual"] == [(1, pytest.approx(0.0025)), (2, pytest.approx(0.01))]
    assert (kl.get_xlabel(), layers.get_xlabel()) == ("step of the decode", "layer (the last is the answer)")
    assert [axes.get_ylabel() for axes in (kl, flips, layers)] == [
        "mean KL(exact || cached), nats", "argmax flips, % of eligible positions", "mean KL over all steps, nats"]


def test_marks_behind_which_there_are_few_positions_are_hollow(drawn: list[Figure]) -> None:
    few = step(0, 1, kl=[0.0, 0.1], flips=[0, 1], num_eligible=FEW_POSITIONS - 1)
    draw(cache_record("dual", [EXACT, few]))
    kl, flips, layers = drawn[0].axes
    for axes in (kl, flips):
        (hollow,) = (line for line in axes.get_lines() if line.get_markerfacecolor() == "white")
        assert [number for number, _ in marks(hollow)] == [2]
    assert not [line for line in layers.get_lines() if line.get_markerfacecolor() == "white"]


def test_a_line_stands_where_the_next_window_is_entered(drawn: list[Figure]) -> None:
    draw(cache_record("dual", [EXACT, WRONG, EXACT | {"window": 1}, WRONG | {"window": 1}]))
    kl, flips, layers = drawn[0].axes
    dotted = [[number for line in axes.get_lines() if line.get_linestyle() == ":" for number, _ in marks(line)]
              for axes in (kl, flips, layers)]
    assert dotted == [[2.5, 2.5], [2.5, 2.5], []]


def test_a_cache_without_a_style_of_its_own_is_drawn_by_its_name(drawn: list[Figure]) -> None:
    draw(cache_record("mine", [EXACT, WRONG]))
    assert series(drawn[0].axes[0]).keys() == {"mine"}
