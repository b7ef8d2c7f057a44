"""The device an experiment runs on: which there are, when its work is done, and how much memory it took."""

import contextlib
import os
import re
from pathlib import Path

import torch

_ONEDNN_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
"""Limits of oneDNN's instructions below which it has none for products of bfloat16."""


def best_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_precision(device: str) -> str:
    """The precision in which the device multiplies fast, bfloat16 or float32: decided by its instructions, and on a CPU
    by what PyTorch and oneDNN are allowed of them (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA)."""
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = _multiplies_bfloat16(Path("/proc/cpuinfo").read_text(), torch.backends.cpu.get_cpu_capability(),
                                    os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT"))
    return "bfloat16" if fast else "float32"


def _multiplies_bfloat16(cpuinfo: str, capability: str, onednn_limit: str) -> bool:
    """Whether products of bfloat16 run in instructions of their own: `cpuinfo` is Linux's, `capability` PyTorch's."""
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    if "bf16" in flags:  # ARM
        return True
    limited = onednn_limit.upper() in _ONEDNN_WITHOUT_BFLOAT16
    return bool(flags & {"avx512_bf16", "amx_bf16"}) and capability == "AVX512" and not limited


def check_device(device: str) -> None:
    """ValueError where this machine has no such device."""
    allowed = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if device not in allowed:
        raise ValueError(f"device={device!r}: must be one of {', '.join(allowed)} on this machine")


def device_name(device: torch.device | str) -> str:
    """The GPU's name, or "cpu"."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that was asked of it, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Count peak memory anew; on a CPU Linux must allow that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(PermissionError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int:
    """On a GPU the most bytes that tensors took since the reset; on a CPU this process's peak resident memory, both
    models and PyTorch itself included, since the reset (since its start where Linux did not allow that)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
