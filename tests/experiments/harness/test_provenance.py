"""A record says where it comes from, however the package came to be importable."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from quicksilver.experiments.harness import provenance as module
from quicksilver.experiments.harness.provenance import provenance

ROOT = Path(__file__).resolve().parents[3]


def test_the_versions_are_those_of_the_packages_that_run() -> None:
    versions = dict(provenance()["versions"])
    assert versions.pop("python") == platform.python_version()
    assert versions.pop("quicksilver")
    assert versions == {name: metadata.version(name) for name in ("torch", "triton", "numpy")}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_an_edited_source_makes_the_commit_dirty_and_the_hash_another(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, text=True, capture_output=True,
                              check=True).stdout.strip()

    source = tmp_path / "kernels" / "x.py"
    source.parent.mkdir()
    source.write_text("x = 1\n")
    for arguments in (("init",), ("add", "."), ("commit", "--message", "first")):
        git(*arguments)
    monkeypatch.setattr(module, "_SOURCE", tmp_path)
    clean = provenance.__wrapped__()
    assert (clean["commit"], clean["dirty"]) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "notes").write_text("no source\n")
    assert provenance.__wrapped__() == clean
    source.write_text("x = 2\n")
    edited = provenance.__wrapped__()
    assert (edited["commit"], edited["dirty"]) == (clean["commit"], True)
    assert edited["source_hash"] != clean["source_hash"]
    shutil.rmtree(tmp_path / ".git")
    exported = provenance.__wrapped__()
    assert (exported["commit"], exported["dirty"], exported["source_hash"]) == ("none", None, edited["source_hash"])


@pytest.mark.slow
def test_a_package_that_was_linked_and_never_installed_has_its_checkout_s_version(tmp_path: Path) -> None:
    package = tmp_path / "site" / "quicksilver"
    package.mkdir(parents=True)
    for folder in ("kernels", "models", "decoders", "experiments", "conf"):
        (package / folder).symlink_to(ROOT / folder)
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "from importlib import metadata\n\n\ndef refuse(name):\n    raise metadata.PackageNotFoundError(name)\n\n\n"
        "metadata.distribution = refuse\n")
    program = ("import json; from quicksilver.experiments.harness.provenance import provenance; "
    "print(json.dumps(provenance()))")
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, text=True, capture_output=True, check=True,
                           env={**os.environ, "PYTHONPATH": str(tmp_path / "site")})
    assert json.loads(found.stdout) == provenance()
    assert provenance()["versions"]["quicksilver"] == tomllib.loads(
        (ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_without_metadata_and_checkout_the_version_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", refuse)
    monkeypatch.setattr(module, "_SOURCE", tmp_path)
    assert module._own_version() == "unknown"


def test_no_type_or_kernel_is_stated_of_a_process_that_measured_nothing() -> None:
    assert not provenance().keys() & {"dtype", "kernels", "gpu", "device"}


def test_a_machine_without_a_gpu_takes_the_tiles_that_ship() -> None:
    assert torch.cuda.is_available() or provenance()["tiles"] == "defaults"


def test_what_was_set_of_the_processor_and_of_waiting_threads_is_seen() -> None:
    code = ("import json; from quicksilver.experiments.harness.provenance import provenance; "
    "print(json.dumps(provenance()))")
    settings = {"GOMP_SPINCOUNT": "7", "ATEN_CPU_CAPABILITY": "default"}
    finished = subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True,
                              text=True, check=True)
    found = json.loads(finished.stdout)["torch"]
    assert found["cpu_capability"] == "DEFAULT"
    assert found["environment"].items() >= settings.items()
