"""A record says where it comes from, however the package came to be importable."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from quicksilver.experiments.harness import provenance as module
from quicksilver.experiments.harness.cores import available_cores
from quicksilver.experiments.harness.provenance import provenance

ROOT = Path(__file__).resolve().parents[3]


def test_provenance_names_commit_machine_and_versions() -> None:
    found = provenance()
    assert found["commit"] == "none" or len(found["commit"]) == 40
    assert len(found["source_hash"]) == 16
    assert found["machine"]["cores"] == available_cores() >= 1
    assert found["machine"]["cpu"]
    assert found["versions"].keys() >= {"python", "torch", "numpy", "triton", "quicksilver"}
    assert found["torch"]["build"] == (f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu")
    assert found["torch"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert (found["machine"]["gpu"] is not None) == torch.cuda.is_available()


def test_a_package_that_was_linked_and_never_installed_has_its_checkout_s_version(tmp_path: Path) -> None:
    package = tmp_path / "site" / "quicksilver"
    package.mkdir(parents=True)
    for folder in ("kernels", "models", "decoders", "experiments", "conf"):
        (package / folder).symlink_to(ROOT / folder)
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "from importlib import metadata\n\n\ndef refuse(name):\n    raise metadata.PackageNotFoundError(name)\n\n\n"
        "metadata.distribution = refuse\n")
    program = "import json; from quicksilver.experiments.harness.provenance import provenance; print(json.dumps(provenance()))"
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


def test_what_was_set_of_the_processor_and_of_waiting_threads_is_seen() -> None:
    code = "import json; from quicksilver.experiments.harness.provenance import provenance; print(json.dumps(provenance()))"
    settings = {"GOMP_SPINCOUNT": "7", "ATEN_CPU_CAPABILITY": "default"}
    finished = subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True,
                              text=True, check=True)
    found = json.loads(finished.stdout)["torch"]
    assert found["cpu_capability"] == "DEFAULT"
    assert found["environment"].items() >= settings.items()
