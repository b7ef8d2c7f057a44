"""What a way to read fewer experts saves and loses is counted seed by seed, beside the usual decode."""

from typing import Any

import pytest
from quicksilver.experiments.expert_union_rows import Estimate, mitigation_rows


def record(mitigation: str, seed: int, right: str, read: float) -> dict[str, Any]:
    return {"point": {"name": "sudoku4", "decoder": {"cache": {"kind": "Dual"}}, "mitigation": mitigation,
                      "model": {"seed": seed}},
            "result": {"right": right, "bytes": read, "distinct": 5.0, "positions": 8.0, "tokens_per_step": 2.0,
                       "seconds_ratio": 1.0}}


def test_savings_and_losses_are_of_the_same_seed() -> None:
    rows = mitigation_rows([record("sure", 0, "1100", 50), record("own choice", 1, "1111", 200),
                            record("own choice", 0, "1110", 100), record("sure", 1, "1100", 150)])
    usual, sure = rows
    assert (usual.mitigation, usual.bytes_saved, usual.share_lost) == ("own choice", Estimate(0, 0), Estimate(0, 0))
    assert (sure.share, sure.num_items) == (0.5, 8)
    assert sure.bytes_saved.mean == pytest.approx((0.5 + 0.25) / 2)
    assert sure.share_lost.mean == pytest.approx((0.25 + 0.5) / 2)
    assert sure.share_lost.half_width == pytest.approx(12.706 * 0.25 / 2)  # Student's t with one degree of freedom
    assert sure.share_lost.percent(1) == "37.5 ± 158.8"


def test_a_seed_of_which_the_usual_decode_failed_is_left_out() -> None:
    failed = record("own choice", 1, "", 0) | {"result": {"failed": "out of memory"}}
    usual, sure = mitigation_rows([record("own choice", 0, "1110", 100), failed, record("sure", 0, "1100", 50),
                                   record("sure", 1, "0000", 50)])
    assert (usual.num_items, sure.num_items) == (4, 4)
    assert sure.share_lost == Estimate(0.25, None)
    assert mitigation_rows([failed, record("sure", 1, "0000", 50)]) == []


@pytest.mark.parametrize(("estimate", "text"), [(Estimate(0.125, None), "12.5"), (Estimate(0.125, 0.01), "12.5 ± 1.0")])
def test_a_share_is_written_in_percent(estimate: Estimate, text: str) -> None:
    assert estimate.percent(1) == text
