"""The provenance of a peer's code: repository, commit and files of a checkout, or name and version of a package."""

import hashlib
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ..harness.records import Json


def of_package(name: str) -> Json:
    return {"package": name, "version": version(name)}


def of_checkout(checkout: Path, home: str, files: Sequence[str]) -> Json:
    """The `files` that a checkout of `home` has, with content hashes; its commit, and whether they differ from it
    ("none" and None if it is not a git checkout)."""
    held = [file for file in files if (checkout / file).is_file()]
    is_git = (checkout / ".git").exists()
    return {"repository": home, "commit": _git(checkout, "rev-parse", "HEAD") if is_git else "none",
            "dirty": bool(_git(checkout, "status", "--porcelain", "--", *held)) if is_git else None,
            "files": {file: hashlib.sha256((checkout / file).read_bytes()).hexdigest()[:16] for file in held}}


def _git(checkout: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True,
                          check=True).stdout.strip()
