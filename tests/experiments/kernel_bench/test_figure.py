"""The roofline, from records written by hand."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.kernel_bench import figure as module
from quicksilver.experiments.kernel_bench.figure import roofline
from quicksilver.experiments.kernel_bench.rows import NO_GPU, time_rows

from tests.experiments.drawing import marks, series

from .test_rows import CASE, TIME

NO_PRODUCTS = CASE | {"kernel": "norm", "num_flops": 0, "floor_us": 10.0}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(module.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def times(figure: Figure) -> list[tuple[float, float]]:
    return [mark for line in figure.axes[1].get_lines() for mark in marks(line)]


def test_a_kernel_with_products_stands_at_its_intensity_under_the_roof_and_at_its_floor(drawn: list[Figure]) -> None:
    roofline(time_rows([CASE, NO_PRODUCTS], [TIME], None), ["here"], None)
    roof, _ = drawn[0].axes
    intensity = 79 / 430
    assert series(roof) == {"head, floor": [(intensity, pytest.approx(79e6 / 100 / 1e6))],
                            "head, measured": [(intensity, pytest.approx(79e6 / 125 / 1e6))]}
    assert (roof.get_xlabel(), roof.get_ylabel()) == ("FLOPs a byte", "TFLOP/s")
    limit = dict(marks(roof.get_lines()[0]))
    assert max(limit.values()) == 790
    assert limit[min(limit)] == pytest.approx(min(limit) * 4.3)


def test_every_kernel_has_a_line_of_floor_time_and_peers_beside_it(drawn: list[Figure]) -> None:
    peer: dict[str, Any] = TIME | {"contender": "torch eager", "cold_us": [500.0, 490.0, 510.0]}
    roofline(time_rows([CASE, NO_PRODUCTS], [TIME, peer], None), ["here"], None)
    _, beside = drawn[0].axes
    assert [label.get_text() for label in beside.get_yticklabels()] == ["head", "norm"]
    assert sorted(times(drawn[0])) == [(10, 1), (100, 0), (125, 0.22), (500, 0.42)]
    assert beside.get_xlabel() == "microseconds"


def test_launches_are_drawn_where_the_clocks_disagree_and_only_there(drawn: list[Figure]) -> None:
    small = TIME | {"kernel": "norm", "cold_us": [20.0] * 3, "flushed_us": [60.0] * 3}
    roofline(time_rows([CASE, NO_PRODUCTS], [TIME, small], None), ["here"], None)
    (line,) = (line for line in drawn[0].axes[1].get_lines() if line.get_marker() == "x")
    assert marks(line) == [(20, 1.22), (60, 1.22)]
    assert "x: launched" in drawn[0].axes[1].get_title()
    assert "1.25 times" in drawn[0].axes[1].get_title()


def test_without_times_there_are_floors_alone_and_the_figure_says_so(drawn: list[Figure]) -> None:
    roofline(time_rows([CASE], [], NO_GPU), ["a machine"], NO_GPU)
    assert times(drawn[0]) == [(100, 0)]
    assert [text.get_text() for text in drawn[0].texts] == ["Floors only; times not measured: no GPU here", "a machine"]
