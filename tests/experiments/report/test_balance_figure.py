"""The figure of balance: of which records, and one panel a task."""

from typing import Any

import numpy as np
import pytest
from quicksilver.experiments.report import balance_figure
from quicksilver.experiments.report.balance_figure import balance, is_mixture

from tests.experiments.drawing import keep_figures
from tests.experiments.handmade import PROVENANCE
from tests.experiments.study.test_rows import training


def record(task: str, violations: list[float], balancing: str = "AuxiliaryLoss") -> dict[str, Any]:
    recipe = {"objective": {"kind": "MaskedDiffusion"}, "balancing": {"kind": balancing}, "precision": "bfloat16",
              "threads": 1}
    return {"point": {"name": task, "recipe": recipe}, "result": {"violations": violations}, "provenance": PROVENANCE}


def test_it_is_drawn_of_mixtures_alone() -> None:
    assert is_mixture(record("sums", [1.0]))
    assert not is_mixture(record("sums", []))
    assert not is_mixture({"result": {"losses": [1.0]}})  # recorded before there were mixtures


def test_each_task_has_a_panel_of_running_means(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = keep_figures(monkeypatch, balance_figure)
    records = [record("sums", [1.0] * 10 + [0.0] * 30), record("sums", [0.5] * 3, "Unbalanced"), record("other", [2.0])]
    balance(records, ["here"])
    sums, other = drawn[0].axes
    assert (sums.get_title(), other.get_title()) == ("sums", "other")
    long, short = sums.get_lines()
    xy = np.column_stack((long.get_xdata(), long.get_ydata()))
    assert xy[[0, -1]].tolist() == [[20, 50.0], [40, 0.0]]
    assert list(np.ravel(short.get_ydata())) == [50.0]
    assert short.get_label() == "masked diffusion, unbalanced"


def test_one_figure_never_mixes_precisions() -> None:
    with pytest.raises(ValueError, match="models trained in bfloat16; cpu, 1 thread and of models trained in float32"):
        balance([training(), training(precision="float32")], ["here"])
