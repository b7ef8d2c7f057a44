"""The device an experiment runs on: which there are, when its work is done, and how much memory it took."""

import contextlib
from pathlib import Path

import torch


def best_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


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
