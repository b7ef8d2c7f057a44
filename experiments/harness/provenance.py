"""Provenance of a result: commit, machine, versions."""

import hashlib
import os
import platform
import shutil
import subprocess
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import triton

from ...kernels import tile_table
from ...kernels.autocast import float32_precision
from .cores import available_cores
from .records import Json

_SOURCE = Path(__file__).resolve().parents[2]
# Environment variables that change speed, such as how long waiting threads spin.
_CHANGES_SPEED = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "KMP_BLOCKTIME", "ATEN_CPU_CAPABILITY",
                  "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "CUDA_LAUNCH_BLOCKING", "TRITON_INTERPRET")


@cache
def provenance() -> Json:
    """The provenance of all records of this process. `commit` is "none" outside a git checkout; `source_hash`
    identifies the code there too, and `tiles` this GPU's table of tiles by name and hash, "defaults" without one."""
    commit = _git("rev-parse", "HEAD")
    sources = [str(_SOURCE / folder) for folder in ("kernels", "models", "decoders", "experiments", "conf")]
    return {
        "commit": commit or "none",
        "dirty": bool(_git("status", "--porcelain", "--", *sources)) if commit else None,
        "source_hash": _source_hash(),
        "machine": machine(),
        "torch": _torch(),
        "tiles": tile_table.in_force(),
        "versions": {"python": platform.python_version(), "quicksilver": _own_version(), "torch": torch.__version__,
                     "triton": triton.__version__, "numpy": np.__version__},
    }


def provenance_on(device: str) -> Json:
    """The provenance of a benchmark row on a device ("none" if nothing ran). The row itself names what ran."""
    return provenance() | {"device": device}


@cache
def machine() -> Json:
    """The hardware and system of this machine, whether used or not."""
    return {"cpu": _cpu_name(), "cores": available_cores(), "memory_gib": _memory_gib(),
            "system": platform.platform(), "gpu": _gpu()}


def _torch() -> Json:
    """PyTorch's configuration in this process: build, CPU capability, precision of float32 products, and the
    environment variables that change its speed."""
    build = f"cuda {torch.version.cuda}" if torch.version.cuda else f"hip {torch.version.hip}"
    return {"build": build if torch.version.cuda or torch.version.hip else "cpu",
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "float32_precision": float32_precision(),
            "environment": {name: os.environ[name] for name in _CHANGES_SPEED if name in os.environ}}


def _own_version() -> str:
    """This package's version: as installed, else from the checkout's pyproject.toml, else "unknown"."""
    try:
        return metadata.version("quicksilver")
    except metadata.PackageNotFoundError:
        project = _SOURCE / "pyproject.toml"
        return tomllib.loads(project.read_text())["project"]["version"] if project.exists() else "unknown"


def _gpu() -> Json | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30),
            "num_multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda or "none"}


def _git(*arguments: str) -> str:
    """The output of a git command in this file's checkout; empty if there is no checkout or no git."""
    if not (_SOURCE / ".git").exists() or shutil.which("git") is None:
        return ""
    return subprocess.run(["git", "-C", str(_SOURCE), *arguments], capture_output=True, text=True).stdout.strip()


def _source_hash() -> str:
    digest = hashlib.sha256()
    for folder in ("kernels", "models", "decoders", "experiments"):
        for path in sorted((_SOURCE / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
