"""A planted violation of each hard limit is named; occupancy is that of the cards' own arithmetic."""

from typing import Any

import pytest
from quicksilver.experiments.kernel_bench.limits import TARGETS, missing_tensor_core, occupancy, violations

GOOD = {"target": "sm_90", "spill_bytes": 0, "stack_bytes": 0, "shared_bytes": 65_536, "tensor_memory_columns": 0,
        "num_stores": 1, "needs_wide_loads": True, "wide_loads": True, "narrow_loads": [], "needs_hgmma": [],
        "tensor_core": {}}


def test_a_configuration_within_every_limit_may_ship() -> None:
    assert violations(GOOD) == []
    assert violations(GOOD | {"shared_bytes": 232_448}) == []
    assert violations(GOOD | {"needs_wide_loads": False, "wide_loads": False}) == []
    assert violations(GOOD | {"wide_loads": None}) == []
    assert violations(GOOD | {"target": "sm_80", "spill_bytes": 96, "stack_bytes": 72}) == []


@pytest.mark.parametrize(("planted", "words"), [
    ({"spill_bytes": 8}, "spills 8 bytes"),
    ({"stack_bytes": 16}, "stack frame of 16 bytes"),
    ({"target": "sm_80", "stack_bytes": 136}, "stack frame of 136 bytes"),
    ({"shared_bytes": 232_449}, "232,449 bytes of shared memory, more than the card's 232,448"),
    ({"target": "sm_80", "shared_bytes": 166_913}, "more than the card's 166,912"),
    ({"target": "gfx942", "shared_bytes": 65_537}, "more than the card's 65,536"),
    ({"target": "sm_100", "tensor_memory_columns": 640}, "640 columns of tensor memory"),
    ({"target": "sm_100", "num_stores": 0}, "writes nothing: the compiler has emptied it"),
    ({"wide_loads": False, "narrow_loads": ["x.py:7 LDG.E.U16 x4"]}, "less than 128 bits: x.py:7 LDG.E.U16 x4"),
], ids=str)
def test_each_limit_is_hard(planted: dict[str, Any], words: str) -> None:
    (found,) = violations(GOOD | planted)
    assert words in found


def test_a_shape_needs_hgmma_in_one_of_its_programs() -> None:
    partial = GOOD | {"needs_hgmma": ["8k"], "tensor_core": {"HMMA": 8}}
    merge = GOOD | {"needs_hgmma": ["8k"]}
    assert missing_tensor_core([partial, merge]) == ["8k: no program of it uses HGMMA"]
    assert missing_tensor_core([partial | {"tensor_core": {"HGMMA": 8}}, merge]) == []
    assert missing_tensor_core([GOOD]) == []


@pytest.mark.parametrize(("target", "num_warps", "registers", "shared", "waves", "blocks", "share"), [
    ("sm_90", 4, 32, 0, None, 16, 1.0),           # 64 warps: 2048 threads of 32 registers are all there are
    ("sm_90", 8, 255, 1024, None, 1, 0.125),      # 8 warps of 8,192 registers fill the file of 65,536
    ("sm_90", 4, 64, 113 * 1024, None, 2, 0.125),  # 228 KiB hold two blocks of 113 KiB and their reserve of 1 KiB,
    ("sm_90", 4, 64, 114 * 1024, None, 1, 0.0625),  # and one of 114
    ("sm_90", 1, 32, 0, None, 32, 0.5),           # 32 blocks at most
    ("sm_80", 4, 128, 80 * 1024, None, 2, 0.125),
    ("gfx942", 4, 128, 0, 4, 4, 0.5),
], ids=str)
def test_occupancy_by_hand(target: str, num_warps: int, registers: int, shared: int, waves: int | None, blocks: int,
                           share: float) -> None:
    assert occupancy(TARGETS[target], num_warps, registers, shared, waves) == {"blocks": blocks, "occupancy": share}
