"""Programs compiled here for GPUs that are not: of what they are specialised, and what they take."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.harness.worker import Worker
from quicksilver.experiments.kernel_bench.compile import compiled, compiler_environment, programs
from quicksilver.experiments.kernel_bench.limits import missing_tensor_core, violations
from quicksilver.kernels.rms_norm import AddRMSNormCase
from quicksilver.kernels.token_statistics import TokenStatisticsCase

from .planted_kernels import ProductCase

ROOT = Path(__file__).resolve().parents[3]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(compiler_environment(str(ROOT), tmp_path_factory.mktemp("triton"))) as worker:
        yield worker


def record(compiler: Worker, case: Any, target: str = "sm_90") -> dict[str, Any]:
    """The only program of a case, compiled."""
    (program,) = compiler.ask(programs, case, "bfloat16", target)
    needs_hgmma = ["shape"] if getattr(case, "needs_hgmma", False) else []
    return program | compiler.ask(compiled, case, "bfloat16", target, program["key"]) | {
        "target": target, "needs_hgmma": needs_hgmma}


def test_a_product_of_64_rows_uses_hgmma_and_128_bit_copies_in_its_loop(compiler: Worker) -> None:
    found = record(compiler, ProductCase(64, 256))
    assert found["tensor_core"].keys() == {"HGMMA"}
    assert found["loop_loads"].keys() == {"LDGSTS 128"}
    assert found["wide_loads"] is True
    assert found["needs_wide_loads"] is True
    assert (found["stack_bytes"], found["spill_bytes"], found["num_warps"]) == (0, 0, 4)
    assert 32 * 1024 <= found["shared_bytes"] <= 227 * 1024
    assert 32 < found["registers"] <= 255
    assert found["compile_seconds"] > 0
    assert violations(found) == []
    assert missing_tensor_core([found]) == []


def test_a_product_of_16_rows_has_lost_hgmma_and_one_without_alignment_its_wide_loads(compiler: Worker) -> None:
    found = record(compiler, ProductCase(16, 257))
    assert found["tensor_core"].keys() == {"HMMA"}
    assert missing_tensor_core([found]) == ["shape: no program of it uses HGMMA"]
    assert found["wide_loads"] is False
    assert any("planted_kernels.py" in name for name in found["narrow_loads"])
    (broken,) = violations(found)
    assert broken.startswith("loads its data in less than 128 bits: planted_kernels.py:")


def test_spills_and_a_stack_frame_are_seen_and_forbidden(compiler: Worker) -> None:
    found = record(compiler, AddRMSNormCase(1, 65536))
    assert found["spill_store_bytes"] > 0
    assert found["spill_load_bytes"] > 0
    assert found["stack_bytes"] > 0
    spill, stack = violations(found)
    assert spill.startswith("spills ")
    assert stack.startswith("has a stack frame")


def test_amd_registers_and_loads_are_read_from_its_assembly(compiler: Worker) -> None:
    found = record(compiler, AddRMSNormCase(32, 4096), "gfx942")
    assert found["loads"].keys() == {"buffer_load_dwordx4"}
    assert found["wide_loads"] is True
    assert 8 <= found["registers"] <= 128
    assert found["occupancy"] == 1.0
    assert found["num_stores"] > 0
    assert found["code_bytes"] > 100


def test_a_load_whose_default_is_no_zero_is_found_too(compiler: Worker) -> None:
    # Its inline assembly sets every register first, and LLVM counts a line on for each.
    (tiles, _) = compiler.ask(programs, TokenStatisticsCase(32, 126464), "float32", "sm_90")
    found = compiler.ask(compiled, TokenStatisticsCase(32, 126464), "float32", "sm_90", tiles["key"])
    assert found["loads"] == {"LDG 128": 8}
    assert found["wide_loads"] is True


def test_shapes_that_triton_specialises_alike_are_one_program_and_others_are_not(compiler: Worker) -> None:
    keys = {rows_and_width: [program["key"] for program in compiler.ask(
        programs, AddRMSNormCase(*rows_and_width), "bfloat16", "sm_90")]
        for rows_and_width in ((32, 4096), (64, 4096), (32, 4097))}
    assert keys[32, 4096] == keys[64, 4096]
    assert not set(keys[32, 4096]) & set(keys[32, 4097])  # a width of no multiple of 16
    ((half,), (single,)) = (compiler.ask(programs, AddRMSNormCase(32, 4096), dtype, "sm_90")
                            for dtype in ("bfloat16", "float32"))
    assert half["key"] != single["key"]
    assert (half["function"], half["source_hash"]) == (single["function"], single["source_hash"])
    assert half["label"].startswith(f"{half['function']}[bf16, ")


def test_a_compiler_finds_the_triton_of_its_folder_first_and_never_interprets(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "before")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    chosen = compiler_environment(str(tmp_path), tmp_path / "cache")
    assert chosen["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), "before"]
    assert (chosen["TRITON_INTERPRET"], chosen["TRITON_CACHE_DIR"]) == ("0", str(tmp_path / "cache"))
    assert compiler_environment(None, tmp_path)["PYTHONPATH"] == "before"
    monkeypatch.delenv("PYTHONPATH")
    assert "PYTHONPATH" not in compiler_environment(None, tmp_path)
