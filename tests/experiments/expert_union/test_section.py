"""What is said of sparse activation, from records written by hand."""

from typing import Any

import pytest
from quicksilver.experiments.expert_union import section as module
from quicksilver.experiments.expert_union.section import section
from rich.console import Console

from tests.experiments.expert_union.handmade import cell, union, unions
from tests.experiments.expert_union.test_rows import next_tokens, record, usual

MANY = "1" * 400


@pytest.fixture(autouse=True)
def routers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of which figures are drawn."""
    drawn: list[str] = []
    monkeypatch.setattr(module, "expert_union", lambda *of: drawn.append(of[2]) or b"png")
    return drawn


def findings(*records: dict[str, Any]) -> list[str]:
    return list(section(records, ["here"]).findings)


def test_what_the_widest_step_touches_and_reads_is_told_beside_uniform_choices() -> None:
    other = [union("sigmoid", [cell(4, [6, 7], 70)]),
             union("sigmoid", [cell(1, [2, 2], 20)], objective="AutoregressiveNLL")]
    assert findings(*unions(), *other) == [
        "sudoku4: of 8 experts a layer a step of 4 touches 6.5 with sigmoid and 6.0 with softmax (uniform choices: "
        "5.5), and reads 3.5 and 3.0 times the bytes of a next token."]


def test_the_mitigation_that_saves_most_at_equal_quality_is_named() -> None:
    (sentence,) = findings(usual(0, MANY, 100), record("a little", 0, MANY, 80),
                           record("more", 0, "0" + MANY[1:], 50), record("too much", 0, "0" * 40 + MANY[40:], 10))
    assert sentence == ("sudoku4: of what is as good as the usual decode, most is saved with the dual cache by 'more', "
                        "50 % of a step's bytes (99.8 % right, usually 100.0 %, equal within 1.0 points).")
    (sentence,) = findings(usual(0, "1111", 100), record("more", 0, "1111", 50), next_tokens(0, 20.0) | {
        "result": {"cells": [cell(1, [2, 2], 20.0)]}, "point": next_tokens(0, 20.0)["point"] | {"router": "softmax"}})
    assert "an answer reads 0.75 times what autoregression does, usually 1.50" in sentence


def test_where_nothing_is_saved_or_nothing_is_right_it_is_said() -> None:
    assert findings(usual(0, MANY, 100), record("worse", 0, "0" * 400, 10), record("larger", 0, MANY, 120)) == [
        "sudoku4: of what is as good as the usual decode, most is saved with the dual cache by nothing that was tried."]
    (sentence,) = findings(usual(0, "0" * 400, 100), record("more", 0, "0" * 400, 50))
    assert "0.0 % right is too little to lose any" in sentence


def test_the_figure_is_of_the_router_that_was_timed_and_there_is_none_without(routers: list[str]) -> None:
    assert section(unions(), ["here"]).images == {"expert_union.png": b"png"}
    assert routers == ["softmax"]
    assert section([made for made in unions() if made["point"]["state"] == 0], ["here"]).images == {}


def test_a_models_rows_stand_under_its_name() -> None:
    tables = section([*unions(), *unions(seed=1)], ["here"]).values["unions"]
    assert {name: [(row.width, row.num_seeds) for row in rows] for name, rows in tables.items()} == {
        "sudoku4, dense, autoregressive, after 100 % of the updates": [(1, 2)],
        "sudoku4, dense, masked diffusion, after 100 % of the updates": [(1, 2), (4, 2)],
        "sudoku4, softmax, autoregressive, after 0 % of the updates": [(1, 2)],
        "sudoku4, softmax, masked diffusion, after 0 % of the updates": [(1, 2), (4, 2)],
        "sudoku4, softmax, autoregressive, after 100 % of the updates": [(1, 2)],
        "sudoku4, softmax, masked diffusion, after 100 % of the updates": [(1, 2), (4, 2)]}


def test_the_terminal_shows_trained_models_alone_and_a_dash_for_what_they_do_not_have() -> None:
    wide = Console(width=200)
    with wide.capture() as said:
        wide.print(section(unions(), ["here"]).shown)
    lines = [line.split() for line in said.get().splitlines()]
    assert ["sudoku4", "softmax,", "masked", "diffusion", "4", "1", "6.0", "5.5", "3.00", "1.50"] in lines
    assert ["sudoku4", "dense,", "masked", "diffusion", "4", "1", "-", "-", "1.20", "2.00"] in lines
    assert len([line for line in lines if line[:1] == ["sudoku4"]]) == 6
