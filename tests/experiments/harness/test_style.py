"""What all figures share: nothing is cut off, however few tasks and however many lines there are; the user's style
changes none; sources stand below."""

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.cache_error import figure as cache_error_figure
from quicksilver.experiments.cache_error.rows import cache_rows
from quicksilver.experiments.harness import style
from quicksilver.experiments.harness.style import png
from quicksilver.experiments.joint_error import figure as joint_error_figure
from quicksilver.experiments.joint_error.rows import joint_rows
from quicksilver.experiments.report import balance_figure
from quicksilver.experiments.report import learning_curves as figures

from tests.experiments.handmade import cache_record, joint_record, step
from tests.experiments.study.test_rows import training


def trainings() -> list[dict[str, Any]]:
    """Of one task: every family with and without experts, balanced in every way."""
    made = []
    for objective in ("AutoregressiveNLL", "MaskedDiffusion", "BlockDiffusion"):
        for experts, kind in ((None, "Unbalanced"), ({}, "Unbalanced"), ({}, "AuxiliaryLoss"), ({}, "LossFree")):
            record = training(objective=objective)
            record["point"]["recipe"] |= {"balancing": {"kind": kind}, "shape": {"experts": experts}}
            record["result"]["violations"] = [1.0, 0.5]
            made.append(record)
    return made


def caches() -> list[Any]:
    names = ("recompute", "append", "block_causal", "block_causal_apart", "prefix", "dual", "vicinity", "delayed")
    return cache_rows([cache_record(name, [step(0, 0, kl=[0.1, 0.2], flips=[0, 1])]) for name in names])


@pytest.mark.parametrize(("module", "draw", "of"), [
    (figures, figures.learning_curves, trainings), (balance_figure, balance_figure.balance, trainings),
    (cache_error_figure, cache_error_figure.cache_error, caches),
    (joint_error_figure, joint_error_figure.joint_error, lambda: joint_rows([joint_record(2, "10", wrong_gap=1.0)]))],
    ids=["learning curves", "balance", "cache error", "joint error"])
def test_a_legend_is_no_wider_than_its_figure(module: Any, draw: Callable[..., bytes], of: Callable[[], Sequence[Any]],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure, sources: Sequence[str], legend_columns: int | None) -> bytes:
        drawn.append(figure)
        return png(figure, sources, legend_columns)

    monkeypatch.setattr(module, "png", keep)
    draw(of(), ["here"])
    (legend,), bounds = drawn[0].legends, drawn[0].bbox
    shown = legend.get_window_extent()
    assert (bounds.x0 <= shown.x0, shown.x1 <= bounds.x1, shown.y1 <= bounds.y1 + 1) == (True, True, True)


def test_a_users_style_of_matplotlib_changes_no_figure_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = figures.learning_curves(trainings(), ["a machine"])
    theirs: dict[Any, Any] = {"text.usetex": True, "font.size": 30.0, "axes.facecolor": "black", "lines.linewidth": 9.0}
    for name, value in theirs.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    assert figures.learning_curves(trainings(), ["a machine"]) == plain
    assert {name: matplotlib.rcParams[name] for name in theirs} == theirs


def test_whatever_makes_a_figure_draws_in_its_own_style() -> None:
    makers = [(path.name, function) for path in sorted(Path(figures.__file__).parents[1].rglob("*.py"))
              for function in ast.walk(ast.parse(path.read_text())) if isinstance(function, ast.FunctionDef)
              and any(isinstance(call, ast.Call) and ast.unparse(call.func) == "Figure" for call in ast.walk(function))]
    assert len(makers) >= 8
    assert not [(name, function.name) for name, function in makers
                if "own_style()" not in map(ast.unparse, function.decorator_list)]


def test_sources_stand_below_and_a_mixture_is_said_in_another_colour() -> None:
    alone, mixed = Figure(), Figure()
    for figure, sources in ((alone, ["cpu; commit a"]), (mixed, ["cpu; commit a", "gpu; commit b"])):
        assert png(figure, sources, None).startswith(b"\x89PNG")
    (one,), (several,) = alone.texts, mixed.texts
    assert one.get_text() == "cpu; commit a"
    assert several.get_text() == "MIXED SOURCES, times must not be compared:\ncpu; commit a\ngpu; commit b"
    assert one.get_color() != several.get_color() == style.VERMILION


def test_panels_that_show_the_same_series_share_one_entry_of_the_legend() -> None:
    figure = Figure(layout="constrained")
    for axes in figure.subplots(1, 2):
        axes.plot([1], [1], label="ours")
        axes.plot([2], [2])
    png(figure, ["here"], 2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["ours"]
