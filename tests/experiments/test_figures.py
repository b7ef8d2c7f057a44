import ast
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from quicksilver.experiments import figures

FOLDER = Path(figures.__file__).parent
TRAINING = {"point": {"name": "a_task", "recipe": {"objective": {"kind": "MaskedDiffusion"}, "shape": {}}},
            "result": {"curve": [{"seconds": 1.0, "right": 0.5}, {"seconds": 2.0, "right": 0.75}]}}


def test_a_users_style_of_matplotlib_changes_no_figure_and_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = figures.learning_curves([TRAINING], ["a machine"])
    theirs: dict[Any, Any] = {"text.usetex": True, "font.size": 30.0, "axes.facecolor": "black", "lines.linewidth": 9.0}
    for name, value in theirs.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    assert figures.learning_curves([TRAINING], ["a machine"]) == plain
    assert {name: matplotlib.rcParams[name] for name in theirs} == theirs


def test_whatever_makes_a_figure_draws_in_its_own_style() -> None:
    makers = [(path.name, function) for path in sorted(FOLDER.glob("*.py"))
              for function in ast.walk(ast.parse(path.read_text())) if isinstance(function, ast.FunctionDef)
              and any(isinstance(call, ast.Call) and ast.unparse(call.func) == "Figure" for call in ast.walk(function))]
    assert len(makers) >= 8
    assert not [(name, function.name) for name, function in makers
                if "own_style()" not in map(ast.unparse, function.decorator_list)]
