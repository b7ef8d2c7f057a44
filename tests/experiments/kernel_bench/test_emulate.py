"""Compiled programs, executed: right as they are, and found out where a fault is planted."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.harness.worker import CallFailed, Worker
from quicksilver.experiments.kernel_bench.compile import compiler_environment
from quicksilver.experiments.kernel_bench.emulate import EMULATED, emulated
from quicksilver.kernels.project_and_store import ProjectAndStoreCase
from quicksilver.kernels.rms_norm import AddRMSNormCase
from quicksilver.kernels.token_statistics import TokenStatisticsCase

from .planted_faults import WEAKER_COPY_WAIT, WEAKER_PRODUCT_WAIT, CopyCase, emulated_with
from .planted_kernels import ProductCase

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
PRODUCT = ProductCase(64, 256)
FOUND_OUT = re.compile("Fault: .*(shared race|that nobody wrote|a product under way)")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(compiler_environment(str(ROOT), tmp_path_factory.mktemp("triton"))) as worker:
        yield worker


def is_right(found: dict[str, Any]) -> bool:
    return found["error"] is not None and found["error"] <= found["tolerance"] and found["integers_differ"] == 0


@pytest.mark.parametrize("target", EMULATED)
@pytest.mark.parametrize("case", [PRODUCT, ProductCase(16, 256), CopyCase(100), CopyCase(512, 16)], ids=str)
def test_what_is_right_passes_in_every_schedule(compiler: Worker, case: Any, target: str) -> None:
    for seed in range(3):
        assert is_right(compiler.ask(emulated, case, "bfloat16", target, seed))


@pytest.mark.parametrize("target", EMULATED)
def test_a_kernel_s_verdict_says_what_ran(compiler: Worker, target: str) -> None:
    found = compiler.ask(emulated, AddRMSNormCase(3, 40), "bfloat16", target, 0)
    assert found["passed"]
    assert found["ran"] == f"executed as compiled for {target}"
    assert found["kernels"] == {"add_rms_norm": "triton"}
    assert found["functions"]["_rms_norm_kernel"] > 100
    assert found["triton"]


@pytest.mark.parametrize(("target", "pattern", "replacement"), [
    ("sm_80", r"bar\.sync\s+0;", ""), ("sm_90", r"bar\.sync\s+0;", ""),
    ("sm_80", WEAKER_COPY_WAIT, "+1"), ("sm_90", WEAKER_COPY_WAIT, "+1"), ("sm_90", WEAKER_PRODUCT_WAIT, "+1")])
def test_a_missing_barrier_and_a_wait_that_is_too_weak_are_found(
        compiler: Worker, target: str, pattern: str, replacement: str) -> None:
    for seed in range(3):
        try:
            found = compiler.ask(emulated_with, PRODUCT, target, seed, pattern, replacement)
        except CallFailed as error:
            assert FOUND_OUT.search(str(error))  # noqa: PT017  a wrong result is as good
        else:
            assert not is_right(found)


@pytest.mark.parametrize("target", EMULATED)
@pytest.mark.parametrize(("case", "message"), [
    (CopyCase(100).wrong("off by one"), "outside of every tensor"),
    (CopyCase(100).wrong("missing"), "outside of every tensor"),
    (CopyCase(512, 3), "misaligned load of 16 bytes")], ids=str)
def test_a_wrong_bound_and_a_vector_out_of_line_are_found(
        compiler: Worker, case: Any, message: str, target: str) -> None:
    with pytest.raises(CallFailed, match=f"Fault.*{message}"):
        compiler.ask(emulated, case, "bfloat16", target, 0)


@pytest.mark.parametrize("target", EMULATED)
def test_all_threads_that_hold_a_partly_rotated_head_s_sum_of_squares_have_the_same(compiler: Worker, target: str
                                                                                   ) -> None:
    case = ProjectAndStoreCase(rows=2, fed=3, context=5, heads=4, kv_heads=2, width=24, rotated=8, qk_norm=True,
                               model_width=72)
    assert compiler.ask(emulated, case, "float32", target, 0)["passed"]


@pytest.mark.parametrize(("wanted", "temperature", "most"), [
    (("log_prob",), None, 3700), (("log_prob", "margin", "entropy"), None, 5400), (("log_prob",), 1.0, 8000)], ids=str)
def test_statistics_of_16_kb_are_few_instructions(compiler: Worker, wanted: Any, temperature: float | None, most: int
                                                  ) -> None:
    """Of warps, with what the merge does for a draw: two tiles of 8,192 logits."""
    case = TokenStatisticsCase(rows=1, vocab_size=2 * 8192, wanted=wanted, temperature=temperature)
    found = compiler.ask(emulated, case, "bfloat16", "sm_90", 0)
    assert found["passed"]
    assert 0 < found["functions"]["_tile_kernel"] <= 2 * most
    assert 0 < found["functions"]["_merge_kernel"] <= 1500


def test_statistics_drawn_by_compiled_programs_are_the_reference_s(compiler: Worker) -> None:
    case = TokenStatisticsCase(rows=2, vocab_size=300, wanted=("log_prob",), temperature=0.7)
    assert compiler.ask(emulated, case, "bfloat16", "sm_90", 1)["passed"]
