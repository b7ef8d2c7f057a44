"""Nothing of a figure is cut off, however few tasks and however many lines it has."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from matplotlib.figure import Figure
from quicksilver.experiments import balance_figure, cache_error_figure, figures, joint_error_figure
from quicksilver.experiments.cache_error_rows import cache_rows
from quicksilver.experiments.joint_error_rows import joint_rows

from tests.experiments.handmade import cache_record, joint_record, step
from tests.experiments.test_analysis import training


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

    png = figures.png
    monkeypatch.setattr(module, "png", keep)
    draw(of(), ["here"])
    (legend,), bounds = drawn[0].legends, drawn[0].bbox
    shown = legend.get_window_extent()
    assert (bounds.x0 <= shown.x0, shown.x1 <= bounds.x1, shown.y1 <= bounds.y1 + 1) == (True, True, True)
