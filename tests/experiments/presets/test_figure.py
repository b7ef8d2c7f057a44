"""The figure of presets: a line each, a panel a task, from records written by hand."""

import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.presets import figure as module
from quicksilver.experiments.presets.figure import decoders
from quicksilver.experiments.presets.rows import decoder_tables
from quicksilver.experiments.study.rows import rows

from tests.experiments.drawing import keep_figures, series, written
from tests.experiments.study.test_rows import record, reference

EQUAL, WORSE = "fastest setting at equal quality", "no setting is as good: the best one"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, module)


def test_a_preset_is_marked_at_its_fastest_setting_that_is_as_good_else_at_its_best(drawn: list[Figure]) -> None:
    (table,) = decoder_tables(rows([
        reference(0.9), reference(0.8, task="lines"),
        record("diffusion", 0.5, 8.0, order="llada", steps=1), record("diffusion", 0.91, 4.0, order="llada", steps=2),
        record("diffusion", 0.6, 3.0, order="klass", steps=None),
        record("diffusion", 0.8, 0.5, order="llada", steps=1, task="lines")]))
    decoders(table, ["here"])
    lines, sums = drawn[0].axes
    assert lines.get_title() == "lines, batch 1\n(autoregression 80 % right)"
    assert sums.get_title() == "sums, batch 1\n(autoregression 90 % right)"
    assert [label.get_text() for label in lines.get_yticklabels()] == ["klass", "llada"]
    found = series(sums)
    assert (found[EQUAL], found[WORSE]) == ([(4, 1)], [(3, 0)])
    assert written(sums) == ["91", "60"]
    found = series(lines)
    assert (found[EQUAL], found[WORSE]) == ([(0.5, 1)], [])  # klass was not measured there
    assert {number for number, _ in found["autoregression's speed"]} == {1}
    assert (sums.get_xlabel(), sums.get_xscale()) == ("speed-up; at the right: % right", "log")


def test_the_first_preset_is_on_top(drawn: list[Figure]) -> None:
    (table,) = decoder_tables(rows([reference(0.9), *(record("diffusion", 0.9, 1.0, order=name) for name in "ab")]))
    decoders(table, ["here"])
    bottom, top = drawn[0].axes[0].get_ylim()
    assert top < 0 < 1 < bottom
