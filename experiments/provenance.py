"""Where a result comes from: commit, machine, versions."""

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

from .cores import available_cores
from .records import Json

_SOURCE = Path(__file__).resolve().parents[1]


@cache
def provenance() -> Json:
    """Facts of this process that hold for all its records. `commit` is "none" outside a git checkout, where
    `source_hash` still tells one state of the code from another."""
    commit = _git("rev-parse", "HEAD")
    sources = [str(_SOURCE / folder) for folder in ("kernels", "models", "decoders", "experiments", "conf")]
    return {
        "commit": commit or "none",
        "dirty": bool(_git("status", "--porcelain", "--", *sources)) if commit else None,
        "source_hash": _source_hash(),
        "machine": machine(),
        "gpu": _gpu(),
        "dtype": "float32",
        "versions": {"python": platform.python_version(), "quicksilver": _own_version(), "torch": torch.__version__,
                     "triton": triton.__version__, "numpy": np.__version__},
    }


@cache
def machine() -> Json:
    return {"cpu": _cpu_name(), "cores": available_cores(), "memory_gib": _memory_gib(), "system": platform.platform()}


def _own_version() -> str:
    """This package's version: as installed; where it was never installed, as its checkout says; else "unknown"."""
    try:
        return metadata.version("quicksilver")
    except metadata.PackageNotFoundError:
        project = _SOURCE / "pyproject.toml"
        return tomllib.loads(project.read_text())["project"]["version"] if project.exists() else "unknown"


def _gpu() -> Json | None:
    """The GPU that is there, used or not."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30),
            "num_multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda or "none"}


def _git(*arguments: str) -> str:
    """Output of a git command in the checkout that holds this file; empty where there is none."""
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
