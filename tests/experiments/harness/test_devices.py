from types import SimpleNamespace

import pytest
import torch
from quicksilver.experiments.harness import devices
from quicksilver.experiments.harness.devices import _multiplies_bfloat16, fast_precision

ZEN5, ZEN3, GRAVITON3, GRAVITON2 = (
    "flags\t\t: fpu avx2 avx512f avx512_bf16\n", "flags\t\t: fpu avx2 fma\n",
    "Features\t: fp asimd sve bf16 i8mm\n", "Features\t: fp asimd\n")


@pytest.mark.parametrize(("cpuinfo", "capability", "onednn_limit", "fast"), [
    (ZEN5, "AVX512", "DEFAULT", True), (ZEN5, "AVX512", "AVX512_CORE_BF16", True),
    (ZEN5, "AVX2", "DEFAULT", False), (ZEN5, "AVX512", "avx2", False), (ZEN5, "AVX512", "AVX512_CORE", False),
    (ZEN3, "AVX2", "DEFAULT", False), (ZEN3, "AVX512", "DEFAULT", False),
    ("flags : avx512f amx_bf16 amx_tile\n", "AVX512", "DEFAULT", True),
    (GRAVITON3, "DEFAULT", "DEFAULT", True), (GRAVITON2, "DEFAULT", "DEFAULT", False),
    ("", "DEFAULT", "DEFAULT", False)])
def test_bfloat16_is_fast_where_the_processor_has_it_and_pytorch_may_use_it(
        cpuinfo: str, capability: str, onednn_limit: str, fast: bool) -> None:
    assert _multiplies_bfloat16(cpuinfo, capability, onednn_limit) is fast


@pytest.mark.parametrize(("capability", "limit", "precision"), [
    ("AVX512", "DEFAULT", "bfloat16"), ("AVX2", "DEFAULT", "float32"), ("AVX512", "AVX2", "float32")])
def test_a_process_that_may_not_use_the_instructions_takes_float32(
        monkeypatch: pytest.MonkeyPatch, capability: str, limit: str, precision: str) -> None:
    """On a processor that has them; PyTorch says what ATEN_CPU_CAPABILITY leaves it, as test_provenance.py sees."""
    monkeypatch.setattr(devices, "Path", lambda path: SimpleNamespace(read_text=lambda: ZEN5))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert fast_precision("cpu") == precision


@pytest.mark.parametrize(("fast", "allowed"), [
    ("bfloat16", ["float32", "bfloat16", "int4", "int8"]), ("float32", ["float32", "int4", "int8"])])
def test_a_dtype_without_instructions_is_refused(fast: str, allowed: list[str], monkeypatch: pytest.MonkeyPatch
                                                 ) -> None:
    monkeypatch.setattr(devices, "fast_precision", lambda device: fast)
    for dtype in allowed:
        devices.check_dtype(dtype, "cpu")
    for dtype in {"bfloat16", "float16", "fast"} - set(allowed):
        with pytest.raises(ValueError, match=f"dtype='{dtype}': must be one of {', '.join(allowed)} on this cpu"):
            devices.check_dtype(dtype, "cpu")
    with pytest.raises(ValueError, match="dtype='int4': must be one of float32.* on this cuda"):
        devices.check_dtype("int4", "cuda")


def test_this_processor_has_a_fast_precision() -> None:
    assert fast_precision("cpu") in ("bfloat16", "float32")
