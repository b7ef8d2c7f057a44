"""The figure of balance: of which records, and one panel a task."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.report import balance_figure
from quicksilver.experiments.report.balance_figure import balance, is_mixture

from tests.experiments.handmade import PROVENANCE


def record(task: str, violations: list[float], balancing: str = "AuxiliaryLoss") -> dict[str, Any]:
    recipe = {"objective": {"kind": "MaskedDiffusion"}, "balancing": {"kind": balancing}, "precision": "bfloat16",
              "threads": 1}
    return {"point": {"name": task, "recipe": recipe}, "result": {"violations": violations}, "provenance": PROVENANCE}


def test_it_is_drawn_of_mixtures_alone() -> None:
    assert is_mixture(record("sums", [1.0]))
    assert not is_mixture(record("sums", []))
    assert not is_mixture({"result": {"losses": [1.0]}})  # recorded before there were mixtures


def test_each_task_has_a_panel_of_running_means(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure, sources: list[str], legend_columns: int) -> bytes:
        drawn.append(figure)
        return b"png"

    monkeypatch.setattr(balance_figure, "png", keep)
    records = [record("sums", [1.0] * 10 + [0.0] * 30), record("sums", [0.5] * 3, "Unbalanced"), record("other", [2.0])]
    assert balance(records, ["here"]) == b"png"
    sums, other = drawn[0].axes
    assert (sums.get_title(), other.get_title()) == ("sums", "other")
    long, short = sums.get_lines()
    xy = np.column_stack((long.get_xdata(), long.get_ydata()))
    assert xy[[0, -1]].tolist() == [[20, 50.0], [40, 0.0]]
    assert list(np.ravel(short.get_ydata())) == [50.0]
    assert short.get_label() == "masked diffusion, unbalanced"
