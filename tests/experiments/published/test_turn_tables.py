"""Ratios of rounds in turns, and the tables of a record."""

import math
from typing import Any

import pytest
from quicksilver.experiments.published.engines import (
    Engine,
    LlamaCppEngine,
    OwnEngine,
    ProductsEngine,
    TransformersEngine,
)
from quicksilver.experiments.published.turn_tables import MEASURES, engines_table, ratios, ratios_table
from rich.console import Console
from rich.table import Table

OWN, OWN_BF16 = OwnEngine("float32", "graph"), OwnEngine("bfloat16", "compile")
ENGINES: list[Engine] = [OWN, OWN_BF16, TransformersEngine("float32"), TransformersEngine("bfloat16"), LlamaCppEngine(),
                         ProductsEngine("float32")]


def turn(seconds: float, tokens: list[int] | None) -> dict[str, Any]:
    return {"took": dict.fromkeys(MEASURES, seconds), "tokens": tokens, "own_bytes": 3_000_000}


def found() -> dict[str, Any]:
    """Two rounds; in the second all take twice as long, but for llama.cpp, which takes eight times as long."""
    turns: dict[Engine, Any] = {engine: [turn(0.01 * (place + 1), [place]), turn(0.02 * (place + 1), [7])]
                                for place, engine in enumerate(ENGINES)}
    turns[LlamaCppEngine()][1] = turn(0.4, [7])
    for a_turn in turns[ProductsEngine("float32")]:
        a_turn["tokens"] = None
    turns[OWN][0]["tokens"] = [2]  # transformers' in float32
    return {"engines": {engine.name: {"rounds": turns[engine], "start_peak_bytes": 5_000_000} for engine in ENGINES},
            "prompt_ids": [[1], [2]], "ratios": [ratio.to_json() for ratio in ratios(turns)]}


def text(table: Table) -> str:
    console = Console(width=250)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_ratio_is_the_mean_over_rounds_of_theirs_over_ours_with_its_interval() -> None:
    by_pair = {(ratio["ours"], ratio["theirs"]): ratio for ratio in found()["ratios"] if ratio["measure"] == "token"}
    exact = by_pair[OWN.name, "transformers, float32"]
    assert [exact[name] for name in ("ratio", "low", "high")] == pytest.approx([3.0] * 3)
    varied = by_pair[OWN.name, LlamaCppEngine().name]
    logs = [math.log(5), math.log(20)]
    half = 12.706 * (logs[1] - logs[0]) / 2**0.5 / 2**0.5  # Student's t of one degree of freedom
    assert varied["ratio"] == pytest.approx(10.0)
    assert [math.log(varied[name]) for name in ("low", "high")] == pytest.approx(
        [math.log(10) - half, math.log(10) + half])


def test_ours_is_compared_with_the_same_dtype_of_others_and_with_llama_cpp() -> None:
    pairs = {(ratio["ours"], ratio["theirs"]) for ratio in found()["ratios"]}
    assert pairs == {(OWN.name, "transformers, float32"), (OWN.name, "F.linear alone, float32"),
                     (OWN.name, LlamaCppEngine().name), (OWN_BF16.name, "transformers, bfloat16"),
                     (OWN_BF16.name, LlamaCppEngine().name)}


def test_the_table_has_medians_memory_and_who_answers_as_transformers() -> None:
    measured = found()
    measured["engines"]["llama.cpp, the file's own types"] = {"failed": "llama_cpp is not installed"}
    lines = {cells[0].strip(): [cell.strip() for cell in cells[1:]] for line in text(engines_table(measured, 32)
                                                                                       ).splitlines()
             if len(cells := line.strip("\u2502").split("\u2502")) > 1}
    assert lines[OWN.name][:6] == ["66.7", "15.00", "15.0", "15.0", "5", "2 of 2"]
    assert lines[OWN_BF16.name][5] == "1 of 2"
    assert lines["F.linear alone, float32"][5] == ""
    assert lines["llama.cpp, the file's own types"][0] == "llama_cpp is not installed"


def test_the_table_of_ratios_has_a_line_for_each_pair() -> None:
    said = text(ratios_table(found(), 32))
    assert "3.00 (3.00 to 3.00)" in said
    assert len([line for line in said.splitlines() if line.startswith("\u2502")]) == 5
