"""The device of an experiment: selection, synchronization and peak memory."""

import contextlib
import os
import re
from pathlib import Path

import torch

from ...models.quantization import FORMATS

_ONEDNN_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Values of ONEDNN_MAX_CPU_ISA under which oneDNN has no bfloat16 instructions for matrix products."""


def best_device() -> str:
    """The GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_precision(device: str) -> str:
    """bfloat16 if the device has instructions for its products, else float32. On a CPU, PyTorch and oneDNN must also be
    allowed to use them (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA)."""
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = _multiplies_bfloat16(Path("/proc/cpuinfo").read_text(), torch.backends.cpu.get_cpu_capability(),
                                    os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT"))
    return "bfloat16" if fast else "float32"


def _multiplies_bfloat16(cpuinfo: str, capability: str, onednn_limit: str) -> bool:
    """Whether bfloat16 products use native instructions. `cpuinfo` is the text of /proc/cpuinfo, `capability` PyTorch's
    CPU capability."""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    if "bf16" in flags:  # ARM
        return True
    limited = onednn_limit.upper() in _ONEDNN_WITHOUT_BFLOAT16
    return bool(flags & {"avx512_bf16", "amx_bf16"}) and capability == "AVX512" and not limited


def check_device(device: str) -> None:
    """ValueError if this machine has no such device."""
    allowed = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if device not in allowed:
        raise ValueError(f"device={device!r}: must be one of {', '.join(allowed)} on this machine")


def check_dtype(dtype: str, device: str) -> None:
    """ValueError unless the device multiplies weights of this dtype in instructions of its own, or, a CPU, in so few
    bits (models/quantization.py)."""
    allowed = ("float32", "bfloat16") if fast_precision(device) == "bfloat16" else ("float32",)
    if device == "cpu":
        allowed += tuple(FORMATS)
    if dtype not in allowed:
        raise ValueError(f"dtype={dtype!r}: must be one of {', '.join(allowed)} on this {device}")


def device_name(device: torch.device | str) -> str:
    """The GPU's name, or "cpu"."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def wait_for(device: torch.device) -> None:
    """Synchronize: return when all work queued on the device is done. Called before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak memory counter; on a CPU only if Linux permits it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(PermissionError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """On a GPU the peak of bytes allocated to tensors since the reset. On a CPU the peak resident memory of this
    process, both models and PyTorch included, since the reset (since its start if Linux did not permit a reset)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
