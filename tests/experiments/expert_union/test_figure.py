"""The figure of sparse activation: three panels a task, from records written by hand."""

import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.expert_union import figure as module
from quicksilver.experiments.expert_union.figure import expert_union
from quicksilver.experiments.expert_union.rows import mitigation_rows, union_rows

from tests.experiments.drawing import keep_figures, series, written
from tests.experiments.expert_union.handmade import cell, union, unions
from tests.experiments.expert_union.test_rows import next_tokens, record, usual


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, module)


def test_the_first_panel_shows_the_share_of_the_experts_that_a_step_touches(drawn: list[Figure]) -> None:
    expert_union(union_rows(unions()), [], "softmax", ["here"])
    touched = drawn[0].axes[0]
    assert series(touched) == {
        "trained, batch 1": [(1, 0.25), (4, 0.75)], "uniform choices at the same batch": [],
        "untrained, batch 1": [(1, 0.25), (4, 0.5)], "autoregressive, batch 1": [(1, 0.25)]}
    assert "(softmax)" in touched.get_title()
    assert (touched.get_xlabel(), touched.get_ylabel()) == ("step width: positions fed a row",
                                                            "experts that a forward touches, of all")


def test_the_second_shows_the_tokens_to_break_even_by_bytes_and_by_time_with_experts_and_without(
        drawn: list[Figure]) -> None:
    expert_union(union_rows(unions()), [], "softmax", ["here"])
    even = drawn[0].axes[1]
    assert series(even) == {
        "dense, batch 1: by bytes": [(1, 1), (4, 1.2)], "dense, batch 1: by time on this machine": [(1, 1), (4, 2)],
        "experts, batch 1: by bytes": [(1, 1), (4, 3)], "experts, batch 1: by time on this machine": [(1, 1), (4, 1.5)],
        "as many as its positions": [(1, 1), (4, 4)]}
    assert even.get_ylabel() == "tokens a forward must yield"


def test_another_router_has_a_line_of_its_own_in_the_first_panel_alone(drawn: list[Figure]) -> None:
    other = [union("sigmoid", [cell(1, [2, 2], 20), cell(4, [8, 8], 80)]),
             union("sigmoid", [cell(1, [2, 2], 20)], objective="AutoregressiveNLL")]
    expert_union(union_rows([*unions(), *other]), [], "softmax", ["here"])
    touched, even, _ = drawn[0].axes
    assert series(touched)["sigmoid, batch 1"] == [(1, 0.25), (4, 1)]
    assert not [label for label in series(even) if "sigmoid" in label]


def test_the_third_names_what_wins_it_back_and_names_together_what_lies_together(drawn: list[Figure]) -> None:
    mitigations = mitigation_rows([usual(0, "1110", 100), record("sure", 0, "1100", 50), record("twin", 0, "1100", 50),
                                   next_tokens(0, 20.0)])
    expert_union(union_rows(unions()), mitigations, "softmax", ["here"])
    won = drawn[0].axes[2]
    assert series(won) == {"dual cache, usual": [(1.5, 75)], "dual cache, changed": [(0.75, 50), (0.75, 50)],
                           "as many as autoregression": [(1, 0), (1, 1)]}
    assert sorted(written(won)) == ["own choice", "sure\ntwin"]
    assert won.get_xlabel() == "bytes an answer reads, times autoregression's"


def test_what_cannot_be_set_beside_autoregression_has_no_mark(drawn: list[Figure]) -> None:
    expert_union(union_rows(unions()), mitigation_rows([usual(0, "1110", 100)]), "softmax", ["here"])
    assert series(drawn[0].axes[2]).keys() == {"as many as autoregression"}
