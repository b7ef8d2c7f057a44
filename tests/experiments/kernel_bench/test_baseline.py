"""The guard fails on each planted regression, on what it has never seen, and on what is gone; an update accepts it."""

from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.kernel_bench.baseline import HOW_TO_UPDATE, Baseline, minor_version

RECORD = {"kernel": "head", "triton": "3.9.0", "target": "sm_90", "key": "abc", "label": "_head[bf16]",
          "registers": 100, "spill_bytes": 0, "stack_bytes": 0, "shared_bytes": 1024, "tensor_core": {"HGMMA": 8},
          "wide_loads": True, "narrow_loads": []}
EXISTING = {("head", "3.9.0"): {"sm_90 abc"}}


GUARDED = {("3.9.0", "sm_90", "abc")}


@pytest.fixture
def baseline(tmp_path: Path) -> Baseline:
    accepted = Baseline(tmp_path)
    assert accepted.update([RECORD], EXISTING) == [tmp_path / "head-triton3.9.json"]
    return accepted


@pytest.mark.parametrize("same", [
    {}, {"registers": 110}, {"registers": 60}, {"tensor_core": {"HGMMA": 4, "HMMA": 2}}, {"shared_bytes": 9999},
    {"triton": "3.9.1"}], ids=str)
def test_what_is_not_worse_passes(baseline: Baseline, same: dict[str, Any]) -> None:
    record = RECORD | same
    existing = {("head", record["triton"]): {"sm_90 abc"}}
    assert baseline.regressions([record], existing, GUARDED | {(record["triton"], "sm_90", record["key"])}) == []


@pytest.mark.parametrize(("planted", "words"), [
    ({"spill_bytes": 4}, "spills 4 bytes, 0 before"),
    ({"registers": 111}, "takes 111 registers, 100 before"),
    ({"tensor_core": {"HMMA": 16}}, "lost HGMMA"),
    ({"tensor_core": {}}, "lost HGMMA"),
    ({"wide_loads": False, "narrow_loads": ["x.py:3 LDG.E.U16 x8"]}, "lost its 128-bit loads: x.py:3 LDG.E.U16 x8"),
    ({"wide_loads": None}, "lost its 128-bit loads"),
    ({"key": "new"}, "has no baseline"),
    ({"triton": "3.6.0"}, "has no baseline"),
], ids=str)
def test_each_regression_fails(baseline: Baseline, planted: dict[str, Any], words: str) -> None:
    record = RECORD | planted
    existing = {("head", record["triton"]): {"sm_90 abc", f"sm_90 {record['key']}"}}
    (found,) = baseline.regressions([record], existing, GUARDED | {(record["triton"], "sm_90", record["key"])})
    assert found.startswith(f"head, Triton {record['triton'][:3]}, sm_90: _head[bf16] ")
    assert words in found


def test_a_program_that_is_gone_fails_and_an_update_forgets_it(baseline: Baseline) -> None:
    existing = {("head", "3.9.0"): {"sm_90 new"}}
    (found,) = baseline.regressions([], existing, GUARDED)
    assert found == "head, Triton 3.9: _head[bf16] (sm_90 abc) is in the baseline and no longer compiled"
    baseline.update([RECORD | {"key": "new"}], existing)
    assert baseline.read("head", "3.9.0").keys() == {"sm_90 new"}


def test_what_exists_and_was_not_compiled_is_kept(baseline: Baseline) -> None:
    existing = {("head", "3.9.0"): {"sm_90 abc", "sm_90 new"}}
    baseline.update([RECORD | {"key": "new"}], existing)
    assert baseline.read("head", "3.9.0").keys() == {"sm_90 abc", "sm_90 new"}
    assert baseline.regressions([RECORD], existing, GUARDED) == []
    other_target = {("head", "3.9.0"): {"sm_80 xyz"}}  # this run says nothing of sm_90
    assert baseline.regressions([], other_target, GUARDED) == []
    baseline.update([], other_target)
    assert baseline.read("head", "3.9.0").keys() == {"sm_90 abc", "sm_90 new"}


def test_a_damaged_file_is_named(baseline: Baseline) -> None:
    baseline.path("head", "3.9.0").write_text("{")
    with pytest.raises(ValueError, match="head-triton3.9.json: a damaged baseline"):
        baseline.regressions([RECORD], EXISTING, GUARDED)


def test_a_version_is_its_first_two_numbers_and_the_way_to_update_is_said() -> None:
    assert minor_version("3.10.2+git1") == "3.10"
    with pytest.raises(ValueError, match="triton='nightly': must begin with two numbers"):
        minor_version("nightly")
    assert 'make kernels ARGS="kernel=NAME experiment.update_baseline=true"' in HOW_TO_UPDATE


def test_a_program_that_only_a_full_run_compiles_needs_no_baseline(baseline: Baseline) -> None:
    record = RECORD | {"key": "new"}
    existing = {("head", "3.9.0"): {"sm_90 abc", "sm_90 new"}}
    assert baseline.regressions([record], existing, GUARDED) == []
    assert baseline.regressions([record], existing, {("3.9.0", "sm_90", "new")})
    assert baseline.regressions([RECORD | {"spill_bytes": 4}], existing, set())  # an accepted one is guarded still
