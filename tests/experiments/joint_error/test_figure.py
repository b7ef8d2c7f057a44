"""The figure of parallel commits: what they lose and what becomes of the answers, from records written by hand."""

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from quicksilver.experiments.joint_error import figure as module
from quicksilver.experiments.joint_error.figure import joint_error
from quicksilver.experiments.joint_error.rows import joint_rows

from tests.experiments.drawing import keep_figures, series
from tests.experiments.handmade import joint_record


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, module)


def test_a_task_is_a_column_of_nats_and_of_right_answers_against_steps(drawn: list[Figure]) -> None:
    joint_error(joint_rows([made for task in "ab" for made in (
        joint_record(4, "1111", task=task), joint_record(1, "1000", bound=2.0, gap=-0.5, wrong_gap=9.0, task=task))]),
        ["here"])
    nats, other, quality, _ = drawn[0].axes
    assert (nats.get_title(), other.get_title()) == ("a", "b")
    assert series(nats) == {
        "zero: nothing lost": [(0, 0), (1, 0)],  # across the whole panel
        "bound: sum of entropies - largest": [(1, 2), (4, 0)],
        "gap: log product - log joint": [(1, (3 * 9 - 0.5) / 4), (4, 0)],
        "gap of the wrong answers alone": [(1, 9)]}  # none where all are right
    assert series(quality) == {"right answers (95 % interval)": [(1, 25), (4, 100)]}
    assert (nats.get_ylabel(), quality.get_ylabel()) == ("nats an item, sum over its commits", "right answers, %")
    assert (quality.get_xlabel(), quality.get_xscale(), nats.get_yscale()) == ("steps a window", "log", "symlog")


def test_the_interval_stands_around_the_share_and_ends_at_all_right(drawn: list[Figure]) -> None:
    joint_error(joint_rows([joint_record(1, "1" * 20), joint_record(2, "10" * 10)]), ["here"])
    (bars,) = drawn[0].axes[1].containers
    assert isinstance(bars, ErrorbarContainer)
    (segments,) = bars.lines[2]
    (all_low, all_high), (half_low, half_high) = np.array(segments.get_segments())[..., 1]
    assert 80 < all_low < all_high == 100
    assert half_low == pytest.approx(100 - half_high)
    assert 25 < half_low < 50
