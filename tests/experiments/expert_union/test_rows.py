"""What a way to read fewer experts saves and loses is counted seed by seed, beside the usual decode."""

from typing import Any

import pytest
from quicksilver.experiments.expert_union.rows import Estimate, mitigation_rows, union_rows

from tests.experiments.handmade import PROVENANCE

RECIPE = {"precision": "bfloat16", "shape": {"experts": {"num_experts": 8}}, "balancing": {"kind": "AuxiliaryLoss"}}
DECODER = {"cache": {"kind": "Dual"}}


def record(mitigation: str, seed: int, right: str, read: float, rule: str = "FewerWhereSure") -> dict[str, Any]:
    point = {"kind": "MitigationPoint", "name": "sudoku4", "decoder": DECODER, "usual": DECODER, "rule": {"kind": rule},
             "mitigation": mitigation, "batch_size": 1, "threads": 1,
             "model": {"seed": seed, "recipe": RECIPE | {"objective": {"kind": "MaskedDiffusion"}}}}
    return {"point": point, "result": {"right": right, "bytes": read, "distinct": 5.0, "positions": 8.0,
                                       "tokens_per_step": 2.0, "seconds_ratio": 1.0, "num_items": len(right),
                                       "num_steps": 3 * len(right)},
            "provenance": PROVENANCE}


def usual(seed: int, right: str, read: float) -> dict[str, Any]:
    return record("own choice", seed, right, read, rule="OwnChoice")


def next_tokens(seed: int, read: float) -> dict[str, Any]:
    point = {"kind": "UnionPoint", "name": "sudoku4", "state": 1, "num_items": 4, "threads": 1,
             "model": {"seed": seed, "recipe": RECIPE | {"objective": {"kind": "AutoregressiveNLL"}}}}
    return {"point": point, "result": {"cells": [{"batch_size": 1, "num_unions": 40, "bytes": read}]},
            "provenance": PROVENANCE}


def test_savings_and_losses_are_of_the_same_seed() -> None:
    own, sure = mitigation_rows([record("sure", 0, "1100", 50), usual(1, "1111", 200), usual(0, "1110", 100),
                                 record("sure", 1, "1100", 150)])
    assert (own.mitigation, own.is_usual, own.bytes_saved, own.share_lost) == (
        "own choice", True, Estimate(0, 0), Estimate(0, 0))
    assert (sure.is_usual, sure.share, sure.num_items, sure.answer_bytes) == (False, 0.5, 8, None)
    assert sure.bytes_saved.mean == pytest.approx((0.5 + 0.25) / 2)
    assert sure.share_lost.mean == pytest.approx((0.25 + 0.5) / 2)
    assert sure.share_lost.half_width == pytest.approx(12.706 * 0.25 / 2)  # Student's t with one degree of freedom
    assert sure.share_lost.percent(1) == "37.5 ± 158.8"


def test_an_answer_is_all_its_steps_beside_all_of_autoregressions() -> None:
    own, sure = mitigation_rows([usual(0, "1110", 100), record("sure", 0, "1110", 50), next_tokens(0, 20.0)])
    # 3 steps an answer; autoregression 40 of 4 items.
    assert (own.answer_bytes, sure.answer_bytes) == (Estimate(3 * 100 / (10 * 20), None), Estimate(0.75, None))


def test_it_is_as_good_unless_more_is_lost_than_the_items_can_hide() -> None:
    many = "1" * 400
    rows = mitigation_rows([usual(0, many, 100), record("a little", 0, "0" * 3 + many[3:], 50),
                            record("much", 0, "0" * 40 + many[40:], 50)])
    assert [(row.mitigation, row.is_equal) for row in rows] == [("own choice", True), ("a little", True),
                                                               ("much", False)]
    assert [row.tolerance for row in rows] == pytest.approx([0.01, 0.0109, 0.0301], abs=1e-4)


def test_a_seed_of_which_the_usual_decode_failed_is_left_out() -> None:
    failed = usual(1, "", 0) | {"result": {"failed": "out of memory"}}
    own, sure = mitigation_rows([usual(0, "1110", 100), failed, record("sure", 0, "1100", 50),
                                 record("sure", 1, "0000", 50)])
    assert (own.num_items, sure.num_items) == (4, 4)
    assert sure.share_lost == Estimate(0.25, None)
    assert mitigation_rows([failed, record("sure", 1, "0000", 50)]) == []


@pytest.mark.parametrize(("estimate", "text"), [(Estimate(0.125, None), "12.5"), (Estimate(0.125, 0.01), "12.5 ± 1.0")])
def test_a_share_is_written_in_percent(estimate: Estimate, text: str) -> None:
    assert estimate.percent(1) == text


def test_two_precisions_are_refused() -> None:
    other = usual(1, "1111", 200)
    other["point"]["model"]["recipe"] = RECIPE | {"precision": "float32"}
    for rows in (union_rows, mitigation_rows):
        with pytest.raises(ValueError, match="must be of one"):
            rows([usual(0, "1110", 100), other])
